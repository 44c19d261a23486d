"""Prometheus metrics of one station, which its adapters share."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Enum, Gauge, Histogram, generate_latest

from schemas.messages import Decision, Reason, StationState, Status
from service.ports import Answer

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)


_DECISIONS = {
    Reason.SCORE_BELOW_THRESHOLD: Decision.OK,
    Reason.SCORE_AT_OR_ABOVE_THRESHOLD: Decision.DAMAGED,
}
"""Of every other reason: ERROR."""


class Metrics:
    """What one station has counted. A process may run several: each has its own, and says no more of the others."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self.refused = Counter(
            "cangate_refused", "Inputs refused, by transport and reason.", ["transport", "reason"], registry=own
        )
        self.pass_unconfirmed = Counter(
            "cangate_pass_unconfirmed",
            "PASS commands that left in time and were not confirmed by the broker by the deadline.",
            registry=own,
        )
        self.pictures_dropped = Counter(
            "cangate_pictures_dropped", "Pictures that were not kept because the writer was busy.", registry=own
        )
        self.frames_not_recorded = Counter(
            "cangate_frames_not_recorded", "Parts recorded without their frame: no room for it.", registry=own
        )
        self.parts_not_recorded = Counter(
            "cangate_parts_not_recorded", "Parts that were not recorded at all.", registry=own
        )
        self._verdicts = Counter(
            "cangate_verdicts", "Verdicts, by decision and reason.", ["decision", "reason"], registry=own
        )
        for reason in Reason:  # from zero on: the first one is a rise, too
            self._verdicts.labels(_DECISIONS.get(reason, Decision.ERROR).value, reason.value)
        self._latency = Histogram(
            "cangate_latency_seconds", "Image-ready received to verdict decided.", buckets=_SECONDS, registry=own
        )
        self._stage = Histogram(
            "cangate_stage_seconds", "Time in one stage of the pipeline.", ["stage"], buckets=_SECONDS, registry=own
        )
        self._queue = Gauge("cangate_queue", "Events in work.", registry=own)
        states = [state.value for state in StationState]
        self._state = Enum("cangate_state", "State of the station.", states=states, registry=own)

    def observe(self, answer: Answer) -> None:
        """Count a verdict and its times; a repeated one was counted before, a replayed one is no production."""
        if answer.repeated or not answer.for_gate:
            return
        verdict = answer.verdict
        self._verdicts.labels(verdict.decision.value, verdict.reason.value).inc()
        self._latency.observe(verdict.latency_ms / 1000)
        for stage, milliseconds in verdict.stages_ms:
            if milliseconds is not None:
                self._stage.labels(stage).observe(milliseconds / 1000)

    def observe_status(self, status: Status) -> None:
        """Note the state of the station and how much it has in work."""
        self._queue.set(status.queue)
        self._state.state(status.state.value)

    def text(self) -> bytes:
        """Return all of them, and those of the process, in Prometheus' text format."""
        return generate_latest(self._registry) + generate_latest(REGISTRY)
