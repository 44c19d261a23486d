"""The state of the station: what it is able to do, and what it has done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from schemas.messages import Counts, Decision, Fault, FaultCode, ModelRef, StationState, Status, Verdict
from service.ports import Clock, VerdictSink

FaultSource = tuple[FaultCode, str, Callable[[], str | None]]
"""A code, the name of what may be ill, and how to ask it: one line, None while it is well."""


class Station:
    """Works out one `Status` from everything that can be well or ill.

    Args:
        station: its id.
        version: of this software.
        clock: for `since`.
        model: the model that judges, None where none is loaded.
        model_fault: why there is none.
        in_work: how many events are in work.
        can_decide: whether an event that comes now would be answered; else the heartbeat stands still.
        sinks: where verdicts go; each says what is wrong with it.
        blocking_faults: things without which nothing can be judged.
        side_faults: things beside the decisions that may fail.
    """

    def __init__(
        self,
        station: str,
        *,
        version: str,
        clock: Clock,
        model: Callable[[], ModelRef | None],
        model_fault: Callable[[], str | None],
        in_work: Callable[[], int],
        can_decide: Callable[[], bool],
        sinks: Sequence[VerdictSink],
        blocking_faults: Sequence[FaultSource],
        side_faults: Sequence[FaultSource],
    ) -> None:
        self._station = station
        self._version = version
        self._clock = clock
        self._model = model
        self._model_fault = model_fault
        self._in_work = in_work
        self._can_decide = can_decide
        self._sinks = sinks
        self._blocking_faults = blocking_faults
        self._side_faults = side_faults
        self._counts = dict.fromkeys(Decision, 0)
        self._state = StationState.FAULT
        self._since: datetime = clock.now()
        self._heartbeat = 0
        self.paused = False

    def count(self, verdict: Verdict) -> None:
        """Count a new verdict."""
        self._counts[verdict.decision] += 1

    def beat(self) -> bool:
        """Let the heartbeat rise, unless decisions cannot be made; tell whether it rose."""
        can_decide = self._can_decide()
        self._heartbeat += can_decide
        return can_decide

    @property
    def can_judge(self) -> bool:
        """Tell whether an event would be judged rather than answered ERROR."""
        return self._blocking() is None

    def status(self) -> Status:
        """Return the state of the station now."""
        blocking = self._blocking()
        beside = blocking or self._beside()
        if blocking is not None:
            state = StationState.FAULT
        elif beside is not None:
            state = StationState.DEGRADED
        else:
            state = StationState.BUSY if self._in_work() else StationState.READY
        if state is not self._state:
            self._state, self._since = state, self._clock.now()
        return Status(
            station=self._station,
            state=state,
            since=self._since,
            version=self._version,
            model=self._model(),
            heartbeat=self._heartbeat,
            queue=self._in_work(),
            counts=Counts(
                ok=self._counts[Decision.OK],
                damaged=self._counts[Decision.DAMAGED],
                error=self._counts[Decision.ERROR],
            ),
            fault=beside,
        )

    def not_ready(self) -> Sequence[str]:
        """Return why the station cannot work, e.g. "mqtt: connection refused"; empty while it can."""
        reasons = [f"{sink.name}: {sink.fault}" for sink in self._sinks if sink.fault is not None]
        blocking = self._blocking()
        if blocking is not None:
            reasons.append(blocking.text)
        return reasons

    def _blocking(self) -> Fault | None:
        if self._model() is None:
            return Fault(code=FaultCode.MODEL_UNAVAILABLE, text=f"model: {self._model_fault()}")
        fault = _first(self._blocking_faults)
        if fault is None and self.paused:
            return Fault(code=FaultCode.PAUSED, text="station: paused by command")
        return fault

    def _beside(self) -> Fault | None:
        sinks: list[FaultSource] = [
            (FaultCode.SINK_DOWN, sink.name, partial(getattr, sink, "fault")) for sink in self._sinks
        ]
        return _first([*sinks, *self._side_faults])


def _first(sources: Sequence[FaultSource]) -> Fault | None:
    for code, name, ask in sources:
        text = ask()
        if text is not None:
            return Fault(code=code, text=f"{name}: {text}")
    return None
