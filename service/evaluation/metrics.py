"""What an evaluation says: one row a frame, and the figures over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, Self

import numpy as np
from pydantic import Field

from schemas.base import UtcDatetime, Value
from schemas.messages import Decision, ModelRef, StagesMs
from schemas.recipe import ScoreStatistic
from service.judged import JudgedPicture

FALSE_REJECT = 0.01
"""False-reject rate at which the recall is stated."""


class Label(StrEnum):
    """What is known of a frame before it is judged."""

    OK = "ok"
    DAMAGED = "damaged"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, decision: Decision | None) -> Self:
        """Return the label of what a part really was, where somebody knows it."""
        return cls.UNKNOWN if decision in (None, Decision.ERROR) else cls(decision.lower())

    @property
    def decision(self) -> Decision | None:
        """Return what a frame of this label should be called; None where nobody knows."""
        return None if self is Label.UNKNOWN else Decision(self.upper())


class BoxMatch(Value):
    """Boxes of one frame against the components of its mask, see `service.evaluation.truth.match_boxes`."""

    components: int
    components_found: int
    boxes_right: int
    iou: float


class EvaluatedFrame(JudgedPicture):
    """One frame's result.

    box_area: share of the frame inside the boxes. trained_on: the file is one of those the model was made from.
    copy_of: label and name of an earlier frame with the very bytes of this one. mask: name of the mask, empty where
    there is none; mask_refused: why it was left out.
    """

    label: Label
    box_area: float = 0.0
    trained_on: bool = False
    copy_of: str = ""
    mask: str = ""
    mask_refused: str = ""
    match: BoxMatch | None = None


class SetCounts(Value):
    """How the frames of one label were judged; box figures are means over the frames that were."""

    frames: int
    ok: int
    damaged: int
    error: int
    uncertain: int
    trained_on: int
    copies: int
    score_median: float | None
    frames_with_boxes: int
    boxes_per_frame: float | None
    box_area_per_frame: float | None = Field(description="share of the frame's area")


class ImageMetrics(Value):
    """Figures over image scores; null where they take frames of a label that were not there.

    Frames that could not be judged have no score and are left out; they are counted as errors.
    """

    auroc: float | None
    auroc_low: float | None = Field(description="95% interval of the AUROC, for so many frames")
    auroc_high: float | None
    auprc: float | None = Field(description="average precision, damaged is positive")
    recall_at_1pct_false_reject: float | None
    threshold_at_1pct_false_reject: float | None = Field(description="scores above it are rejected")
    false_reject_at_tau: float | None
    recall_at_tau: float | None


class PixelMetrics(Value):
    """Figures over the pixels of OK frames and of damaged frames with a mask."""

    frames: int
    regions: int
    auroc: float | None
    aupro: float | None = Field(description="per-region overlap up to a false-positive rate of 0.3")


class BoxMetrics(Value):
    """Boxes against mask components, over damaged frames with a mask."""

    frames: int
    boxes: int
    components: int
    precision: float | None = Field(description="share of the boxes that show damage")
    recall: float | None = Field(description="share of the components that lie half inside the boxes")
    iou_median: float | None = Field(description="of both unions of boxes, a frame")


class Evaluation(Value):
    """`metrics.json`."""

    format: Literal["cangate/evaluation/1"] = "cangate/evaluation/1"
    created_at: UtcDatetime
    model: ModelRef
    embedder: str
    statistic: ScoreStatistic
    tau: float
    tau_false_reject: float | None = Field(
        description="rate that tau was made for; none where it was imported, or set for a recall or precision"
    )
    sets: dict[Label, SetCounts]
    image: ImageMetrics
    pixel: PixelMetrics | None
    boxes: BoxMetrics | None
    masks_refused: int
    median_ms: StagesMs


def scores_of(frames: Sequence[EvaluatedFrame], label: Label) -> list[float]:
    """Return the scores of the judged frames of a label, in order."""
    return [frame.s for frame in frames if frame.label is label and frame.s is not None]


def image_metrics(ok: Sequence[float], damaged: Sequence[float], tau: float) -> ImageMetrics:
    """Return what the scores of OK and damaged frames say; either may be empty."""
    # seconds that only what has labels need spend
    from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: PLC0415

    from service.evaluation.uncertainty import auroc_interval  # noqa: PLC0415

    both = bool(ok) and bool(damaged)
    truth, scores = [0] * len(ok) + [1] * len(damaged), [*ok, *damaged]
    auroc = float(roc_auc_score(truth, scores)) if both else None
    low, high = (None, None) if auroc is None else auroc_interval(auroc, len(ok), len(damaged))
    limit = _false_reject_limit(ok, FALSE_REJECT) if ok else None
    return ImageMetrics(
        auroc=auroc,
        auroc_low=low,
        auroc_high=high,
        auprc=float(average_precision_score(truth, scores)) if both else None,
        recall_at_1pct_false_reject=None if limit is None else _mean([s > limit for s in damaged]),
        threshold_at_1pct_false_reject=limit,
        false_reject_at_tau=_mean([s >= tau for s in ok]),
        recall_at_tau=_mean([s >= tau for s in damaged]),
    )


def set_counts(frames: Sequence[EvaluatedFrame]) -> SetCounts:
    """Return how the frames of one label were judged."""
    judged = [frame for frame in frames if frame.decision is not Decision.ERROR]
    scores = [frame.s for frame in judged if frame.s is not None]
    return SetCounts(
        frames=len(frames),
        ok=sum(frame.decision is Decision.OK for frame in frames),
        damaged=sum(frame.decision is Decision.DAMAGED for frame in frames),
        error=len(frames) - len(judged),
        uncertain=sum(frame.uncertain for frame in frames),
        trained_on=sum(frame.trained_on for frame in frames),
        copies=sum(bool(frame.copy_of) for frame in frames),
        score_median=_median(scores),
        frames_with_boxes=sum(bool(frame.boxes) for frame in judged),
        boxes_per_frame=_mean([len(frame.boxes) for frame in judged]),
        box_area_per_frame=_mean([frame.box_area for frame in judged]),
    )


def box_metrics(frames: Sequence[EvaluatedFrame]) -> BoxMetrics | None:
    """Return how well boxes and mask components agree; None where no frame has both a judgement and a mask."""
    matched = [(len(frame.boxes), frame.match) for frame in frames if frame.match is not None]
    if not matched:
        return None
    boxes, components = sum(count for count, _ in matched), sum(match.components for _, match in matched)
    return BoxMetrics(
        frames=len(matched),
        boxes=boxes,
        components=components,
        precision=sum(match.boxes_right for _, match in matched) / boxes if boxes else None,
        recall=sum(match.components_found for _, match in matched) / components,
        iou_median=_median([match.iou for _, match in matched]),
    )


def median_times(frames: Sequence[EvaluatedFrame]) -> StagesMs:
    """Return the median of each stage, in milliseconds, over the frames that came to it."""
    stages = [frame.stages_ms for frame in frames]
    return StagesMs(
        **{
            name: _median([ms for stage in stages if (ms := getattr(stage, name)) is not None])
            for name in StagesMs.model_fields
        }
    )


def _false_reject_limit(ok: Sequence[float], rate: float) -> float:
    """Return the smallest limit that at most the share `rate` of `ok`, not empty, lies above."""
    allowed = math.floor(rate * len(ok) + 1e-9)
    return sorted(ok, reverse=True)[min(allowed, len(ok) - 1)]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
