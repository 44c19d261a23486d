"""A PLC that takes only so many nodes in one request, whether it says so or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.common.utils import ServiceError

from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import PlcServer
from schemas.messages import Decision
from schemas.tags import VerdictCode
from service.errors import SinkRefused, SinkUnavailable
from tests.support.fakes import RecordingIntake
from tests.support.opcua import answer, verdict
from tests.support.plc import Judge, StubbornPlc, plc_client, refusing, serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATED = {
    "read": ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    "write": ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerWrite,
    "monitor": ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
}
WORDS = ("result_seq", "result_trigger_id", "result_part_id", "verdict", "reject")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served_plc() -> AsyncIterator[PlcServer]:
    """Serve a PLC that can be told how many nodes it takes."""
    async with PlcServer(free_port()) as plc:
        StubbornPlc(plc)
        yield plc


@pytest_asyncio.fixture(loop_scope="module")
async def service(plc: PlcServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StubbornPlc]:
    """Return the PLC's service, which refuses too many items as it does too many nodes."""
    stubborn = plc.server.iserver.attribute_service
    assert isinstance(stubborn, StubbornPlc)
    subscriptions = plc.server.iserver.subscription_service
    monitor = subscriptions.create_monitored_items

    async def monitor_some(params: ua.CreateMonitoredItemsParameters, *more: Any) -> Any:
        if len(params.ItemsToCreate) > stubborn.most.get("monitor", 1000):
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        stubborn.requests.append(("monitor", len(params.ItemsToCreate)))
        return await monitor(params, *more)

    monkeypatch.setattr(subscriptions, "create_monitored_items", monitor_some)
    stubborn.requests.clear()
    yield stubborn
    stubborn.most = {}
    await state(plc, {})


async def state(plc: PlcServer, limits: dict[str, int]) -> None:
    """Let the PLC say how much it takes at once; 0: as much as anybody likes."""
    for what, identifier in STATED.items():
        node = plc.server.get_node(ua.NodeId(ua.Int32(identifier)))
        await node.write_value(limits.get(what, 0), ua.VariantType.UInt32)


async def inspects(plc: PlcServer) -> None:
    """Parts are seen and answered."""
    decisions = [Decision.OK, Decision.DAMAGED, Decision.ERROR]
    adapter = plc_client(plc.mapping())
    judge = Judge(adapter, lambda arrival: decisions[(arrival.event.trigger_id or 0) % 3])
    async with serving(adapter, RecordingIntake(judge)) as intake:
        for number in range(1, 5):
            trigger = await plc.trigger(f"C-{number}", f"file:///{number}.png")
            result = await asyncio.wait_for(plc.result(), 10)
            arrival = await intake.arrivals.get()
            assert (arrival.event.part_id, arrival.image and arrival.image.uri) == (
                f"C-{number}",
                f"file:///{number}.png",
            )
            assert (result.trigger_id, result.part_id) == (trigger, f"C-{number}")
            assert result.verdict is VerdictCode.of(decisions[trigger % 3])
            assert result.reject is (decisions[trigger % 3] is not Decision.OK)


@pytest.mark.parametrize("most", [1, 2, 4, 25])
async def test_requests_keep_to_what_the_plc_says_it_takes(plc: PlcServer, service: StubbornPlc, most: int) -> None:
    """Nothing is ever asked that it would refuse, but for the question how much it takes."""
    service.most = dict.fromkeys(STATED, most)
    await state(plc, service.most)
    await inspects(plc)
    assert {what for what, _ in service.requests} == set(STATED)
    assert ("read", most) in service.requests


@pytest.mark.parametrize("most", [1, 4])
async def test_plc_that_does_not_say_how_much_it_takes_is_asked_for_less(
    plc: PlcServer, service: StubbornPlc, most: int
) -> None:
    """A request that is too large for it is halved until it is not."""
    service.most = dict.fromkeys(STATED, most)
    await inspects(plc)


async def test_limit_that_is_large_enough_splits_nothing(plc: PlcServer, service: StubbornPlc) -> None:
    """A result stays two requests: its words, and its number."""
    await state(plc, dict.fromkeys(STATED, 1000))
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()):
        service.requests.clear()
        await adapter.publish(answer(verdict(1)))
    assert [count for what, count in service.requests if what == "write"] == [5, 1]


@contextmanager
def looking(plc: PlcServer, service: StubbornPlc) -> Iterator[list[list[object]]]:
    """Note what stands in the PLC after each request, before it answers."""
    nodes, seen = [plc.node(word).nodeid for word in WORDS], []

    def look() -> None:
        seen.append([service.held(node) for node in nodes])

    service.written = look
    try:
        yield seen
    finally:
        service.written = lambda: None


@pytest.mark.parametrize("first", [Decision.OK, Decision.DAMAGED])
@pytest.mark.parametrize("second", [Decision.OK, Decision.DAMAGED])
@pytest.mark.parametrize("most", [1, 2, 3])
async def test_no_pass_shows_beside_the_words_of_another_part(
    plc: PlcServer, service: StubbornPlc, most: int, first: Decision, second: Decision
) -> None:
    """A PLC that is slow to look meets any moment between two requests: it finds a PASS with all that belongs to it."""
    adapter = plc_client(plc.mapping())
    service.most = {"write": most}
    await state(plc, service.most)
    async with serving(adapter, RecordingIntake()):
        await adapter.publish(answer(verdict(1, first, part_id="C-1", trigger_id=1)))
        with looking(plc, service) as seen:
            await adapter.publish(answer(verdict(2, second, part_id="C-2", trigger_id=2)))
    passed = {(trigger_id, part_id) for _, trigger_id, part_id, code, reject in seen if code == 1 or not reject}
    expected = {(1, "C-1")} if first is Decision.OK else set()
    assert passed <= expected | ({(2, "C-2")} if second is Decision.OK else set())
    assert await plc.node("result_seq").read_value() == 2


@pytest.mark.parametrize("refused", ["result_trigger_id", "verdict", "reject"])
@pytest.mark.parametrize(("most", "stated"), [(1, True), (2, True), (3, True), (4, True), (4, False)])
async def test_split_result_of_which_a_word_is_refused_passes_no_other_part(
    plc: PlcServer, service: StubbornPlc, most: int, stated: bool, refused: str
) -> None:
    """The part before was damaged, and its trigger is what the PLC still holds: no request puts a PASS beside it."""
    adapter = plc_client(plc.mapping())
    service.most = {"write": most}
    await state(plc, service.most if stated else {})
    values = {"result_trigger_id": 2, "verdict": 1, "reject": False}
    async with serving(adapter, RecordingIntake()):
        if stated:
            await adapter.publish(answer(verdict(1, Decision.DAMAGED, part_id="C-1", trigger_id=1)))
        else:
            await plc.node("result_trigger_id").write_value(1, ua.VariantType.UInt32)
        with (
            looking(plc, service) as seen,
            refusing(plc, refused, ua.StatusCodes.BadOutOfRange, value=values[refused]),
            pytest.raises(SinkUnavailable),
        ):
            await adapter.publish(answer(verdict(2, part_id="C-2", trigger_id=2)))
    assert len(seen) > 2
    assert [each for each in seen if each[3] == 1 and not each[4]] == []


async def test_plc_that_has_refused_a_word_once_is_shown_no_pass_beside_what_it_refuses(
    plc: PlcServer, service: StubbornPlc
) -> None:
    """All fits into one request; after the first refusal each step is confirmed before the next."""
    adapter = plc_client(plc.mapping())
    service.most = {}
    await state(plc, {})
    seen: list[list[object]] = []
    async with serving(adapter, RecordingIntake()):
        for seq, trigger_id in ((1, 70_001), (3, 70_003)):
            await adapter.publish(answer(verdict(seq, Decision.DAMAGED, part_id="C", trigger_id=trigger_id)))
            with (
                looking(plc, service) as seen,
                refusing(plc, "result_trigger_id", ua.StatusCodes.BadOutOfRange, value=trigger_id + 1),
                pytest.raises(SinkUnavailable if seq == 1 else SinkRefused),
            ):
                await adapter.publish(answer(verdict(seq + 1, trigger_id=trigger_id + 1)))
            await eventually(lambda: adapter.fault is None)
        service.requests.clear()
        await adapter.publish(answer(verdict(5, trigger_id=5)))
    assert [count for what, count in service.requests if what == "write"] == [2, 3, 2, 1]
    assert [each for each in seen if each[3] == 1 and not each[4]] == []
