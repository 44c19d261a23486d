"""A served station for tests of the OPC UA server: answers of every kind, an intake that remembers, a raw client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asyncua import Client, Node, ua

from adapters.clock import SystemClock
from adapters.opcua.events import DefaultEventIds
from adapters.opcua.server.adapter import OpcUaServerAdapter
from adapters.opcua.server.ring import ResultRing
from adapters.simulation.broker import free_port
from schemas.messages import (
    Box,
    Command,
    CommandReply,
    Decision,
    Fault,
    Gate,
    JudgedImage,
    ModelRef,
    Reason,
    StagesMs,
    StationState,
    Status,
    Verdict,
)
from schemas.settings import OpcUaServerSettings
from schemas.tags import NAMESPACE_URI, Tag
from service.ports import Answer, Arrival, Asker
from tests.support.fakes import RecordingIntake

STATION = "line1"
_REASONS = {Decision.OK: Reason.SCORE_BELOW_THRESHOLD, Decision.DAMAGED: Reason.SCORE_AT_OR_ABOVE_THRESHOLD}


def verdict(
    seq: int = 1,
    decision: Decision = Decision.OK,
    *,
    event_id: str | None = None,
    part_id: str | None = "C-1",
    trigger_id: int | None = None,
    reason: Reason | None = None,
    gate: Gate | None = None,
    boxes: tuple[Box, ...] = (),
) -> Verdict:
    """Return a verdict; an ERROR carries neither score nor image."""
    now = datetime.now(UTC)
    judged = decision is not Decision.ERROR
    return Verdict(
        station=STATION,
        event_id=event_id or f"event-{seq}",
        part_id=part_id,
        trigger_id=trigger_id,
        seq=seq,
        decision=decision,
        gate=gate or (Gate.PASS if decision is Decision.OK else Gate.REJECT),
        reason=reason or _REASONS.get(decision, Reason.FRAME_MISSING),
        uncertain=False,
        score=0.5 if judged else None,
        threshold=0.75 if judged else None,
        boxes=boxes,
        image=JudgedImage(width=640, height=480) if judged else None,
        model=ModelRef(name="canister", version="3", sha256="0" * 64) if judged else None,
        captured_at=None,
        received_at=now - timedelta(milliseconds=20),
        decided_at=now,
        latency_ms=15.0,
        stages_ms=StagesMs(),
    )


def answer(said: Verdict, to: Arrival | None = None, *, in_s: float = 10.0, repeated: bool = False) -> Answer:
    """Return `said` on its way to the sinks, with `in_s` seconds left until its deadline; by default, to a camera."""
    asker = Asker("mqtt", said.trigger_id, said.part_id) if to is None else Asker.of(to)
    return Answer(said, said.to_json(), SystemClock().monotonic() + in_s, asker, repeated)


def status(
    state: StationState = StationState.READY, *, heartbeat: int = 1, queue: int = 0, fault: Fault | None = None
) -> Status:
    return Status(
        station=STATION,
        state=state,
        since=datetime.now(UTC),
        version="0",
        heartbeat=heartbeat,
        queue=queue,
        fault=fault,
    )


class NoCommands:
    """Nobody commands a station over OPC UA."""

    async def handle(self, command: Command, source: str) -> CommandReply:
        raise AssertionError(f"{source} sent {command.command}")


class ServedStation:
    """A server adapter that runs, its intake, and a plain client that is connected to it."""

    def __init__(self, adapter: OpcUaServerAdapter, intake: RecordingIntake, client: Client, namespace: int) -> None:
        self.adapter = adapter
        self.intake = intake
        self.client = client
        self.namespace = namespace

    async def start_again(self) -> None:
        """Bring tags and adapter back to where they were after the start."""
        adapter, clock = self.adapter, SystemClock()
        assert adapter._tags is not None
        adapter._tags.write(
            {tag: tag.spec.start for tag in Tag}, clock.now(), absent=ua.StatusCodes.BadWaitingForInitialData
        )
        adapter._tags.unknown.clear()
        adapter._event_ids = DefaultEventIds(STATION, clock.now())
        adapter._asked = {}
        adapter._ring = ResultRing()
        while not self.intake.arrivals.empty():
            self.intake.arrivals.get_nowait()
        await adapter.publish_status(status(), ready=True)

    def node(self, tag: Tag) -> Node:
        return tag_node(self.client, self.namespace, tag)

    async def read(self, *tags: Tag) -> list[object]:
        """Return the values of `tags`, read in one request; None where the status is Bad."""
        return list(await self.client.read_values([self.node(tag) for tag in tags]))

    async def write(self, values: dict[Tag, int | str]) -> list[ua.StatusCode]:
        """Write tags in one request, in the order given."""
        variants = [
            ua.Variant(value, ua.VariantType.UInt32 if isinstance(value, int) else ua.VariantType.String)
            for value in values.values()
        ]
        nodes = [self.node(tag) for tag in values]
        return list(await self.client.write_values(nodes, variants, raise_on_partial_error=False))

    async def arrival(self) -> Arrival:
        return await asyncio.wait_for(self.intake.arrivals.get(), 10)


def tag_node(client: Client, namespace: int, tag: Tag) -> Node:
    return client.get_node(f"ns={namespace};s={STATION}.{tag.name}")


def plain_client(endpoint: str) -> Client:
    # it would give up for good where a loaded machine keeps its probe waiting for a second
    client = Client(endpoint, timeout=10, watchdog_intervall=10.0)
    client.session_timeout = 60_000
    return client


@contextlib.asynccontextmanager
async def running(
    settings: OpcUaServerSettings, pki: Path, intake: RecordingIntake | None = None
) -> AsyncIterator[tuple[OpcUaServerAdapter, RecordingIntake]]:
    """Open a server adapter, run it, and show Ready."""
    adapter = OpcUaServerAdapter(settings, station=STATION, clock=SystemClock(), pki=pki)
    intake = intake or RecordingIntake()
    await adapter.open()
    task = asyncio.create_task(adapter.run(intake, NoCommands()))
    await asyncio.sleep(0)
    try:
        await adapter.publish_status(status(), ready=True)
        yield adapter, intake
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await adapter.close()


@contextlib.asynccontextmanager
async def served_station(pki: Path) -> AsyncIterator[ServedStation]:
    """Serve a station without security on a free port, with a client connected."""
    async with (
        running(OpcUaServerSettings(port=free_port()), pki) as (adapter, intake),
        plain_client(adapter.endpoint) as client,
    ):
        namespace = await client.get_namespace_index(NAMESPACE_URI)
        yield ServedStation(adapter, intake, client, namespace)
