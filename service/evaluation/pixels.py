"""Pixel metrics of a stream of frames, in memory that does not grow with it.

Scores are counted in bins of a fixed width, so a curve over all pixels is a curve over a histogram; what is lost is
less than the width of a bin, `LARGEST / BINS` in distance.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from service.pipeline.boxes import CELL_PX, smoothed
from service.pipeline.resize import laid_over
from service.pipeline.types import FloatArray, Inspection, Mask

BINS = 1 << 14
LARGEST = 2.0
"""The largest distance between unit vectors."""

AUPRO_LIMIT = 0.3

Curve = npt.NDArray[np.float64]


class PixelStatistics:
    """Counts the scores of normal pixels, of anomalous pixels and of anomalous regions, frame by frame."""

    def __init__(self) -> None:
        self._normal = np.zeros(BINS, np.int64)
        self._anomalous = np.zeros(BINS, np.int64)
        self._overlap = np.zeros(BINS, np.float64)
        self.frames = 0
        self.regions = 0

    def add(self, scores: FloatArray, truth: Mask) -> None:
        """Count one frame.

        scores: (H, W) float32, 0..2, see `frame_scores`. truth: (H, W) bool, true on damage; all false for an OK frame.
        A region is a component of `truth`, neighbours across corners included.
        """
        bins = np.clip(scores * (BINS / LARGEST), 0, BINS - 1).astype(np.int32)
        self.frames += 1
        self._normal += np.bincount(bins[~truth], minlength=BINS)
        anomalous = bins[truth]
        self._anomalous += np.bincount(anomalous, minlength=BINS)
        count, labels = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
        self.regions += count - 1
        region = labels[truth]
        # each pixel weighs its share of its region, so that small damage counts as much as large
        self._overlap += np.bincount(anomalous, weights=1 / np.bincount(region)[region], minlength=BINS)

    def auroc(self) -> float | None:
        """Return the share of pairs of an anomalous and a normal pixel that the anomalous one wins; ties count half.

        None where there is no pair.
        """
        if not self._anomalous.any() or not self._normal.any():
            return None
        return _area(_rates(self._normal), _rates(self._anomalous))

    def aupro(self, limit: float = AUPRO_LIMIT) -> float | None:
        """Return the area under the per-region overlap up to the false-positive rate `limit`, over `limit`: 0..1.

        The overlap at a threshold is the share of a region's pixels that reach it, averaged over all regions; the
        false-positive rate is the share of all normal pixels, those of OK frames included, that reach it. None where
        there is no region or no normal pixel.

        Source: Bergmann et al., "Uninformed Students", arXiv 1911.02357, and "The MVTec Anomaly Detection Dataset",
        IJCV 2021, doi 10.1007/s11263-020-01400-4; limit 0.3 as there.
        """
        if not self.regions or not self._normal.any():
            return None
        false_positives, overlap = _rates(self._normal), _rates(self._overlap)
        inside = int(np.searchsorted(false_positives, limit, side="right"))
        if inside < len(false_positives):
            x, y = false_positives[inside - 1 : inside + 1], overlap[inside - 1 : inside + 1]
            at_limit = y[0] + (y[1] - y[0]) * (limit - x[0]) / (x[1] - x[0])
            false_positives = np.append(false_positives[:inside], limit)
            overlap = np.append(overlap[:inside], at_limit)
        return _area(false_positives, overlap) / limit


def frame_scores(inspection: Inspection, blur_sigma: float) -> FloatArray:
    """Return the map that boxes are taken from, over the full frame: (H, W) float32 distances, 0 outside the part.

    blur_sigma: in patches, as in the recipe of the boxes.
    """
    prepared, grid = inspection.prepared, inspection.anomaly_map
    smooth = smoothed(grid, grid > 0, CELL_PX, blur_sigma)
    return laid_over(smooth, prepared.normalized.square_xyxy, (prepared.frame.width, prepared.frame.height))


def _rates(histogram: npt.NDArray[np.int64] | Curve) -> Curve:
    """Return the share at or above each threshold, from none to all, as the threshold falls: (BINS + 1,)."""
    above = np.cumsum(histogram[::-1], dtype=np.float64)
    return np.concatenate([[0.0], above / above[-1]])


def _area(x: Curve, y: Curve) -> float:
    from sklearn.metrics import auc  # noqa: PLC0415 - it takes a second

    return float(auc(x, y))
