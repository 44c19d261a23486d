"""The vision system's state, without OPC UA: what the station does, what clients ask, which transitions that takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.server.machine_vision.jobs import Job, Jobs
from adapters.opcua.server.machine_vision.state_machines import State, Transition
from adapters.opcua.server.machine_vision.states import Observation, VisionStates
from schemas.messages import Fault, FaultCode, ModelRef, StationState
from tests.support.opcua import status, verdict

MODEL = ModelRef(name="canister", version="1", sha256="0" * 64)
JUDGING = Observation(judging=True, paused=False, broken=False, has_model=True)
PAUSED = Observation(judging=False, paused=True, broken=False, has_model=True)
BROKEN = Observation(judging=False, paused=False, broken=True, has_model=True)
NO_MODEL = Observation(judging=False, paused=False, broken=False, has_model=False)
SEEN = (JUDGING, PAUSED, BROKEN, NO_MODEL)


def serving(*seen: Observation) -> VisionStates:
    """Return the states of a station that serves and was then seen like that."""
    states = VisionStates()
    states.start()
    for one in seen:
        states.observe(one)
    return states


def test_a_station_with_a_model_is_ready_and_one_without_is_initialized() -> None:
    """No client has to call anything for the line to run."""
    states = VisionStates()
    assert (states.main, states.mode) == (State.PREOPERATIONAL, None)
    assert states.start() == [
        Transition.PREOPERATIONAL_TO_OPERATIONAL_AUTO,
        Transition.PREOPERATIONAL_TO_INITIALIZED_AUTO,
    ]
    assert states.observe(NO_MODEL) == []
    assert states.current is State.INITIALIZED
    assert states.observe(JUDGING) == [Transition.INITIALIZED_TO_READY_AUTO]
    assert states.observe(JUDGING) == []
    assert states.observe(NO_MODEL) == [Transition.READY_TO_INITIALIZED_AUTO]


def test_a_pause_by_command_halts_and_a_resume_comes_back_through_preoperational() -> None:
    """Whoever pauses over MQTT is seen by clients of the companion model."""
    states = serving(JUDGING)
    assert states.observe(PAUSED) == [Transition.OPERATIONAL_TO_HALTED_AUTO]
    assert states.observe(PAUSED) == []
    assert states.observe(NO_MODEL) == []  # still halted: it does not judge
    assert [made.title for made in states.observe(JUDGING)] == [
        "HaltedToPreoperationalAuto",
        "PreoperationalToOperationalAuto",
        "PreoperationalToInitializedAuto",
        "InitializedToReadyAuto",
    ]


def test_a_hanging_station_is_in_error_until_it_judges_again() -> None:
    """The error ends by itself where the station does."""
    states = serving(JUDGING)
    assert states.observe(BROKEN) == [Transition.OPERATIONAL_TO_ERROR_AUTO]
    assert (states.current, states.observe(BROKEN)) == (State.ERROR, [])
    assert states.observe(JUDGING) == [Transition.ERROR_TO_OPERATIONAL_AUTO, Transition.INITIALIZED_TO_READY_AUTO]


def test_a_reset_station_stays_preoperational_until_it_is_told() -> None:
    """Reset pauses: seeing the pause must not make a Halted of it."""
    states = serving(JUDGING)
    states.take(Transition.OPERATIONAL_TO_PREOPERATIONAL)
    assert states.observe(PAUSED) == []
    assert states.current.title == "Preoperational"
    states.begin_automatic(by_method=True)
    assert states.current.title == "Initialized"


def test_a_job_ends_where_the_model_goes() -> None:
    """Nothing executes without a recipe."""
    states = serving(JUDGING)
    states.take(Transition.READY_TO_CONTINUOUS_EXECUTION)
    assert states.observe(JUDGING) == []
    assert states.observe(NO_MODEL) == [
        Transition.CONTINUOUS_EXECUTION_TO_READY_AUTO,
        Transition.READY_TO_INITIALIZED_AUTO,
    ]


@given(st.lists(st.sampled_from(SEEN) | st.sampled_from(Transition), max_size=40))
def test_no_sequence_leaves_the_machines_inconsistent(steps: list[Observation | Transition]) -> None:
    """Whatever is seen and asked: a mode is there exactly in Operational, and each step begins where the last ended."""
    states = serving()
    here: set[State | None] = {states.main, states.mode}
    for step in steps:
        if isinstance(step, Observation):
            taken = states.observe(step)
        elif states.find(step):
            taken = states.take(step)
        else:
            continue
        for made in taken:
            if not made.name.startswith("PREOPERATIONAL_TO_INITIALIZED"):
                assert made.value.source in here
            here = {made.value.target, State.OPERATIONAL if made.value.target.is_automatic else None}
            if made.value.target is State.OPERATIONAL:
                here.add(State.INITIALIZED)
        assert (states.mode is not None) is (states.main is State.OPERATIONAL)
        if isinstance(step, Observation) and step.judging:
            assert states.main is State.OPERATIONAL


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (None, JUDGING),
        (FaultCode.PAUSED, PAUSED),
        (FaultCode.COMPUTE_STUCK, BROKEN),
        (FaultCode.COMPUTE_FAILING, BROKEN),
    ],
)
def test_observation_is_read_from_a_status(code: FaultCode | None, expected: Observation) -> None:
    """A fault beside the decisions is none: the station judges."""
    fault = None if code is None else Fault(code=code, text="x")
    state = StationState.READY if code is None else StationState.FAULT
    assert Observation.of(status(state, fault=fault).model_copy(update={"model": MODEL})) == expected
    degraded = status(StationState.DEGRADED, fault=Fault(code=FaultCode.SINK_DOWN, text="x"))
    assert Observation.of(degraded.model_copy(update={"model": MODEL})) == JUDGING


def test_parts_belong_to_the_job_in_whose_time_they_were_received() -> None:
    """A part that was received before a job began, or after it ended, is a job of its own."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    jobs = Jobs("line1", start)
    job = Job(jobs.next_id(), start)
    jobs.begin(job, single=False)
    jobs.end(start + timedelta(seconds=10), aborted=True)
    for seconds, expected in ((-1, None), (0, job.id), (9, job.id), (10, None)):
        said = verdict().model_copy(update={"received_at": start + timedelta(seconds=seconds)})
        found = jobs.of(said)
        assert (found and found.id) == expected
        assert found is None or found.aborted
    assert jobs.current is None


def test_the_part_of_a_single_job_is_known_by_its_event_id_once() -> None:
    """A repeated verdict is no second result of the job."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    jobs = Jobs("line1", start)
    ids = [jobs.next_id() for _ in range(100)]
    assert len(set(ids)) == 100
    for job_id in ids:
        jobs.begin(Job(job_id, start), single=True)
    said = verdict(event_id=ids[-1])
    assert jobs.of(said) == jobs.current
    assert jobs.of(said) is None
    assert jobs.of(verdict(event_id=ids[0])) is None  # forgotten: bounded
