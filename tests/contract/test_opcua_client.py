"""The service as client of a PLC's server (contract section 4), against a real asyncua server in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from asyncua import ua

from adapters.opcua.client.diagnosis import Diagnosis, PlcFault
from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import TYPES, PlcServer
from schemas.messages import Decision, Gate
from schemas.tags import VerdictCode
from service.ports import Arrival
from tests.support.fakes import RecordingIntake
from tests.support.opcua import answer, status, verdict
from tests.support.plc import Judge, plc_client, serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served_plc() -> AsyncIterator[PlcServer]:
    """Serve one PLC for all tests: to start a server takes a second."""
    async with PlcServer(free_port(), stations=("line1", "line2")) as plc:
        yield plc


async def test_a_trigger_is_an_event_and_its_verdict_is_written_back(plc: PlcServer) -> None:
    """Trigger number, part and frame reach the intake; the PLC reads all of the result when the sequence changes."""
    decisions = [Decision.OK, Decision.DAMAGED, Decision.ERROR]
    adapter = plc_client(plc.mapping())

    def decide(arrival: Arrival) -> Decision:
        return decisions[(arrival.event.trigger_id or 0) % 3]

    async with serving(adapter, RecordingIntake(Judge(adapter, decide))) as intake:
        for seq in range(1, 7):
            trigger = await plc.trigger(f"C-{seq}", f"file:///{seq}.png", f"plc-{seq}" if seq % 2 else "")
            result = await asyncio.wait_for(plc.result(), 10)
            arrival = await intake.arrivals.get()
            assert (arrival.event.trigger_id, arrival.event.part_id) == (trigger, f"C-{seq}")
            assert arrival.image is not None
            assert arrival.image.uri == f"file:///{seq}.png"
            expected_id = f"plc-{seq}" if seq % 2 else f"line1-{trigger}-"
            assert arrival.event.event_id.startswith(expected_id)
            decision = decide(arrival)
            assert (result.seq, result.trigger_id, result.part_id) == (seq, trigger, f"C-{seq}")
            assert result.verdict is VerdictCode.of(decision)
            assert result.reject is (decision is not Decision.OK)
            assert result.score == (-1.0 if decision is Decision.ERROR else 0.5)
        assert intake.arrivals.empty()


async def test_zero_is_never_a_trigger(plc: PlcServer) -> None:
    """A PLC that takes its trigger back gives none; the same number after that is a new one."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter) as intake:
        for value in (5, 0, 5, 0):
            await plc.node("trigger").write_value(value, ua.VariantType.UInt32)
        first, second = [await asyncio.wait_for(intake.arrivals.get(), 10) for _ in range(2)]
        assert [first.event.trigger_id, second.event.trigger_id] == [5, 5]
        assert first.event.event_id != second.event.event_id
        await plc.node("trigger").write_value(6, ua.VariantType.UInt32)
        assert (await asyncio.wait_for(intake.arrivals.get(), 10)).event.trigger_id == 6


async def test_first_trigger_of_a_node_that_had_no_value_is_judged(plc: PlcServer) -> None:
    """Bad until the PLC program gives it, as after a start of both; what is Bad at a reconnect is not judged again."""
    trigger, adapter = plc.node("trigger"), plc_client(plc.mapping() | {"result_trigger_id": ""})
    nothing = ua.DataValue(ua.Variant(None), ua.StatusCode(ua.UInt32(ua.StatusCodes.BadWaitingForInitialData)))
    await plc.server.write_attribute_value(trigger.nodeid, nothing)
    async with serving(adapter) as intake:
        for number in (1, 2):
            await plc.node("part_id").write_value(f"C-{number}")
            await trigger.write_value(number, ua.VariantType.UInt32)
            arrival = await asyncio.wait_for(intake.arrivals.get(), 10)
            assert (arrival.event.trigger_id, arrival.event.part_id) == (number, f"C-{number}")
            assert (await asyncio.wait_for(plc.result(), 10)).part_id == f"C-{number}"

        await plc.server.write_attribute_value(trigger.nodeid, nothing)
        assert adapter._connection is not None
        adapter._connection.abort(Diagnosis(PlcFault.CONNECTION_LOST, "by the test"))
        await eventually(lambda: adapter.fault is None)
        for number in (2, 3):
            await trigger.write_value(number, ua.VariantType.UInt32)
        assert (await asyncio.wait_for(intake.arrivals.get(), 10)).event.trigger_id == 3
        assert intake.arrivals.empty()


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (ua.Variant(None), ua.StatusCodes.BadNoCommunication),
        (ua.Variant(7, ua.VariantType.UInt32), ua.StatusCodes.BadNoCommunication),
        (ua.Variant(7, ua.VariantType.UInt32), ua.StatusCodes.UncertainLastUsableValue),
    ],
)
async def test_trigger_that_is_not_good_is_none_and_told(plc: PlcServer, value: ua.Variant, status: int) -> None:
    """The station hears of no part, and says so while that lasts; the same number is one when the PLC stands by it."""
    trigger, adapter = plc.node("trigger"), plc_client(plc.mapping())
    async with serving(adapter) as intake:
        code = ua.StatusCode(ua.UInt32(status))
        await plc.server.write_attribute_value(trigger.nodeid, ua.DataValue(value, code))
        await eventually(lambda: (adapter.refused or "").endswith(f"trigger: {code.name}"))
        assert adapter.fault is None
        for number in (7, 8):
            await trigger.write_value(number, ua.VariantType.UInt32)
            assert (await asyncio.wait_for(intake.arrivals.get(), 10)).event.trigger_id == number
        assert adapter.refused is None
        assert intake.arrivals.empty()


@pytest.mark.parametrize("word", ["trigger", "part_id"])
async def test_node_that_goes_away_and_comes_back_is_heard_again(plc: PlcServer, word: str) -> None:
    """A program is loaded into the PLC: it is missed by its name meanwhile."""
    node, adapter = plc.node(word), plc_client(plc.mapping())
    async with serving(adapter) as intake:
        await plc.trigger("C-1")
        assert (await asyncio.wait_for(intake.arrivals.get(), 10)).event.part_id == "C-1"
        gone = ua.DataValue(ua.Variant(None), ua.StatusCode(ua.UInt32(ua.StatusCodes.BadNodeIdUnknown)))
        await plc.server.write_attribute_value(node.nodeid, gone)
        space = plc.server.iserver.aspace
        taken_out = space._nodes.pop(node.nodeid)  # asyncua's own way leaves a coroutine without an end
        await eventually(lambda: f"node_unknown: {word}" in (adapter.fault or ""))
        await eventually(lambda: adapter.fault is not None and "gone" not in adapter.fault)
        space._nodes[node.nodeid] = taken_out
        await node.write_value("" if word == "part_id" else 0, TYPES[word])
        await eventually(lambda: adapter.fault is None)
        await plc.trigger("C-2")
        assert (await asyncio.wait_for(intake.arrivals.get(), 10)).event.part_id == "C-2"
        assert intake.arrivals.empty()


async def test_every_trigger_of_a_burst_keeps_its_own_texts(plc: PlcServer) -> None:
    """Triggers that come faster than the PLC publishes are told apart by the times at which they were set."""
    adapter = plc_client(plc.mapping() | {"publishing_ms": 300})
    async with serving(adapter) as intake:
        for number in range(1, 21):
            await plc.trigger(f"C-{number}", f"file:///{number}.png")
        arrivals = [await asyncio.wait_for(intake.arrivals.get(), 10) for _ in range(20)]
    assert [arrival.event.trigger_id for arrival in arrivals] == list(range(1, 21))
    assert [arrival.event.part_id for arrival in arrivals] == [f"C-{number}" for number in range(1, 21)]
    assert [arrival.image and arrival.image.uri for arrival in arrivals] == [f"file:///{n}.png" for n in range(1, 21)]


async def test_triggers_that_catch_up_with_each_other_keep_their_own_texts(plc: PlcServer) -> None:
    """A PLC that gives some at once: the texts of the next part lie there before the trigger has been looked at."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter) as intake:
        for number in range(1, 91):
            await plc.trigger(f"C-{number}", f"file:///{number}.png")
            if number % 3 == 0:
                await asyncio.sleep(0.012)  # not a multiple of the publishing interval: every place in it is met
        arrivals = [await asyncio.wait_for(intake.arrivals.get(), 10) for _ in range(90)]
    assert [arrival.event.trigger_id for arrival in arrivals] == list(range(1, 91))
    assert [arrival.event.part_id for arrival in arrivals] == [f"C-{number}" for number in range(1, 91)]


async def test_a_late_pass_never_reaches_the_plc(plc: PlcServer) -> None:
    """After the deadline the PLC may only hear reject, whatever was seen (contract section 8)."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()):
        await adapter.publish(answer(verdict(1), in_s=-0.001))
        result = await asyncio.wait_for(plc.result(), 10)
    assert (result.verdict, result.reject) == (VerdictCode.OK, True)


async def test_a_late_pass_is_no_ok_where_the_verdict_is_all_that_the_plc_has(plc: PlcServer) -> None:
    """Without a node for reject, OK would let the part pass."""
    adapter = plc_client(plc.mapping() | {"reject": ""})
    async with serving(adapter, RecordingIntake()):
        await adapter.publish(answer(verdict(1), in_s=-0.001))
        assert (await asyncio.wait_for(plc.result(), 10)).verdict is VerdictCode.ERROR
        await adapter.publish(answer(verdict(2, Decision.ERROR, gate=Gate.PASS)))
        assert (await asyncio.wait_for(plc.result(), 10)).verdict is VerdictCode.ERROR


async def test_before_the_first_result_the_plc_reads_reject(plc: PlcServer) -> None:
    """What an earlier run left behind lets nothing pass; the sequence, which a PLC waits for, does not move."""
    await plc.node("verdict").write_value(1, ua.VariantType.Int16)
    await plc.node("result_seq").write_value(41, ua.VariantType.UInt32)
    async with serving(plc_client(plc.mapping())):
        assert await plc.node("verdict").read_value() == 0
        assert await plc.node("reject").read_value() is True
        assert await plc.node("result_seq").read_value() == 41


async def test_heartbeat_rises_only_with_the_station_s(plc: PlcServer) -> None:
    """The PLC sees the station's heartbeat, and writes nothing for a status that says nothing new."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter):
        for beat in (7, 7, 8):
            await adapter.publish_status(status(heartbeat=beat), ready=True)
            assert await plc.node("heartbeat").read_value() == beat


async def test_stations_of_one_plc_have_a_service_each(plc: PlcServer) -> None:
    """One mapping serves every station: {station} in a NodeId is its id, and no verdict goes to another one's nodes."""
    mapping = {key: text.replace("line1", "{station}") for key, text in plc.mapping("line1").items()}
    first, second = plc_client(mapping), plc_client(mapping, station="line2")
    async with serving(first) as at_first, serving(second) as at_second:
        await plc.trigger("A", station="line1")
        await plc.trigger("B", station="line2")
        assert (await asyncio.wait_for(at_first.arrivals.get(), 10)).event.part_id == "A"
        assert (await asyncio.wait_for(at_second.arrivals.get(), 10)).event.part_id == "B"
        assert (await asyncio.wait_for(plc.result("line1"), 10)).part_id == "A"
        assert (await asyncio.wait_for(plc.result("line2"), 10)).part_id == "B"


async def test_plc_that_is_away_is_waited_for(plc: PlcServer) -> None:
    """No PLC at start is a state, not an error; its fault has a name."""
    adapter = plc_client(plc.mapping() | {"endpoint": f"opc.tcp://127.0.0.1:{free_port()}"})
    async with serving(adapter, connected=False):
        await eventually(lambda: "unreachable" in (adapter.fault or ""))
