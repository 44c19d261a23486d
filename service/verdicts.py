"""From an outcome to the one Verdict that speaks for it."""

from __future__ import annotations

from datetime import datetime

from schemas.messages import Box, Decision, Gate, JudgedImage, Reason, StagesMs, Verdict
from service.compute import Failed, Judged, Outcome
from service.judged import boxes_of, decision_of, stages_of
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
        boxes=() if found is None else tuple(map(_rounded_box, boxes_of(found))),
        image=None if outcome.frame is None else _judged_image(outcome.frame),
        model=outcome.model,
        captured_at=event.captured_at,
        received_at=arrival.received_at,
        decided_at=decided_at,
        latency_ms=round(max(0.0, latency_ms), 3),
        stages_ms=_stages(outcome),
        simulated=event.simulated,
        replayed=event.replayed,
        late=late,
    )


def _decide(outcome: Outcome) -> tuple[Decision, Reason]:
    return (Decision.ERROR, outcome.reason) if isinstance(outcome, Failed) else decision_of(outcome.inspection)


def _rounded_box(box: Box) -> Box:
    return box.model_copy(update={"score": round(box.score, 6)})


def _judged_image(frame: Frame) -> JudgedImage:
    return JudgedImage(width=frame.width, height=frame.height, uri=frame.uri)


def _stages(outcome: Outcome) -> StagesMs:
    if isinstance(outcome, Failed):
        stages = StagesMs(load=outcome.load_ms, roi=outcome.roi_ms, normalize=outcome.normalize_ms)
    else:
        stages = stages_of(outcome.inspection, outcome.load_ms)
    return StagesMs(**{stage: None if ms is None else round(ms, 3) for stage, ms in stages})
