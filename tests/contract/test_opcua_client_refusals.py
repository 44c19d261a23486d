"""A PLC that refuses what it said it would take: the parts that come after must not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any
from unittest.mock import Mock

import pytest
import pytest_asyncio
from asyncua import ua
from structlog.testing import capture_logs

from adapters.opcua.client.coercion import Result
from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import PlcServer
from schemas.messages import Decision
from schemas.tags import VerdictCode
from service.errors import SinkRefused, SinkUnavailable
from service.outbox import Outbox
from tests.support.fakes import RecordingIntake
from tests.support.opcua import answer, status, verdict
from tests.support.plc import StubbornPlc, plc_client, refusing, serving
from tests.support.waiting import eventually
from tests.support.way_out import delivering

pytestmark = pytest.mark.asyncio(loop_scope="module")

BEYOND_RANGE = ua.StatusCodes.BadOutOfRange


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served_plc() -> AsyncIterator[PlcServer]:
    """Serve a PLC that refuses on demand."""
    async with PlcServer(free_port()) as plc:
        StubbornPlc(plc)
        yield plc


def put(outbox: Outbox, seq: int, decision: Decision = Decision.OK, **more: Any) -> Awaitable[bool]:
    """Send a verdict on its way; return whether the PLC takes it."""
    stored = asyncio.get_running_loop().create_future()
    stored.set_result(True)
    confirmed = outbox.put(answer(verdict(seq, decision, **more)), stored=stored)
    return asyncio.wait_for(confirmed, 10)


async def stands(plc: PlcServer, *words: str) -> list[object]:
    """Return what the nodes hold."""
    return [await plc.node(word).read_value() for word in words]


@pytest.mark.parametrize(("word", "value"), [("score", -1.0), ("result_part_id", any)])
async def test_word_that_a_gate_can_do_without_keeps_no_result_from_the_plc(
    plc: PlcServer, word: str, value: object
) -> None:
    """Its node refuses even what says "none": the rest goes out, on the same session, and the log says so once."""
    adapter = plc_client(plc.mapping())
    with capture_logs() as logs, refusing(plc, word, BEYOND_RANGE, value=value):
        async with serving(adapter, RecordingIntake()), delivering(adapter) as outbox:
            for seq in range(1, 4):
                assert await put(outbox, seq, Decision.ERROR, trigger_id=seq)
                result = await asyncio.wait_for(plc.result(), 10)
                assert (result.seq, result.trigger_id, result.verdict) == (seq, seq, VerdictCode.ERROR)
            assert adapter.fault is None
    events = [entry["event"] for entry in logs]
    assert (events.count("plc_connected"), events.count("plc_value_refused")) == (1, 1)


async def test_pass_does_not_stand_beside_the_name_of_another_part(plc: PlcServer) -> None:
    """Nothing but `result_part_id` names the part, and its node keeps the name of before: only a reject is told."""
    adapter, service = plc_client(plc.mapping() | {"result_trigger_id": ""}), plc.server.iserver.attribute_service
    assert isinstance(service, StubbornPlc)
    seen: list[list[object]] = []
    nodes = [plc.node(word).nodeid for word in ("result_part_id", "verdict", "reject")]
    async with serving(adapter, RecordingIntake()), delivering(adapter) as outbox:
        with refusing(plc, "result_part_id", BEYOND_RANGE, value="C-0"):
            assert await put(outbox, 1, part_id="C-0")
        assert await stands(plc, "result_seq", "result_part_id", "verdict", "reject") == [1, "", 1, False]
        assert await put(outbox, 2, Decision.DAMAGED, part_id="C-2")
        with refusing(plc, "result_part_id", BEYOND_RANGE):
            service.written = lambda: seen.append([service.held(node) for node in nodes])
            assert not await put(outbox, 3, part_id="C-3")
            assert "write_refused: result_part_id: '': BadOutOfRange" in (adapter.refused or "")
            assert await put(outbox, 4, Decision.DAMAGED, part_id="C-4")
            assert not await put(outbox, 5, part_id="C-5")
            service.written = lambda: None
        assert ["C-2", VerdictCode.DAMAGED, True] in seen
        assert [each for each in seen if each[1] == VerdictCode.OK or not each[2]] == []
        assert await stands(plc, "result_seq", "verdict", "reject") == [4, 0, True]
        assert await put(outbox, 6, part_id="C-6")
    assert await stands(plc, "result_seq", "result_part_id", "verdict", "reject") == [6, "C-6", 1, False]


def connections_and_looks(logs: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return how often the adapter has connected, and looked at its nodes anew on a connection."""
    events = [entry["event"] for entry in logs]
    return events.count("plc_connected"), events.count("plc_looked_at_anew")


async def test_result_that_is_refused_twice_lets_those_behind_it_go(plc: PlcServer) -> None:
    """The nodes are looked at anew in between; the refusal is told until a result is taken, and is no fault."""
    adapter = plc_client(plc.mapping())
    with capture_logs() as logs, refusing(plc, "result_trigger_id", BEYOND_RANGE, value=70_000):
        async with serving(adapter, RecordingIntake()), delivering(adapter) as outbox:
            assert await put(outbox, 1, trigger_id=1)
            assert not await put(outbox, 2, trigger_id=70_000)
            assert "write_refused: result_trigger_id: 70000: BadOutOfRange" in (adapter.refused or "")
            assert adapter.fault is None
            assert await stands(plc, "result_seq", "verdict", "reject") == [1, 0, True]
            assert await put(outbox, 3, trigger_id=3)
            assert adapter.refused is None
    assert await stands(plc, "result_seq", "result_trigger_id", "verdict", "reject") == [3, 3, 1, False]
    assert connections_and_looks(logs) == (1, 1)


async def test_value_that_is_refused_again_and_again_costs_one_look(plc: PlcServer) -> None:
    """Results that are taken in between do not make it another trouble."""
    adapter = plc_client(plc.mapping())
    with capture_logs() as logs, refusing(plc, "result_trigger_id", BEYOND_RANGE, value=70_000):
        async with serving(adapter, RecordingIntake()), delivering(adapter) as outbox:
            taken = [await put(outbox, seq, trigger_id=70_000 if seq % 2 == 0 else seq) for seq in range(1, 7)]
    assert taken == [True, False] * 3
    assert connections_and_looks(logs) == (1, 1)


@pytest.mark.parametrize("word", ["result_trigger_id", "verdict"])
async def test_triggers_that_are_given_while_a_result_is_refused_are_not_lost(plc: PlcServer, word: str) -> None:
    """Their subscription lives on, also while the PLC refuses even "no verdict"."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()) as intake:
        with refusing(plc, word, BEYOND_RANGE):
            with pytest.raises(SinkUnavailable):
                await adapter.publish(answer(verdict(1)))
            for number in range(10):
                await plc.trigger(f"C-{number}")
                arrival = await asyncio.wait_for(intake.arrivals.get(), 10)
                assert arrival.event.part_id == f"C-{number}"
        await eventually(lambda: adapter.fault is None)
        await adapter.publish(answer(verdict(1)))


async def test_node_that_is_gone_has_the_trigger_subscribed_to_anew(plc: PlcServer) -> None:
    """A program was loaded: what was subscribed to may be gone as well."""
    adapter = plc_client(plc.mapping())
    with capture_logs() as logs:
        async with serving(adapter, RecordingIntake()), delivering(adapter) as outbox:
            with refusing(plc, "result_trigger_id", ua.StatusCodes.BadNodeIdUnknown):
                assert not await put(outbox, 1)
            assert await put(outbox, 2)
    assert connections_and_looks(logs) == (2, 0)


async def test_plc_that_refuses_every_result_is_not_looked_at_anew_for_each(plc: PlcServer) -> None:
    """Those that follow are refused as the first one was, on nodes that were looked at since."""
    adapter = plc_client(plc.mapping())
    with capture_logs() as logs:
        async with serving(adapter, RecordingIntake()), delivering(adapter) as outbox:
            with refusing(plc, "result_trigger_id", ua.StatusCodes.BadOutOfService):
                assert not any([await put(outbox, seq) for seq in range(1, 6)])
            assert await put(outbox, 6)
    assert connections_and_looks(logs) == (1, 1)


async def test_defect_after_a_result_was_passed_over_stops_nothing(
    plc: PlcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has failed waits for the end of the fault; and no PASS is left standing by what crashed."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()), delivering(adapter) as outbox:
        with refusing(plc, "result_trigger_id", BEYOND_RANGE, value=70_000):
            assert not await put(outbox, 1, trigger_id=70_000)
        assert adapter._results is not None
        write_sequence, crashes = adapter._results._write_sequence, [ZeroDivisionError()]

        async def crash_once(result: Result) -> None:
            if crashes:
                raise crashes.pop()
            assert await stands(plc, "result_seq", "result_trigger_id", "verdict", "reject") == [0, 2, 1, False]
            await write_sequence(result)

        monkeypatch.setattr(adapter._results, "_write_sequence", crash_once)
        with pytest.raises(ZeroDivisionError):
            await adapter.publish(answer(verdict(2, trigger_id=2)))
        assert await stands(plc, "verdict", "reject") == [0, True]
        assert await put(outbox, 2, trigger_id=2)


async def test_pass_that_a_defect_left_and_the_plc_keeps_is_taken_back_later(
    plc: PlcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written until the PLC has confirmed that nothing passes."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()):
        assert adapter._results is not None
        monkeypatch.setattr(adapter._results, "_write_sequence", Mock(side_effect=ZeroDivisionError))
        with refusing(plc, "reject", BEYOND_RANGE, value=True):
            with pytest.raises(ZeroDivisionError):
                await adapter.publish(answer(verdict(1)))
            assert "ZeroDivisionError" in (adapter.fault or "")
        await eventually(lambda: adapter.fault is None)
        assert await stands(plc, "verdict", "reject") == [0, True]


async def test_other_refusal_than_before_has_the_nodes_looked_at_anew(plc: PlcServer) -> None:
    """After a first trouble the PLC program is changed: what is wrong now may heal by that."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()):
        with refusing(plc, "result_trigger_id", BEYOND_RANGE):
            with pytest.raises(SinkUnavailable):
                await adapter.publish(answer(verdict(1)))
            await eventually(lambda: adapter.fault is None)
            with pytest.raises(SinkRefused):
                await adapter.publish(answer(verdict(1)))
        with (
            refusing(plc, "result_trigger_id", ua.StatusCodes.BadNodeIdUnknown),
            pytest.raises(SinkUnavailable) as raised,
        ):
            await adapter.publish(answer(verdict(2)))
        assert not isinstance(raised.value, SinkRefused)


@pytest.mark.parametrize("refused", ["result_trigger_id", "result_seq"])
async def test_no_pass_stands_beside_a_number_that_could_not_be_written(plc: PlcServer, refused: str) -> None:
    """From the first refusal on, not only when the nodes have been looked at anew."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()):
        with refusing(plc, refused, BEYOND_RANGE):
            with pytest.raises(SinkUnavailable):
                await adapter.publish(answer(verdict(1)))
            assert await stands(plc, "result_seq", "verdict", "reject") == [0, 0, True]


async def test_result_is_not_passed_over_where_a_pass_may_stand(plc: PlcServer) -> None:
    """The PLC takes neither the result nor "reject": nothing follows until it does, and the fault says so."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()), delivering(adapter) as outbox:
        assert await put(outbox, 1)
        with refusing(plc, "reject", BEYOND_RANGE, value=True):
            waiting = [
                asyncio.ensure_future(put(outbox, seq, decision))
                for seq, decision in ((2, Decision.DAMAGED), (3, Decision.OK))
            ]
            await eventually(lambda: "write_refused: reject" in (adapter.fault or ""))
            assert await plc.node("result_seq").read_value() == 1
            assert not any(each.done() for each in waiting)
        assert await asyncio.gather(*waiting) == [True, True]


async def test_refusal_of_the_whole_request_is_told_until_a_result_is_taken(plc: PlcServer) -> None:
    """The station does not look well while no result reaches the PLC; then all of them do, in their order."""
    adapter, service = plc_client(plc.mapping()), plc.server.iserver.attribute_service
    assert isinstance(service, StubbornPlc)
    async with serving(adapter, RecordingIntake()), delivering(adapter) as outbox:
        service.fails[plc.node("result_trigger_id").nodeid] = ua.StatusCodes.BadOutOfService
        waiting = [asyncio.ensure_future(put(outbox, seq)) for seq in (1, 2)]
        await eventually(lambda: "server_refused: write: BadOutOfService" in (adapter.fault or ""))
        await eventually(lambda: service.failed >= 3)
        await eventually(lambda: adapter.fault is None)
        assert "server_refused: write: BadOutOfService" in (adapter.refused or "")
        service.fails.clear()
        assert await asyncio.gather(*waiting) == [True, True]
        assert (adapter.fault, adapter.refused) == (None, None)
        assert [(await plc.result()).seq for _ in waiting] == [1, 2]


async def test_refused_heartbeat_ends_nothing(plc: PlcServer) -> None:
    """It is told once and tried again with each beat; results go their way."""
    adapter = plc_client(plc.mapping())
    with capture_logs() as logs:
        async with serving(adapter, RecordingIntake()):
            with refusing(plc, "heartbeat", BEYOND_RANGE):
                for beat in (7, 8):
                    with pytest.raises(SinkUnavailable, match="write_refused: heartbeat"):
                        await adapter.publish_status(status(heartbeat=beat), ready=True)
                    await adapter.publish(answer(verdict(beat)))
                assert adapter.fault is None
            await adapter.publish_status(status(heartbeat=8), ready=True)
            assert await stands(plc, "heartbeat", "result_seq") == [8, 8]
    events = [entry["event"] for entry in logs]
    assert (events.count("plc_connected"), events.count("plc_value_refused")) == (1, 1)
