"""A PLC that takes only so many nodes in one request, whether it says so or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.common.utils import ServiceError

from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import PlcServer
from schemas.messages import Decision
from schemas.tags import VerdictCode
from tests.support.opcua import RecordingIntake, answer, verdict
from tests.support.plc import Judge, StubbornPlc, plc_client, serving

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


@pytest.mark.parametrize("first", [Decision.OK, Decision.DAMAGED])
@pytest.mark.parametrize("second", [Decision.OK, Decision.DAMAGED])
@pytest.mark.parametrize("most", [1, 2, 3])
async def test_no_pass_shows_beside_the_words_of_another_part(
    plc: PlcServer, service: StubbornPlc, most: int, first: Decision, second: Decision
) -> None:
    """A PLC that is slow to look meets any moment between two requests: it finds a PASS with all that belongs to it."""
    adapter, seen = plc_client(plc.mapping()), []
    service.most = {"write": most}
    await state(plc, service.most)
    async with serving(adapter, RecordingIntake()):
        await adapter.publish(answer(verdict(1, first, part_id="C-1", trigger_id=1)))
        admit = service._admit

        def look(what: str, nodes: Any) -> None:
            admit(what, nodes)
            read = [
                service._aspace.read_attribute_value(plc.node(word).nodeid, ua.AttributeIds.Value) for word in WORDS
            ]
            seen.append([None if each.Value is None else each.Value.Value for each in read])

        service._admit = look  # type: ignore[method-assign]
        try:
            await adapter.publish(answer(verdict(2, second, part_id="C-2", trigger_id=2)))
        finally:
            service._admit = admit  # type: ignore[method-assign]
    passed = {(trigger_id, part_id) for _, trigger_id, part_id, code, reject in seen if code == 1 or not reject}
    expected = {(1, "C-1")} if first is Decision.OK else set()
    assert passed <= expected | ({(2, "C-2")} if second is Decision.OK else set())
    assert await plc.node("result_seq").read_value() == 2
