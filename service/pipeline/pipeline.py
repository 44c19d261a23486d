"""The inspection pipeline: frames in, inspections out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from schemas.recipe import Recipe
from service.pipeline import scoring
from service.pipeline.boxes import find_boxes
from service.pipeline.normalize import normalize
from service.pipeline.patch_scores import Rim, patch_scores
from service.pipeline.types import FloatArray, Frame, Inspection, PatchGrid, Prepared, StageTimes

if TYPE_CHECKING:  # torch behind them takes seconds that a look at a package need not spend
    from service.pipeline.embed import Embedder
    from service.pipeline.memory_bank import MemoryBank
    from service.pipeline.roi import RoiFinder

T = TypeVar("T")


def _timed(stage: Callable[[], T]) -> tuple[T, float]:
    """Return what `stage` returns, and the milliseconds it took."""
    start = time.perf_counter()
    result = stage()
    return result, 1e3 * (time.perf_counter() - start)


def _refuse_unless_frame(given: object) -> None:
    if not isinstance(given, Frame):
        raise TypeError(f"a Frame is wanted, not {type(given).__name__}: Frame(bgr) of an array (H, W, 3) uint8, BGR")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Everything between a decoded frame and its inspection, with one model.

    tau: image threshold, `s >= tau` is damaged. patch_tau: score that a patch must reach to appear in a box. rim: what
    evens out the distances at the part's rim.
    """

    recipe: Recipe
    roi_finder: RoiFinder
    embedder: Embedder
    bank: MemoryBank
    tau: float
    patch_tau: float
    rim: Rim

    def prepare(self, frame: Frame) -> Prepared:
        """Find the canister and normalise it. Thread-safe.

        Raises FrameError where no judgement is possible, and TypeError for what is no Frame.
        """
        _refuse_unless_frame(frame)
        roi, roi_ms = _timed(lambda: self.roi_finder.find(frame.bgr))
        normalized, normalize_ms = _timed(lambda: normalize(frame.bgr, roi, self.recipe.normalize))
        return Prepared(frame, roi, normalized, StageTimes(roi=roi_ms, normalize=normalize_ms))

    def judge(self, prepared: Sequence[Prepared]) -> list[Inspection]:
        """Judge a batch, in order. Call on one thread at a time; each frame is given its share of the embedding time.

        Raises EmptyMemoryBank, and ValueError where a distance is not finite.
        """
        if not prepared:
            return []
        grids, embed_ms = _timed(lambda: self.embedder.embed([item.normalized for item in prepared]))
        share_ms = embed_ms / len(prepared)
        return [self._judge_one(item, grid, share_ms) for item, grid in zip(prepared, grids, strict=True)]

    def inspect(self, frames: Sequence[Frame]) -> list[Inspection]:
        """Prepare and judge `frames`, in order.

        Raises FrameError for the first one that cannot be judged, and TypeError for what is no list of Frames.
        """
        if isinstance(frames, Frame):
            raise TypeError("inspect takes a list of frames: of one, [frame]")
        return self.judge([self.prepare(frame) for frame in frames])

    def patch_scores(self, grid: PatchGrid) -> FloatArray:
        """Return the score of each patch, (N,) float32. Raises EmptyMemoryBank."""
        distances = self.bank.distances(grid.vectors)
        return patch_scores(distances, grid.inside, self.rim, self.recipe.score.neighbourhood)

    def _judge_one(self, prepared: Prepared, grid: PatchGrid, embed_ms: float) -> Inspection:
        scores, patches_ms = _timed(lambda: self.patch_scores(grid))
        score, image_ms = _timed(lambda: scoring.image_score(scores, self.recipe.score.statistic))
        damaged, uncertain = scoring.judge(score, self.tau, self.recipe.score.uncertain_band)
        anomaly_map = scoring.anomaly_map(scores, grid.inside)
        # damage spread thinly over many patches: what made the frame damaged is shown, if nothing stands out alone
        limit = min(self.patch_tau, float(scores.max())) if damaged else self.patch_tau
        frame_wh = (prepared.frame.width, prepared.frame.height)
        boxes, boxes_ms = _timed(
            lambda: find_boxes(anomaly_map, grid.inside, prepared.normalized, frame_wh, limit, self.recipe.boxes)
        )
        return Inspection(
            prepared=prepared,
            score=score,
            threshold=self.tau,
            damaged=damaged,
            uncertain=uncertain,
            boxes=boxes,
            anomaly_map=anomaly_map,
            times=replace(prepared.times, embed=embed_ms, score=patches_ms + image_ms, boxes=boxes_ms),
        )
