"""The state of the vision system: the standard's two machines, driven by what the station is and what clients ask.

Nothing here talks OPC UA. What each state means for the line:

| state | the station |
|---|---|
| Preoperational | is starting, or was reset: it does not judge until SelectModeAutomatic |
| Halted | is paused, by Halt or by the command `pause`: it does not judge |
| Error | cannot judge: its inspections hang or fail |
| Operational, Initialized | has no model |
| Operational, Ready | judges; no job is running |
| Operational, SingleExecution | inspects the one part of StartSingleJob |
| Operational, ContinuousExecution | judges; every result belongs to the job of StartContinuous |

A part that comes by trigger tag or MQTT is judged in Ready as well: the gate's promise does not depend on a job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from adapters.opcua.server.machine_vision.state_machines import State, Transition
from schemas.messages import FaultCode, StationState, Status

_LEAVE_JOB: Final = {
    State.SINGLE_EXECUTION: Transition.SINGLE_EXECUTION_TO_READY_AUTO,
    State.CONTINUOUS_EXECUTION: Transition.CONTINUOUS_EXECUTION_TO_READY_AUTO,
}


@dataclass(frozen=True, slots=True)
class Observation:
    """What decides about states: read from a status of the station."""

    judging: bool
    paused: bool
    broken: bool
    has_model: bool

    @classmethod
    def of(cls, status: Status) -> Observation:
        """Read a status. A paused station without a model says that it has no model; it does not judge either way."""
        code = status.fault.code if status.fault is not None and status.state is StationState.FAULT else FaultCode.NONE
        return cls(
            judging=code == FaultCode.NONE,
            paused=code == FaultCode.PAUSED,
            broken=code not in {FaultCode.NONE, FaultCode.PAUSED, FaultCode.MODEL_UNAVAILABLE},
            has_model=status.model is not None,
        )


class VisionStates:
    """Where both machines are; every change is a transition of the standard and is returned to be told."""

    def __init__(self) -> None:
        self.main = State.PREOPERATIONAL
        self.mode: State | None = None

    @property
    def current(self) -> State:
        """Return the innermost state."""
        return self.mode or self.main

    def find(self, *candidates: Transition) -> Transition | None:
        """Return which of `candidates` leads away from where we are; None where none does.

        None is also said of Preoperational to Initialized, which is no step of its own: see `begin_automatic`.
        """
        here = {self.main, self.mode}
        rows = ((made, made.value) for made in candidates)
        found = (
            made for made, row in rows if row.source in here and row.source.is_automatic == row.target.is_automatic
        )
        return next(found, None)

    def take(self, *transitions: Transition) -> list[Transition]:
        """Make `transitions`, one after the other, and return them.

        Into Operational belongs a second one, into Initialized (from Preoperational the standard has one for that).
        """
        taken = []
        for made in transitions:
            source, target = made.value.source, made.value.target
            assert source in {self.main, self.mode}, f"{made.title} from {self.current.title}"
            if target.is_automatic:
                self.mode = target
            else:
                self.main = target
                self.mode = State.INITIALIZED if target is State.OPERATIONAL else None
            taken.append(made)
        return taken

    def begin_automatic(self, *, by_method: bool) -> list[Transition]:
        """Go from Preoperational to Operational, Initialized."""
        if by_method:
            pair = (Transition.PREOPERATIONAL_TO_OPERATIONAL, Transition.PREOPERATIONAL_TO_INITIALIZED)
        else:
            pair = (Transition.PREOPERATIONAL_TO_OPERATIONAL_AUTO, Transition.PREOPERATIONAL_TO_INITIALIZED_AUTO)
        taken = self.take(pair[0])
        return [*taken, pair[1]]  # Initialized is where Operational begins

    def observe(self, seen: Observation) -> list[Transition]:
        """Follow the station; return the transitions that this took."""
        taken: list[Transition] = []
        if seen.broken and (error := self._into_error()):
            return self.take(error)
        if seen.paused:
            halted = self.find(Transition.OPERATIONAL_TO_HALTED_AUTO, Transition.ERROR_TO_HALTED_AUTO)
            return self.take(halted) if halted else []
        if self.main is State.ERROR and not seen.broken:
            taken += self.take(Transition.ERROR_TO_OPERATIONAL_AUTO)
        elif seen.judging and self.main is State.HALTED:
            taken += self.take(Transition.HALTED_TO_PREOPERATIONAL_AUTO)
        if seen.judging and self.main is State.PREOPERATIONAL:
            taken += self.begin_automatic(by_method=False)
        return taken + self.follow_model(has_model=seen.has_model)

    def start(self) -> list[Transition]:
        """Leave Preoperational at the start of the service, where a line without a model shows Initialized."""
        return self.begin_automatic(by_method=False) if self.main is State.PREOPERATIONAL else []

    def end_job(self, *by_method: Transition) -> list[Transition]:
        """End the running job: by the method whose transitions are given, else by itself."""
        leave = self.find(*by_method) if by_method else self.find(*_LEAVE_JOB.values())
        return self.take(leave) if leave else []

    def follow_model(self, *, has_model: bool) -> list[Transition]:
        """Go to Ready where there is a model, to Initialized where there is none."""
        if has_model and self.mode is State.INITIALIZED:
            return self.take(Transition.INITIALIZED_TO_READY_AUTO)
        if not has_model and self.mode not in {None, State.INITIALIZED}:
            return [*self.end_job(), *self.take(Transition.READY_TO_INITIALIZED_AUTO)]
        return []

    def _into_error(self) -> Transition | None:
        return self.find(Transition.OPERATIONAL_TO_ERROR_AUTO, Transition.PREOPERATIONAL_TO_ERROR_AUTO)
