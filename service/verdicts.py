"""From an outcome to the one Verdict that speaks for it."""

from __future__ import annotations

from datetime import datetime

from schemas.messages import Box, Decision, Gate, JudgedImage, Reason, StagesMs, Verdict
from service.compute import Failed, Judged, Outcome
from service.pipeline.types import Frame
from service.ports import Arrival

_GATE = {Decision.OK: Gate.PASS, Decision.DAMAGED: Gate.REJECT}


def make_verdict(
    outcome: Outcome,
    arrival: Arrival,
    *,
    station: str,
    seq: int,
    gate_on_error: Gate,
    decided_at: datetime,
    latency_ms: float,
    late: bool = False,
) -> Verdict:
    """Return the verdict on `arrival`. `OK` passes, `DAMAGED` rejects, `ERROR` does what the plant chose."""
    event = arrival.event
    decision, reason = _decide(outcome)
    found = outcome.inspection if isinstance(outcome, Judged) else None
    frame = found.prepared.frame if found is not None else outcome.frame if isinstance(outcome, Failed) else None
    return Verdict(
        station=station,
        event_id=event.event_id,
        part_id=event.part_id,
        trigger_id=event.trigger_id,
        seq=seq,
        decision=decision,
        gate=_GATE.get(decision, Gate.REJECT if isinstance(outcome, Failed) and outcome.rejects else gate_on_error),
        reason=reason,
        uncertain=found is not None and found.uncertain,
        score=None if found is None else found.score,
        threshold=None if found is None else found.threshold,
        boxes=() if found is None else tuple(_box(box.xyxy, box.score) for box in found.boxes),
        image=None if frame is None else _judged_image(frame),
        model=outcome.model,
        captured_at=event.captured_at,
        received_at=arrival.received_at,
        decided_at=decided_at,
        latency_ms=round(max(0.0, latency_ms), 3),
        stages_ms=_stages(outcome),
        simulated=event.simulated,
        replayed=event.is_replay,
        late=late,
    )


def _decide(outcome: Outcome) -> tuple[Decision, Reason]:
    if isinstance(outcome, Failed):
        return Decision.ERROR, outcome.reason
    if outcome.inspection.damaged:
        return Decision.DAMAGED, Reason.SCORE_AT_OR_ABOVE_THRESHOLD
    return Decision.OK, Reason.SCORE_BELOW_THRESHOLD


def _box(xyxy: tuple[int, int, int, int], score: float) -> Box:
    x1, y1, x2, y2 = xyxy
    return Box(x1=x1, y1=y1, x2=x2, y2=y2, score=round(score, 6))


def _judged_image(frame: Frame) -> JudgedImage:
    return JudgedImage(width=frame.width, height=frame.height, uri=frame.uri)


def _stages(outcome: Outcome) -> StagesMs:
    if isinstance(outcome, Failed):
        return StagesMs(
            load=_rounded(outcome.load_ms), roi=_rounded(outcome.roi_ms), normalize=_rounded(outcome.normalize_ms)
        )
    times = outcome.inspection.times
    return StagesMs(
        load=round(outcome.load_ms, 3),
        roi=round(times.roi, 3),
        normalize=round(times.normalize, 3),
        embed=round(times.embed, 3),
        score=round(times.score, 3),
        boxes=round(times.boxes, 3),
    )


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)
