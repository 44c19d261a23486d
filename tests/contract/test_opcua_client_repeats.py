"""A PLC with a server of its own that asks again for what was answered: it sees an answer to its trigger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from asyncua import ua

from adapters.opcua.client.diagnosis import Diagnosis, PlcFault
from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import PlcServer
from schemas.messages import Verdict
from service.errors import SinkRefused, SinkUnavailable
from service.ports import Arrival
from tests.support.fakes import RecordingIntake
from tests.support.line import arrival as arrival_of
from tests.support.memory_journal import MemoryJournal
from tests.support.opcua import answer, verdict
from tests.support.plc import StubbornPlc, plc_client, refusing, serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAID = verdict(5, event_id="e1", part_id="C-1", trigger_id=1)


class Program:
    """Notes at each change of `result_seq` what stands beside it, as a PLC program does that acts on it."""

    WORDS = ("result_seq", "result_trigger_id", "verdict", "reject", "result_part_id")

    def __init__(self, plc: PlcServer) -> None:
        self.steps: list[list[object]] = []
        self._aspace = plc.server.iserver.aspace
        self._ids = [plc.node(word).nodeid for word in self.WORDS]
        self._before = self._look()[0]
        _, self._handle = self._aspace.add_datachange_callback(self._ids[0], ua.AttributeIds.Value, self._on_sequence)

    def leave(self) -> None:
        """Look no more."""
        self._aspace.delete_datachange_callback(self._handle)

    def _look(self) -> list[object]:
        read = [self._aspace.read_attribute_value(node_id, ua.AttributeIds.Value).Value for node_id in self._ids]
        return [None if value is None else value.Value for value in read]

    async def _on_sequence(self, _: int, __: ua.DataValue) -> None:
        seen = self._look()
        if seen[0] != self._before:
            self.steps.append(seen)
        self._before = seen[0]


@pytest_asyncio.fixture(loop_scope="module")
async def program(plc: PlcServer) -> AsyncIterator[Program]:
    """Look at the results as the PLC does."""
    looking = Program(plc)
    yield looking
    looking.leave()


async def ask(plc: PlcServer, intake: RecordingIntake, said: Verdict, part_id: str | None = None) -> Arrival:
    """Give a trigger for an event; return what the service made of it."""
    trigger = await plc.trigger(part_id or said.part_id or "", event_id=said.event_id)
    arrival = await asyncio.wait_for(intake.arrivals.get(), 10)
    assert (arrival.event.trigger_id, arrival.event.event_id) == (trigger, said.event_id)
    return arrival


async def test_result_that_stands_there_makes_way_for_its_repetition(plc: PlcServer, program: Program) -> None:
    """The sequence goes by 0, where nothing passes, and each trigger finds its own number."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()) as intake:
        await adapter.publish(answer(SAID, await ask(plc, intake, SAID)))
        for _ in range(2):
            await adapter.publish(answer(SAID, await ask(plc, intake, SAID), repeated=True))
    assert program.steps == [
        [5, 1, 1, False, "C-1"],
        [0, 1, 0, True, "C-1"],
        [5, 2, 1, False, "C-1"],
        [0, 2, 0, True, "C-1"],
        [5, 3, 1, False, "C-1"],
    ]


async def test_repetition_after_another_result_is_a_change_as_it_is(plc: PlcServer, program: Program) -> None:
    """Nothing more is written than for any other result."""
    adapter, other = plc_client(plc.mapping()), verdict(6, event_id="e2", part_id="C-2", trigger_id=2)
    async with serving(adapter, RecordingIntake()) as intake:
        for said in (SAID, other):
            await adapter.publish(answer(said, await ask(plc, intake, said)))
        await adapter.publish(answer(SAID, await ask(plc, intake, SAID), repeated=True))
    assert [step[:2] for step in program.steps] == [[5, 1], [6, 2], [5, 3]]


async def test_trigger_that_is_told_again_and_is_none_keeps_no_part_from_passing(
    plc: PlcServer, program: Program
) -> None:
    """Its node was Bad for a while, and holds the number that was judged: that is still the part's own."""
    adapter, node = plc_client(plc.mapping()), plc.node("trigger")
    async with serving(adapter, RecordingIntake()) as intake:
        asked = await ask(plc, intake, SAID)
        held = await node.read_data_value()
        for value in (ua.DataValue(ua.Variant(), ua.StatusCode(ua.UInt32(ua.StatusCodes.BadNoCommunication))), held):
            await node.write_value(value)
        await ask(plc, intake, verdict(6, event_id="e2", part_id="C-2", trigger_id=2))  # by now it was told
        await adapter.publish(answer(SAID, asked))
    assert program.steps == [[5, 1, 1, False, "C-1"]]


async def test_repetition_that_comes_too_late_says_reject(plc: PlcServer, program: Program) -> None:
    """The part was due when it was first asked for."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()) as intake:
        await adapter.publish(answer(SAID, await ask(plc, intake, SAID)))
        asked = await ask(plc, intake, SAID)
        await adapter.publish(answer(SAID, asked, in_s=-1.0, repeated=True))
    assert [step[:4] for step in program.steps] == [[5, 1, 1, False], [0, 1, 0, True], [5, 2, 1, True]]


async def test_each_trigger_of_an_event_gets_its_result(plc: PlcServer, program: Program) -> None:
    """Both were given before the first was answered; what another way in asks is not the PLC's."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()) as intake:
        first, second = [await ask(plc, intake, SAID) for _ in range(2)]
        await asyncio.gather(
            adapter.publish(answer(SAID, first)),
            adapter.publish(answer(SAID, second, repeated=True)),
            adapter.publish(answer(SAID, repeated=True)),
        )
    assert [step[:2] for step in program.steps] == [[5, 1], [0, 1], [5, 2]]


async def test_event_that_came_another_way_is_answered_under_the_trigger_that_asked(
    plc: PlcServer, program: Program
) -> None:
    """Its verdict names no trigger; a first try that fails takes nothing away from the second."""
    adapter, said = plc_client(plc.mapping()), verdict(5, event_id="e1", part_id="C-1", trigger_id=None)
    async with serving(adapter, RecordingIntake()) as intake:
        await adapter.publish(answer(said))
        asked = answer(said, await ask(plc, intake, said), repeated=True)
        results, adapter._results = adapter._results, None
        with pytest.raises(SinkUnavailable):
            await adapter.publish(asked)
        adapter._results = results
        await adapter.publish(asked)
    assert program.steps == [[5, 0, 1, False, "C-1"], [0, 0, 0, True, "C-1"], [5, 1, 1, False, "C-1"]]


async def test_part_that_is_only_replayed_is_shown_though_the_first_try_failed(
    plc: PlcServer, program: Program
) -> None:
    """It is none of the gate's, and written because a trigger asked for it."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()) as intake:
        said = replace(answer(SAID, await ask(plc, intake, SAID)), for_gate=False)
        results, adapter._results = adapter._results, None
        with pytest.raises(SinkUnavailable):
            await adapter.publish(said)
        adapter._results = results
        await adapter.publish(said)
    assert [step[:4] for step in program.steps] == [[5, 1, 1, True]]


async def test_result_that_is_tried_again_is_not_told_twice(plc: PlcServer, program: Program) -> None:
    """It was written, and the connection lost before that was confirmed: the sequence does not move a second time."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()) as intake:
        await adapter.publish(answer(SAID, await ask(plc, intake, SAID)))
        assert adapter._connection is not None
        adapter._connection.abort(Diagnosis(PlcFault.CONNECTION_LOST, "by the test"))
        await eventually(lambda: adapter.fault is None)
        await adapter.publish(answer(SAID))
        await adapter.publish(answer(SAID, await ask(plc, intake, SAID), repeated=True))
    assert [step[:2] for step in program.steps] == [[5, 1], [0, 1], [5, 2]]


@pytest.mark.parametrize("kind", [ua.VariantType.UInt32, ua.VariantType.Byte])
async def test_first_result_is_seen_where_its_number_stands_already(kind: ua.VariantType) -> None:
    """A journal that is new, or a PLC that keeps its numbers: the number goes by 0, where nothing passes."""
    async with PlcServer(free_port(), types={"result_seq": kind}) as plc:
        await plc.node("result_seq").write_value(5, kind)
        adapter, program = plc_client(plc.mapping()), Program(plc)
        async with serving(adapter, RecordingIntake()) as intake:
            await adapter.publish(answer(SAID, await ask(plc, intake, SAID)))
            await adapter.publish(answer(verdict(6)))
        program.leave()
    assert [step[:4] for step in program.steps] == [[0, 0, 0, True], [5, 1, 1, False], [6, 0, 1, False]]


async def test_number_that_stands_for_another_result_is_not_taken_for_a_first_try(
    plc: PlcServer, program: Program
) -> None:
    """The try before did not come to its number, and what the PLC holds there is not of this run."""
    StubbornPlc(plc)
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()) as intake:
        asked = answer(SAID, await ask(plc, intake, SAID))
        with (
            refusing(plc, "result_trigger_id", ua.StatusCodes.BadOutOfService),
            pytest.raises(SinkUnavailable),
        ):
            await adapter.publish(asked)
    await plc.node("result_seq").write_value(5, ua.VariantType.UInt32)
    program.steps.clear()
    async with serving(adapter, RecordingIntake()):
        await adapter.publish(asked)
    assert [step[:4] for step in program.steps] == [[0, 0, 0, True], [5, 1, 1, False]]


@pytest.mark.parametrize("mapped", [True, False])
async def test_verdict_on_one_part_lets_no_other_pass(plc: PlcServer, mapped: bool) -> None:
    """The event id of the part before was left standing; where `reject` is not mapped, the verdict itself says no."""
    mapping = plc.mapping()
    adapter = plc_client(mapping if mapped else {**mapping, "reject": ""})
    async with serving(adapter, RecordingIntake()) as intake:
        await adapter.publish(answer(SAID, await ask(plc, intake, SAID)))
        asked = await ask(plc, intake, SAID, "C-2")
        await adapter.publish(answer(SAID, asked, repeated=True))
    words = ("result_trigger_id", "verdict", *(["reject"] if mapped else []))
    assert [await plc.node(word).read_value() for word in words] == (
        [asked.event.trigger_id, 1, True] if mapped else [asked.event.trigger_id, 3]
    )


@pytest.mark.parametrize("kind", [ua.VariantType.UInt32, ua.VariantType.Boolean])
async def test_result_of_the_part_that_had_the_number_before_lets_none_pass(kind: ua.VariantType) -> None:
    """A Boolean trigger, or a counter that began again, while a part is in work: the number means the newer one."""
    async with PlcServer(free_port(), types={"trigger": kind}) as plc:
        adapter, program = plc_client(plc.mapping()), Program(plc)
        async with serving(adapter, RecordingIntake()) as intake:
            asked = []
            for part_id in ("A", "B"):
                await plc.node("part_id").write_value(part_id)
                await plc.node("trigger").write_value(1, kind)
                asked.append(await asyncio.wait_for(intake.arrivals.get(), 10))
                await plc.node("trigger").write_value(0, kind)
            for seq, (part_id, arrival) in enumerate(zip("AB", asked, strict=True), start=1):
                said = verdict(seq, event_id=arrival.event.event_id, part_id=part_id, trigger_id=1)
                await adapter.publish(answer(said, arrival))
        program.leave()
    assert program.steps == [[1, 1, 1, True, "A"], [2, 1, 1, False, "B"]]


async def test_plc_that_has_restarted_hears_only_reject_of_what_it_asked_before(
    plc: PlcServer, program: Program
) -> None:
    """It may have given the same number to another part that nobody has seen yet."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()) as intake:
        asked = answer(SAID, await ask(plc, intake, SAID))
        started = plc.server.get_node(ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_StartTime)))
        await started.write_value(datetime.now(UTC))
        assert adapter._connection is not None
        adapter._connection.abort(Diagnosis(PlcFault.CONNECTION_LOST, "by the test"))
        await eventually(lambda: adapter.fault is None)
        await adapter.publish(asked)
        said = verdict(6, event_id="e2", part_id="C-2", trigger_id=2)
        await adapter.publish(answer(said, await ask(plc, intake, said)))
    assert [step[:4] for step in program.steps] == [[5, 1, 1, True], [6, 2, 1, False]]


async def test_result_of_an_earlier_run_lets_no_newer_part_of_its_number_pass(plc: PlcServer, program: Program) -> None:
    """Both were left in work when the service went down."""
    adapter, intake = plc_client(plc.mapping()), RecordingIntake()
    left = [replace(arrival_of(event_id, trigger_id=1), source=adapter.name) for event_id in ("e1", "e2")]
    intake.left_open = left
    async with serving(adapter, intake):
        for seq, asked in enumerate(left, start=1):
            said = verdict(seq, event_id=asked.event.event_id, part_id=asked.event.part_id, trigger_id=1)
            await adapter.publish(answer(said, asked))
    assert [step[:4] for step in program.steps] == [[1, 1, 1, True], [2, 1, 1, False]]


async def test_results_that_nobody_waits_for_hold_up_none_that_somebody_does(plc: PlcServer, program: Program) -> None:
    """After an outage: parts that came another way and are long gone, behind them the one that is on the line."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()) as intake:
        asked = answer(SAID, await ask(plc, intake, SAID))
        gone = [answer(verdict(seq), in_s=-10) for seq in range(10, 70)]
        late = replace(asked, deadline_monotonic=0.0)
        on_the_line = answer(verdict(99, event_id="now", part_id="C-9"), in_s=30)
        just_late = answer(verdict(98), in_s=-1)
        all_of_them = (*gone[:30], late, *gone[30:], just_late, on_the_line)
        outcomes = await asyncio.gather(*map(adapter.publish, all_of_them), return_exceptions=True)
        assert [step[0] for step in program.steps][-3:] == [5, 98, 99]
        assert [type(each) for each in outcomes].count(SinkRefused) == len(outcomes) - len(program.steps)
        assert len(program.steps) <= 4
        await adapter.publish(replace(gone[-1], verdict=verdict(100)))  # with none behind it
    assert [step[:4:3] for step in program.steps][-1] == [100, True]


@pytest.mark.parametrize("answered_first", [True, False])
async def test_number_of_earlier_runs_means_the_part_that_was_given_last(
    plc: PlcServer, program: Program, *, answered_first: bool
) -> None:
    """Whether it was answered, and its answer only never arrived, or was left in work."""
    journal = MemoryJournal()
    adapter, intake = plc_client(plc.mapping(), journal=journal), RecordingIntake()
    first, second = (replace(arrival_of(each, trigger_id=1), source=adapter.name) for each in ("e1", "e2"))
    second = replace(second, received_at=first.received_at + timedelta(seconds=1))
    answered, left = (first, second) if answered_first else (second, first)
    await journal.accept(answered, datetime.now(UTC))
    await journal.store([(answer(verdict(1, event_id=answered.event.event_id), answered), answered)])
    intake.left_open = [left]
    async with serving(adapter, intake):
        for seq, asked in enumerate((first, second), start=1):
            said = verdict(seq, event_id=asked.event.event_id, part_id=asked.event.part_id, trigger_id=1)
            await adapter.publish(answer(said, asked))
    assert [step[:4] for step in program.steps] == [[1, 1, 1, True], [2, 1, 1, False]]


async def test_trigger_that_the_last_run_answered_is_not_answered_again(plc: PlcServer, program: Program) -> None:
    """The PLC's nodes may tell of another result by now: of one that came another way, or was decided later."""
    journal = MemoryJournal()
    first, second = plc_client(plc.mapping(), journal=journal), plc_client(plc.mapping(), journal=journal)
    async with serving(first, RecordingIntake()) as intake:
        arrival = await ask(plc, intake, SAID)
        said = answer(SAID, arrival)
        await journal.accept(arrival, datetime.now(UTC))
        await journal.store([(said, arrival)])
        await first.publish(said)
        await first.publish(answer(verdict(6, event_id="other"), in_s=30))
    async with serving(second, RecordingIntake()) as intake:
        await plc.trigger("C-2", event_id="e2")
        taken = await asyncio.wait_for(intake.arrivals.get(), 10)
    assert taken.event.event_id == "e2"
    assert program.steps[-1][:2] == [6, 0]
