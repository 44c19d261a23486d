"""The simulated PLC gate against the real server: what it opens for, and what it does when something fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from asyncua import ua

from adapters.opcua.server.adapter import OpcUaServerAdapter
from adapters.simulation.broker import free_port
from adapters.simulation.plc import GateAction, PlcGate
from schemas.messages import Decision, Gate, Verdict
from schemas.settings import OpcUaServerSettings
from schemas.tags import Tag, VerdictCode
from service.ports import Arrival
from tests.support.clock import HandClock
from tests.support.fakes import RecordingIntake
from tests.support.opcua import STATION, answer, running, status, verdict


@contextlib.asynccontextmanager
async def watching(gate: PlcGate) -> AsyncIterator[PlcGate]:
    """Let `gate` run, connected."""
    task = asyncio.create_task(gate.run())
    try:
        await asyncio.wait_for(gate.connected.wait(), 10)
        yield gate
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def taken(gate: PlcGate, count: int) -> list[GateAction]:
    """Return the next `count` actions of `gate`."""
    async with asyncio.timeout(10):
        actions = gate.actions()
        return [await anext(actions) for _ in range(count)]


async def acknowledged(adapter: OpcUaServerAdapter, seq: int) -> None:
    """Return once the gate has acknowledged `seq`."""
    tags = adapter._tags
    assert tags is not None
    written = asyncio.Event()

    async def note(handle: int, value: ua.DataValue) -> None:  # noqa: ARG001 - asyncua's signature
        if value.Value == ua.Variant(seq, ua.VariantType.UInt32):
            written.set()

    tags.aspace.add_datachange_callback(tags.node_ids[Tag.ResultAck], ua.AttributeIds.Value, note)
    if tags.number(Tag.ResultAck) != seq:
        await asyncio.wait_for(written.wait(), 10)


async def test_gate_opens_for_ok_and_rejects_everything_else(tmp_path: Path) -> None:
    """Each triggered part is followed to its result, and every result is acknowledged."""
    decisions = {"C-1": Decision.OK, "C-2": Decision.DAMAGED, "C-3": Decision.ERROR}
    async with running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, intake):

        def judge(arrival: Arrival) -> None:
            part_id, trigger_id = arrival.event.part_id or "", arrival.event.trigger_id or 0
            said = verdict(
                trigger_id,
                decisions[part_id],
                event_id=arrival.event.event_id,
                part_id=part_id,
                trigger_id=trigger_id,
            )
            publishing.append(asyncio.create_task(adapter.publish(answer(said))))

        publishing: list[asyncio.Task[None]] = []
        intake.judge = judge
        async with watching(PlcGate(adapter.endpoint, STATION)) as gate:
            actions = []
            for part_id in decisions:
                await gate.trigger(part_id, f"file:///{part_id}.png", f"event-{part_id}")
                actions += await taken(gate, 1)
            await acknowledged(adapter, 3)
            await asyncio.gather(*publishing)
    assert [(action.part_id, action.event_id) for action in actions] == [(part, f"event-{part}") for part in decisions]
    assert [action.verdict for action in actions] == [VerdictCode.OK, VerdictCode.DAMAGED, VerdictCode.ERROR]
    assert [action.opened for action in actions] == [True, False, False]


async def test_gate_finds_results_that_newer_ones_have_overwritten(tmp_path: Path) -> None:
    """A burst faster than any sampling is taken from the ring, whole and in order; a late PASS is not opened."""
    async with (
        running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, _),
        watching(PlcGate(adapter.endpoint, STATION, hold_s=60.0)) as gate,
    ):
        for seq in range(1, 7):
            await adapter.publish(answer(verdict(seq, Decision.DAMAGED if seq == 3 else Decision.OK)))
        actions = await taken(gate, 6)
        await acknowledged(adapter, 6)
        late = verdict(7).model_copy(update={"late": True})
        await adapter.publish(answer(late, in_s=-1.0))
        await adapter.publish(answer(verdict(8, gate=Gate.REJECT)))
        actions += await taken(gate, 2)
    assert [action.seq for action in actions] == list(range(1, 9))
    assert [action.opened for action in actions] == [True, True, False, True, True, True, False, False]


async def test_gate_acts_once_on_each_result_although_one_is_repeated(tmp_path: Path) -> None:
    """Parts 1 and 2, then 1 once more, then 3: the repetition is acted on as what it is, and 2 not again."""
    async with running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, intake):
        answered: dict[str, Verdict] = {}
        publishing: list[asyncio.Task[None]] = []

        def judge(arrival: Arrival) -> None:
            event_id = arrival.event.event_id
            repeated = event_id in answered
            said = answered.setdefault(event_id, verdict(len(answered) + 1, event_id=event_id))
            publishing.append(asyncio.create_task(adapter.publish(answer(said, arrival, repeated=repeated))))

        intake.judge = judge
        async with watching(PlcGate(adapter.endpoint, STATION, hold_s=60.0)) as gate:
            acted = []
            for part in (1, 2, 1, 3):
                await gate.trigger(f"C-{part}", "file:///part.png", f"event-{part}")
                acted += await taken(gate, 1)
            await acknowledged(adapter, 3)
            await asyncio.gather(*publishing)
    assert [action.seq for action in acted] == [1, 2, 1, 3]


async def test_gate_takes_a_result_that_the_next_trigger_has_made_invalid(tmp_path: Path) -> None:
    """A part whose result was read too late is found in the ring, where an old PASS no longer opens."""
    async with (
        running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, _),
        watching(PlcGate(adapter.endpoint, STATION, hold_s=0.0)) as gate,
    ):
        await adapter.publish(answer(verdict(1)))
        assert adapter._tags is not None
        adapter._on_trigger(adapter._tags, 1)
        (action,) = await taken(gate, 1)
    assert (action.seq, action.verdict, action.opened) == (1, VerdictCode.OK, False)


async def test_gate_rejects_while_the_heartbeat_stands_still(tmp_path: Path) -> None:
    """Two seconds without a beat end the trust in an OK; the next beat restores it."""
    clock = HandClock()
    async with (
        running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, _),
        watching(PlcGate(adapter.endpoint, STATION, clock=clock)) as gate,
    ):
        trusted = [gate.trusted]
        clock.seconds = 2.1
        trusted.append(gate.trusted)
        await adapter.publish(answer(verdict(1)))
        actions = await taken(gate, 1)
        await adapter.publish_status(status(heartbeat=2), ready=True)
        await adapter.publish(answer(verdict(2)))
        actions += await taken(gate, 1)
    assert trusted == [True, False]
    assert [action.opened for action in actions] == [False, True]


async def test_gate_comes_back_after_a_restart_of_the_station(tmp_path: Path) -> None:
    """The server goes away and comes back with newer results: the gate goes on by itself."""
    settings = OpcUaServerSettings(port=free_port())
    async with contextlib.AsyncExitStack() as stack:
        async with running(settings, tmp_path) as (adapter, _):
            gate = await stack.enter_async_context(watching(PlcGate(adapter.endpoint, STATION, hold_s=60.0)))
            await adapter.publish(answer(verdict(1)))
            actions = await taken(gate, 1)
        async with running(settings, tmp_path, RecordingIntake()) as (adapter, _):
            await adapter.publish_status(status(heartbeat=2), ready=True)
            await adapter.publish(answer(verdict(2, Decision.DAMAGED)))
            actions += await taken(gate, 1)
            await acknowledged(adapter, 2)
            await stack.aclose()
    assert [(action.seq, action.opened) for action in actions] == [(1, True), (2, False)]
