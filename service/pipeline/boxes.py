"""Damage boxes from the anomaly map."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from schemas.recipe import BoxRecipe
from service.pipeline.types import DamageBox, FloatArray, Mask, NormalizedRoi

CELL_PX = 4
"""Pixels of the working map for each patch: finer edges than a quarter of a patch would be invented."""

Labels = npt.NDArray[np.int32]


def find_boxes(
    anomaly_map: FloatArray,
    inside: Mask,
    normalized: NormalizedRoi,
    frame_wh: tuple[int, int],
    patch_tau: float,
    recipe: BoxRecipe,
) -> tuple[DamageBox, ...]:
    """Return where patches reach the threshold, largest score first.

    anomaly_map: (rows, cols) float32 patch scores; inside: (rows, cols) bool; frame_wh: size of the full frame, pixels;
    patch_tau: score that a patch must reach; a box needs one that does, and extends over the smoothed map down to
    `extent_ratio * patch_tau`, or to `peak_ratio` of its own highest place where that is more. Coordinates are whole
    pixels of the full frame, clipped to it, x2 and y2 exclusive.
    """
    seeds = inside & (anomaly_map >= patch_tau)
    if not seeds.any():
        return ()
    smooth = smoothed(anomaly_map, inside, CELL_PX, recipe.blur_sigma)
    region = (smooth >= recipe.extent_ratio * patch_tau) | _enlarged(seeds, CELL_PX)
    labels, count = _joined(region, gap_px=recipe.merge_gap_frac * max(smooth.shape))
    seed_rows, seed_columns = np.nonzero(seeds)
    peaks = np.full(count, -np.inf, np.float32)
    np.maximum.at(peaks, labels[seed_rows * CELL_PX, seed_columns * CELL_PX], anomaly_map[seeds])
    # around what stands out by far the embedder sees something, too: there the blob's own height says where it ends
    tops = np.zeros(count, np.float32)
    np.maximum.at(tops, labels[region], smooth[region])
    region &= smooth >= recipe.peak_ratio * tops[labels]
    bounds, areas = _bounds_and_areas(labels, region, count)
    sides = bounds[:, 2:] - bounds[:, :2]
    kept = np.isfinite(peaks) & (areas >= recipe.min_area_frac * np.count_nonzero(inside) * CELL_PX**2)
    kept &= sides.max(axis=1) <= recipe.max_aspect * sides.min(axis=1)
    boxes = []
    for label in np.flatnonzero(kept)[np.argsort(-peaks[kept], kind="stable")].tolist():
        x1, y1, x2, y2 = bounds[label].tolist()
        xyxy = _in_frame((x1, y1, x2, y2), smooth.shape, normalized, frame_wh)
        if xyxy is not None:
            boxes.append(DamageBox(xyxy, float(peaks[label])))
    return tuple(boxes[: recipe.max_boxes])


def smoothed(anomaly_map: FloatArray, inside: Mask, cell_px: int, sigma_cells: float) -> FloatArray:
    """Return the anomaly map at `cell_px` pixels a patch, blurred lightly: (rows * cell_px, cols * cell_px) float32.

    Only patches inside take part, so the map keeps its level up to the silhouette; it is 0 outside. Where all are
    inside it is the map of PatchCore as anomalib draws it: nearest neighbours, then a Gaussian of four deviations.
    """
    rows, cols = inside.shape
    down, across = _spread(rows, cell_px, sigma_cells), _spread(cols, cell_px, sigma_cells)
    if inside.all():
        return np.asarray(down @ anomaly_map @ across.T, np.float32)
    value = down @ np.where(inside, anomaly_map, np.float32(0)) @ across.T
    weight = down @ inside.astype(np.float32) @ across.T
    smooth = value / np.maximum(weight, np.float32(1e-6))
    smooth[~_enlarged(inside, cell_px)] = 0
    return np.asarray(smooth, np.float32)


@lru_cache(maxsize=16)
def _spread(cells: int, cell_px: int, sigma_cells: float) -> FloatArray:
    """Return what enlarging and blurring do along one axis: (cells * cell_px, cells) float32, rows of sum 1.

    Both are linear and separable, so the map of a grid is two small products. Beyond the border the map is mirrored.
    """
    spread = np.repeat(np.eye(cells), cell_px, axis=0)
    sigma = sigma_cells * cell_px
    reach = int(4 * sigma + 0.5)
    if reach:
        kernel = cv2.getGaussianKernel(2 * reach + 1, sigma)
        spread = np.asarray(cv2.sepFilter2D(spread, cv2.CV_64F, np.ones(1), kernel, borderType=cv2.BORDER_REFLECT_101))
    return spread.astype(np.float32)


def _enlarged(cells: Mask, cell_px: int) -> Mask:
    """Return a mask of cells at `cell_px` pixels a cell."""
    return cells.repeat(cell_px, axis=0).repeat(cell_px, axis=1)


def _bounds_and_areas(labels: Labels, region: Mask, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the tight bounds of each label's pixels in the region, xyxy (count, 4), and their number (count,)."""
    ys, xs = np.nonzero(region)
    label_of_pixel = labels[ys, xs]
    bounds = np.tile(np.array([max(region.shape)] * 2 + [0] * 2), (count, 1))
    for column, positions in enumerate((xs, ys)):
        np.minimum.at(bounds[:, column], label_of_pixel, positions)
        np.maximum.at(bounds[:, column + 2], label_of_pixel, positions + 1)
    return bounds, np.bincount(label_of_pixel, minlength=count)


def _joined(region: Mask, gap_px: float) -> tuple[Labels, int]:
    """Label blobs, those nearer than `gap_px` as one: labels (H, W) int32, 0 outside, and one more than the highest."""
    reach = math.ceil(gap_px / 2)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    count, labels = cv2.connectedComponents(cv2.dilate(region.astype(np.uint8), kernel), connectivity=8)
    return np.where(region, labels, 0).astype(np.int32), count


def _in_frame(
    xyxy: tuple[int, int, int, int],
    map_shape: tuple[int, ...],
    normalized: NormalizedRoi,
    frame_wh: tuple[int, int],
) -> tuple[int, int, int, int] | None:
    """Map a box of the working map to the full frame, outwards to whole pixels and clipped; None if nothing is left."""
    height, width = map_shape
    side = normalized.bgr.shape[0]
    origin_x, origin_y = normalized.origin_xy
    per_x, per_y = side / width / normalized.scale, side / height / normalized.scale
    x1 = max(0, math.floor(origin_x + xyxy[0] * per_x))
    y1 = max(0, math.floor(origin_y + xyxy[1] * per_y))
    x2 = min(frame_wh[0], math.ceil(origin_x + xyxy[2] * per_x))
    y2 = min(frame_wh[1], math.ceil(origin_y + xyxy[3] * per_y))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
