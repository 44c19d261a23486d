"""Prometheus metrics that the adapters share."""

from __future__ import annotations

from prometheus_client import Counter, Enum, Gauge, Histogram

from schemas.messages import StationState, Status
from service.ports import Answer

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)

REFUSED = Counter("cangate_refused", "Inputs that were refused, by transport and reason.", ["transport", "reason"])
PASS_UNCONFIRMED = Counter(
    "cangate_pass_unconfirmed", "PASS commands that left in time and were not confirmed by the broker by the deadline."
)
PICTURES_DROPPED = Counter("cangate_pictures_dropped", "Pictures that were not kept because the writer was busy.")
FRAMES_NOT_RECORDED = Counter("cangate_frames_not_recorded", "Parts recorded without their frame: no room for it.")
PARTS_NOT_RECORDED = Counter("cangate_parts_not_recorded", "Parts that were not recorded at all.")
_VERDICTS = Counter("cangate_verdicts", "Verdicts, by decision and reason.", ["decision", "reason"])
_LATENCY = Histogram("cangate_latency_seconds", "Image-ready received to verdict decided.", buckets=_SECONDS)
_STAGE = Histogram("cangate_stage_seconds", "Time in one stage of the pipeline.", ["stage"], buckets=_SECONDS)
_QUEUE = Gauge("cangate_queue", "Events in work.")
_STATE = Enum("cangate_state", "State of the station.", states=[state.value for state in StationState])


def observe(answer: Answer) -> None:
    """Count a verdict and its times; one that is only repeated was counted before, a replayed one is no production."""
    if answer.repeated or not answer.for_gate:
        return
    verdict = answer.verdict
    _VERDICTS.labels(verdict.decision.value, verdict.reason.value).inc()
    _LATENCY.observe(verdict.latency_ms / 1000)
    for stage, milliseconds in verdict.stages_ms:
        if milliseconds is not None:
            _STAGE.labels(stage).observe(milliseconds / 1000)


def observe_status(status: Status) -> None:
    """Note the state of the station and how much it has in work."""
    _QUEUE.set(status.queue)
    _STATE.state(status.state.value)
