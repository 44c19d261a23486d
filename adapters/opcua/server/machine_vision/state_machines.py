"""The two state machines of OPC 40100-1: their states, transitions and methods (clauses 8.2 and 8.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from adapters.opcua.server.machine_vision.declarations import (
    Argument,
    Base,
    Declaration,
    NodeClass,
    Reference,
    Rule,
    instance,
    method,
    number,
    object_type,
    typed,
)

TO_TRANSITION: Final = Declaration(4003, "ToTransition", NodeClass.REFERENCE_TYPE, Base.NON_HIERARCHICAL_REFERENCES)
FROM_TRANSITION: Final = Declaration(4002, "FromTransition", NodeClass.REFERENCE_TYPE, Base.NON_HIERARCHICAL_REFERENCES)

_STATE_CHANGED, _JOB_STARTED, _READY, _RECIPE_PREPARED, _ERROR, _ERROR_RESOLVED = 1018, 1013, 1023, 1022, 1019, 1020


@dataclass(frozen=True, slots=True)
class _State:
    id: int
    number_id: int
    number: int


class State(Enum):
    """Every state of both machines: NodeId, NodeId of its StateNumber, the number."""

    PREOPERATIONAL = _State(5028, 6226, 1)
    HALTED = _State(5029, 6227, 2)
    ERROR = _State(5030, 6228, 3)
    OPERATIONAL = _State(5031, 6229, 4)
    INITIALIZED = _State(5056, 6259, 5)
    READY = _State(5057, 6260, 6)
    SINGLE_EXECUTION = _State(5058, 6261, 7)
    CONTINUOUS_EXECUTION = _State(5059, 6262, 8)

    @property
    def title(self) -> str:
        """Return the browse name, e.g. "SingleExecution"."""
        return self.name.title().replace("_", "")

    @property
    def is_automatic(self) -> bool:
        """Tell whether this is a state of the automatic mode, within Operational."""
        return self.value.number > State.OPERATIONAL.value.number


@dataclass(frozen=True, slots=True)
class _Transition:
    id: int
    number_id: int
    number: int
    source: State
    target: State
    cause: int | None = None
    effects: tuple[int, ...] = ()


_RESET, _HALT, _SELECT, _PREPARE, _UNPREPARE = 7093, 7094, 7095, 7015, 7055
_START, _CONTINUOUS, _STOP, _ABORT = 7098, 7009, 7096, 7097


class Transition(Enum):
    """Every transition that a station makes: NodeId, NodeId of its number, number, from, to, cause, further effects."""

    PREOPERATIONAL_TO_ERROR_AUTO = _Transition(5034, 6232, 130, State.PREOPERATIONAL, State.ERROR, effects=(_ERROR,))
    PREOPERATIONAL_TO_HALTED = _Transition(5032, 6230, 121, State.PREOPERATIONAL, State.HALTED, _HALT)
    PREOPERATIONAL_TO_HALTED_AUTO = _Transition(5033, 6231, 120, State.PREOPERATIONAL, State.HALTED)
    PREOPERATIONAL_TO_INITIALIZED = _Transition(5035, 6233, 151, State.PREOPERATIONAL, State.INITIALIZED, _SELECT)
    PREOPERATIONAL_TO_INITIALIZED_AUTO = _Transition(5036, 6234, 150, State.PREOPERATIONAL, State.INITIALIZED)
    PREOPERATIONAL_TO_OPERATIONAL = _Transition(5253, 6171, 141, State.PREOPERATIONAL, State.OPERATIONAL, _SELECT)
    PREOPERATIONAL_TO_OPERATIONAL_AUTO = _Transition(5254, 6221, 140, State.PREOPERATIONAL, State.OPERATIONAL)
    HALTED_TO_PREOPERATIONAL = _Transition(5037, 6235, 211, State.HALTED, State.PREOPERATIONAL, _RESET)
    HALTED_TO_PREOPERATIONAL_AUTO = _Transition(5038, 6236, 210, State.HALTED, State.PREOPERATIONAL)
    ERROR_TO_PREOPERATIONAL = _Transition(5039, 6237, 311, State.ERROR, State.PREOPERATIONAL, _RESET)
    ERROR_TO_HALTED = _Transition(5041, 6239, 321, State.ERROR, State.HALTED, _HALT)
    ERROR_TO_HALTED_AUTO = _Transition(5042, 6240, 320, State.ERROR, State.HALTED)
    ERROR_TO_OPERATIONAL_AUTO = _Transition(5255, 6341, 340, State.ERROR, State.OPERATIONAL, effects=(_ERROR_RESOLVED,))
    OPERATIONAL_TO_PREOPERATIONAL = _Transition(5047, 6245, 411, State.OPERATIONAL, State.PREOPERATIONAL, _RESET)
    OPERATIONAL_TO_HALTED = _Transition(5049, 6247, 421, State.OPERATIONAL, State.HALTED, _HALT)
    OPERATIONAL_TO_HALTED_AUTO = _Transition(5050, 6248, 420, State.OPERATIONAL, State.HALTED)
    OPERATIONAL_TO_ERROR_AUTO = _Transition(5051, 6249, 430, State.OPERATIONAL, State.ERROR)
    INITIALIZED_TO_READY_RECIPE = _Transition(
        5060, 6263, 561, State.INITIALIZED, State.READY, _PREPARE, effects=(_RECIPE_PREPARED,)
    )
    INITIALIZED_TO_READY_AUTO = _Transition(5061, 6264, 560, State.INITIALIZED, State.READY)
    READY_TO_INITIALIZED_RECIPE = _Transition(5062, 6265, 651, State.READY, State.INITIALIZED, _UNPREPARE)
    READY_TO_INITIALIZED_AUTO = _Transition(5063, 6266, 650, State.READY, State.INITIALIZED)
    READY_TO_SINGLE_EXECUTION = _Transition(
        5064, 6267, 671, State.READY, State.SINGLE_EXECUTION, _START, effects=(_JOB_STARTED,)
    )
    READY_TO_CONTINUOUS_EXECUTION = _Transition(
        5066, 6269, 681, State.READY, State.CONTINUOUS_EXECUTION, _CONTINUOUS, effects=(_JOB_STARTED,)
    )
    SINGLE_EXECUTION_TO_READY_STOP = _Transition(
        5068, 6271, 761, State.SINGLE_EXECUTION, State.READY, _STOP, effects=(_READY,)
    )
    SINGLE_EXECUTION_TO_READY_ABORT = _Transition(
        5069, 6272, 762, State.SINGLE_EXECUTION, State.READY, _ABORT, effects=(_READY,)
    )
    SINGLE_EXECUTION_TO_READY_AUTO = _Transition(
        5070, 6273, 760, State.SINGLE_EXECUTION, State.READY, effects=(_READY,)
    )
    CONTINUOUS_EXECUTION_TO_READY_STOP = _Transition(
        5071, 6274, 861, State.CONTINUOUS_EXECUTION, State.READY, _STOP, effects=(_READY,)
    )
    CONTINUOUS_EXECUTION_TO_READY_ABORT = _Transition(
        5072, 6275, 862, State.CONTINUOUS_EXECUTION, State.READY, _ABORT, effects=(_READY,)
    )
    CONTINUOUS_EXECUTION_TO_READY_AUTO = _Transition(
        5073, 6276, 860, State.CONTINUOUS_EXECUTION, State.READY, effects=(_READY,)
    )

    @property
    def title(self) -> str:
        """Return the browse name, e.g. "ReadyToSingleExecution"."""
        return self.name.title().replace("_", "")


_CAUSE: Final = (Argument("Cause", Base.INT32), Argument("CauseDescription", Base.STRING))
_ERROR_CODE: Final = (Argument("Error", Base.INT32),)
_JOB: Final = (
    Argument("MeasId", 3015),
    Argument("PartId", 3004),
    Argument("RecipeId", 3002),
    Argument("ProductId", 3003),
    Argument("Parameters", Base.BASE_DATA_TYPE, 1),
)
_STARTED: Final = (Argument("JobId", 3016), *_ERROR_CODE)


def _states(states: Sequence[State]) -> tuple[Declaration, ...]:
    return tuple(_state(state) for state in states)


def _state(state: State) -> Declaration:
    leaving = [Reference(TO_TRANSITION.id, made.value.id) for made in Transition if made.value.source is state]
    arriving = [
        Reference(FROM_TRANSITION.id, made.value.id)
        for made in Transition
        if made.value.target is state and made.value.source.is_automatic == state.is_automatic
    ]
    row = state.value
    return Declaration(
        row.id,
        state.title,
        NodeClass.OBJECT,
        Base.STATE_TYPE,
        members=(number(row.number_id, "StateNumber", row.number),),
        references=(*leaving, *arriving),
    )


def _transitions(*, automatic: bool) -> tuple[Declaration, ...]:
    return tuple(_transition(made) for made in Transition if made.value.source.is_automatic is automatic)


def _transition(made: Transition) -> Declaration:
    row = made.value
    references = [Reference(Base.FROM_STATE, row.source.value.id), Reference(Base.TO_STATE, row.target.value.id)]
    if row.cause is not None:
        references.append(Reference(Base.HAS_CAUSE, row.cause))
    references += [Reference(Base.HAS_EFFECT, effect) for effect in (*row.effects, _STATE_CHANGED)]
    return Declaration(
        row.id,
        made.title,
        NodeClass.OBJECT,
        Base.TRANSITION_TYPE,
        members=(number(row.number_id, "TransitionNumber", row.number),),
        references=tuple(references),
    )


AUTOMATIC_MODE: Final = object_type(
    1021,
    "VisionAutomaticModeStateMachineType",
    Base.FINITE_STATE_MACHINE_TYPE,
    *_states([state for state in State if state.is_automatic]),
    *_transitions(automatic=True),
    method(_ABORT, "Abort", inputs=(6285, _CAUSE), outputs=(6286, _ERROR_CODE)),
    method(
        7100,
        "SimulationMode",
        inputs=(6289, (Argument("Activate", Base.BOOLEAN), *_CAUSE)),
        outputs=(6290, _ERROR_CODE),
        rule=Rule.OPTIONAL,
    ),
    method(_CONTINUOUS, "StartContinuous", inputs=(6086, _JOB), outputs=(6087, _STARTED)),
    method(_START, "StartSingleJob", inputs=(6281, _JOB), outputs=(6282, _STARTED)),
    method(_STOP, "Stop", inputs=(6287, _CAUSE), outputs=(6288, _ERROR_CODE)),
)

STATE_MACHINE: Final = object_type(
    1017,
    "VisionStateMachineType",
    Base.FINITE_STATE_MACHINE_TYPE,
    *[
        typed(declared, Reference(Base.HAS_SUB_STATE_MACHINE, 5024)) if declared.name == "Operational" else declared
        for declared in _states([state for state in State if not state.is_automatic])
    ],
    *_transitions(automatic=False),
    instance(5024, "AutomaticModeStateMachine", AUTOMATIC_MODE.id, Rule.OPTIONAL),
    method(_RESET, "Reset", inputs=(6256, _CAUSE), outputs=(6257, _ERROR_CODE)),
    method(_HALT, "Halt", inputs=(6254, _CAUSE), outputs=(6255, _ERROR_CODE)),
    method(_SELECT, "SelectModeAutomatic", outputs=(6258, _ERROR_CODE), rule=Rule.OPTIONAL),
)
