"""Inspections in the words that everyone shares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from schemas.base import Value
from schemas.messages import Box, Decision, Reason, StagesMs
from service.errors import FrameError
from service.model.dataset import FrameFile, printable
from service.pipeline.types import DamageBox, Inspection


class JudgedPicture(Value):
    """One picture's result: no score where no judgement was possible, and then `detail` says why."""

    filename: str
    path: str
    s: float | None = None
    decision: Decision
    reason: Reason
    detail: str = ""
    uncertain: bool = False
    boxes: tuple[Box, ...] = ()
    width: int | None = None
    height: int | None = None
    roi: str = ""
    stages_ms: StagesMs = StagesMs()

    @classmethod
    def of(cls, file: FrameFile, inspection: Inspection, load_ms: float, **more: object) -> Self:
        """Return the result of a picture that was judged; more: fields that a subclass adds."""
        frame = inspection.prepared.frame
        decision, reason = decision_of(inspection)
        known = {
            "filename": file.name,
            "path": printable(str(file.path)),
            "s": inspection.score,
            "decision": decision,
            "reason": reason,
            "uncertain": inspection.uncertain,
            "boxes": boxes_of(inspection),
            "width": frame.width,
            "height": frame.height,
            "roi": inspection.prepared.roi.path,
            "stages_ms": stages_of(inspection, load_ms),
        }
        return cls.model_validate(known | more)

    @classmethod
    def unjudged(cls, file: FrameFile, why: FrameError, **more: object) -> Self:
        """Return the result of a picture that cannot be judged; more: as above."""
        known = {
            "filename": file.name,
            "path": printable(str(file.path)),
            "decision": Decision.ERROR,
            "reason": why.reason,
            "detail": str(why),
        }
        return cls.model_validate(known | more)


def decision_of(inspection: Inspection) -> tuple[Decision, Reason]:
    """Return what was seen, and why it is called so."""
    if inspection.damaged:
        return Decision.DAMAGED, Reason.SCORE_AT_OR_ABOVE_THRESHOLD
    return Decision.OK, Reason.SCORE_BELOW_THRESHOLD


def boxes_of(inspection: Inspection) -> tuple[Box, ...]:
    """Return the boxes, their scores as they were computed."""
    return tuple(map(_box, inspection.boxes))


def boxes_text(boxes: Iterable[Box]) -> str:
    """Return boxes as a cell of a CSV: x1 y1 x2 y2 score; ..."""
    return "; ".join(f"{box.x1} {box.y1} {box.x2} {box.y2} {box.score:.4f}" for box in boxes)


def stages_of(inspection: Inspection, load_ms: float) -> StagesMs:
    """Return how long every stage took, and loading, as it was measured."""
    times = inspection.times
    return StagesMs(
        load=load_ms,
        roi=times.roi,
        normalize=times.normalize,
        embed=times.embed,
        score=times.score,
        boxes=times.boxes,
    )


def _box(box: DamageBox) -> Box:
    x1, y1, x2, y2 = box.xyxy
    return Box(x1=x1, y1=y1, x2=x2, y2=y2, score=box.score)
