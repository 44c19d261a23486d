"""A client adapter that runs against a PLC's server, with an intake that answers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asyncua import Node, ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AttributeService

from adapters.clock import SystemClock
from adapters.opcua.client import OpcUaClientAdapter
from adapters.opcua.client.sessions import PlcSessions
from adapters.simulation.plc_server import NAMESPACE_URI, PlcServer, node_addresses
from schemas.messages import Decision
from schemas.settings import OpcUaClientSettings
from service.errors import SinkRefused, SinkUnavailable
from service.ports import Answer, Arrival, Clock, Journal
from tests.support.fakes import RecordingIntake
from tests.support.opcua import STATION, NoCommands, answer, plain_client, verdict
from tests.support.waiting import eventually

PATIENT: dict[str, Any] = {"request_timeout_ms": 5000, "reconnect_max_s": 0.2}
"""For machines that are busy; a test that passes never waits this long."""


class Judge:
    """Answers every arrival as the service would: numbered, and tried again until the adapter has or refuses it.

    Args:
        adapter: where the answers go.
        decide: what is seen of an arrival; OK where it is left out.
    """

    def __init__(self, adapter: OpcUaClientAdapter, decide: Callable[[Arrival], Decision] | None = None) -> None:
        self.adapter = adapter
        self.seq = 0
        self.answers: list[Answer] = []
        self._decide = decide or (lambda _: Decision.OK)
        self._publishing: set[asyncio.Task[None]] = set()

    @property
    def confirmed(self) -> bool:
        """Tell whether the adapter has confirmed every answer."""
        return not self._publishing

    def __call__(self, arrival: Arrival) -> None:
        self.seq += 1
        said = verdict(
            self.seq,
            self._decide(arrival),
            event_id=arrival.event.event_id,
            part_id=arrival.event.part_id,
            trigger_id=arrival.event.trigger_id,
        )
        self.answers.append(answer(said, arrival))
        task = asyncio.create_task(self._publish(self.answers[-1]))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, said: Answer) -> None:
        while True:
            with contextlib.suppress(SinkUnavailable):
                with contextlib.suppress(SinkRefused):
                    await self.adapter.publish(said)
                return
            await eventually(lambda: self.adapter.fault is None)


def plc_client(
    settings: dict[str, Any],
    *,
    station: str = STATION,
    pki: Path | None = None,
    sessions: PlcSessions | None = None,
    clock: Clock | None = None,
    journal: Journal | None = None,
) -> OpcUaClientAdapter:
    """Return an adapter for a PLC; `settings` as in the configuration."""
    chosen = OpcUaClientSettings.model_validate(PATIENT | settings)
    return OpcUaClientAdapter(
        chosen,
        station=station,
        clock=clock or SystemClock(),
        journal=journal,
        sessions=sessions,
        pki=pki or Path("unused"),
    )


@contextlib.asynccontextmanager
async def serving(
    adapter: OpcUaClientAdapter, intake: RecordingIntake | None = None, *, connected: bool = True
) -> AsyncIterator[RecordingIntake]:
    """Run an adapter, by default from when it is connected, and close it. A new intake answers OK to everything."""
    intake = intake or RecordingIntake(Judge(adapter))
    await adapter.open()
    task = asyncio.create_task(adapter.run(intake, NoCommands()))
    try:
        if connected:
            await eventually(lambda: adapter.fault is None or task.done())
            if task.done():
                task.result()
        yield intake
    finally:
        task.cancel()
        await asyncio.wait([task])
        await adapter.close()


class StubbornPlc(AttributeService):
    """A PLC's attribute service that refuses what its nodes say may be written, or what is asked of too many at once.

    Args:
        plc: a PLC that runs; from now on it answers by this service.
    """

    def __init__(self, plc: PlcServer) -> None:
        super().__init__(plc.server.iserver.aspace)
        self.refuses: dict[ua.NodeId, tuple[object, int]] = {}
        self.forgets = False
        """It answers a write with one result too few."""
        self.fails: dict[ua.NodeId, int] = {}
        """The status with which it refuses each request to write a node, whatever else is in it."""
        self.failed = 0
        """So many requests."""
        self.most: dict[str, int] = {}
        """So many nodes it takes in one "read" or "write"."""
        self.requests: list[tuple[str, int]] = []
        """What it took, and how many nodes at once."""
        self.written: Callable[[], None] = lambda: None
        """Called after each request to write, before it is answered."""
        plc.server.iserver.attribute_service = self

    def read(self, params: ua.ReadParameters) -> list[ua.DataValue]:
        self._admit("read", params.NodesToRead)
        return super().read(params)

    async def write(
        self,
        params: ua.WriteParameters,
        user: User = User(role=UserRole.Admin),  # noqa: B008 - asyncua's signature
    ) -> list[ua.StatusCode]:
        for item in params.NodesToWrite:
            if item.NodeId in self.fails:
                self.failed += 1
                raise ServiceError(ua.UInt32(self.fails[item.NodeId]))
        self._admit("write", params.NodesToWrite)
        results = [await self._one(item, user) for item in params.NodesToWrite]
        self.written()
        return results[:-1] if self.forgets else results

    def held(self, node_id: ua.NodeId) -> object:
        """Return what stands in a node, without asking over the wire."""
        value = self._aspace.read_attribute_value(node_id, ua.AttributeIds.Value).Value
        return None if value is None else value.Value

    def _admit(self, what: str, nodes: Sequence[object]) -> None:
        if len(nodes) > self.most.get(what, len(nodes)):
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        self.requests.append((what, len(nodes)))

    async def _one(self, item: ua.WriteValue, user: User) -> ua.StatusCode:
        value = None if item.Value.Value is None else item.Value.Value.Value
        refused, status = self.refuses.get(item.NodeId, (None, 0))
        if status and refused in (value, any):
            return ua.StatusCode(ua.UInt32(status))
        return (await super().write(ua.WriteParameters([item]), user))[0]


@contextlib.contextmanager
def refusing(
    plc: PlcServer, word: str, status: int, *, value: object = any, station: str = STATION
) -> Iterator[StubbornPlc]:
    """Let a PLC with a stubborn service refuse writes of `value` to the node of `word`; by default of anything."""
    service = plc.server.iserver.attribute_service
    assert isinstance(service, StubbornPlc)
    node_id = plc.node(word, station).nodeid
    service.refuses[node_id] = (value, status)
    try:
        yield service
    finally:
        del service.refuses[node_id]


class PlcProcess:
    """A simulated PLC as a process that can be killed and frozen, with a client that stands for its program."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"opc.tcp://127.0.0.1:{port}/plc/"
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    @property
    def mapping(self) -> dict[str, str]:
        """Return the keys of `[opcua.client]` for this PLC."""
        return {"endpoint": self.endpoint, **node_addresses(STATION)}

    async def start(self, *namespaces: str) -> None:
        """Start with every node at its start value; `namespaces` come before the PLC's own."""
        others = [argument for uri in namespaces for argument in ("--namespace", uri)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "adapters.simulation.plc_server",
            "--port",
            str(self._port),
            *others,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert (await asyncio.wait_for(self._process.stdout.readline(), 60)).decode().strip() == self.endpoint

    def send(self, how: signal.Signals) -> None:
        """Send a signal, e.g. SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(how)

    async def kill(self) -> None:
        """End without a word, as a loss of power does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @contextlib.asynccontextmanager
    async def program(self) -> AsyncIterator[Callable[[str], Node]]:
        """Connect to the PLC as its program would; yields the node of each word."""
        async with plain_client(self.endpoint) as client:
            namespace = await client.get_namespace_index(NAMESPACE_URI)
            yield lambda word: client.get_node(f"ns={namespace};s={STATION}.{word}")

    async def ask(self, node: Callable[[str], Node], trigger: int, part_id: str) -> str:
        """Give a trigger; return its part id once a result names both."""
        await node("part_id").write_value(part_id)
        await node("trigger").write_value(trigger, ua.VariantType.UInt32)

        async def answered() -> bool:
            before = await node("result_seq").read_value()
            found = await node("result_trigger_id").read_value(), await node("result_part_id").read_value()
            return bool(found == (trigger, part_id) and before == await node("result_seq").read_value() != 0)

        await eventually(answered, every_s=0.01)
        return part_id
