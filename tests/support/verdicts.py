"""Answers without an inspection."""

from __future__ import annotations

from schemas.messages import Gate, Reason
from service.compute import Failed
from service.ports import Answer, Arrival, Asker
from service.verdicts import make_verdict


def failed_answer(event: Arrival, seq: int, *, left_s: float = 1.0, repeated: bool = False) -> Answer:
    """Return what a missing frame gets, `left_s` before its deadline when the event came."""
    verdict = make_verdict(
        Failed(Reason.FRAME_MISSING, "gone"),
        event,
        station="line1",
        seq=seq,
        gate_on_error=Gate.REJECT,
        decided_at=event.received_at,
        latency_ms=1.0,
    )
    return Answer(verdict, verdict.to_json(), event.received_monotonic + left_s, Asker.of(event), repeated=repeated)
