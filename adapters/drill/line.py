"""A whole line for drills: broker, service, plant, PLC gate, each of which can be broken on purpose."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from adapters.drill.ledger import Ledger
from adapters.drill.model import DrillModel
from adapters.drill.part import Way
from adapters.drill.plant import DrillPlant
from adapters.drill.proxy import TcpProxy
from adapters.drill.service import STATION, DrilledService
from adapters.drill.tag_gate import TagGate
from adapters.simulation.broker import EmbeddedBroker, MosquittoBroker, find_mosquitto

DEADLINE_MS = 2000
"""Longer than on a real line: everything shares this machine."""

_ASK_AGAIN_S = 2.0
_THAWED_S = 1.0
"""A broker that was frozen has handed on by then what it held."""

_GATE_START_S = 60.0
_AFTERWARDS_HZ = 2.0
_LAST_COMMAND_S = 2.0
"""A gate command comes right behind its verdict; so long it is waited for."""


class DrillLine:
    """The line while it runs; `ledger` holds what became of its parts."""

    def __init__(
        self,
        model: DrillModel,
        broker: MosquittoBroker | EmbeddedBroker,
        proxy: TcpProxy,
        service: DrilledService,
        plant: DrillPlant,
        ledger: Ledger,
    ) -> None:
        self.broker = broker
        self.proxy = proxy
        self.service = service
        self.plant = plant
        self.ledger = ledger
        self._model = model
        self._numbers = itertools.count(1)
        self._gate: asyncio.Task[None] | None = None

    @property
    def frames(self) -> Path:
        """Where the service may read frames."""
        return self._model.frames

    @property
    def mosquitto(self) -> MosquittoBroker | None:
        """Return the broker where it is a process that can be killed."""
        return self.broker if isinstance(self.broker, MosquittoBroker) else None

    async def show(self, count: int, rate_hz: float, *, deadline_ms: int = DEADLINE_MS) -> None:
        """Show `count` parts, `rate_hz` a second."""
        due = time.monotonic()
        for number in itertools.islice(self._numbers, count):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += 1 / rate_hz
            uri = self._model.uris[number % len(self._model.uris)]
            self.plant.show(f"part-{number}", uri, number=number, deadline_ms=deadline_ms)

    async def settle(self, timeout_s: float = 60.0) -> None:
        """Wait until every part is answered, asking again for what brokers have forgotten; or until time is up.

        The last gate commands are waited for, too.
        """
        give_up = time.monotonic() + timeout_s
        asked: dict[str, float] = {}
        while (waiting := self.ledger.unanswered()) and time.monotonic() < give_up:
            now = time.monotonic()
            for event_id in waiting:
                since = max(self.ledger.parts[event_id].deadline, asked.get(event_id, 0.0))
                if self.plant.connected and now > since + _ASK_AGAIN_S:
                    asked[event_id] = now
                    self.plant.ask_again(event_id)
            await asyncio.sleep(0.1)
        give_up = time.monotonic() + _LAST_COMMAND_S
        while self.ledger.silent() and time.monotonic() < give_up:  # noqa: ASYNC110 - told by another thread
            await asyncio.sleep(0.02)

    async def show_afterwards(self, count: int = 5) -> set[Way]:
        """Show some parts when all is mended; return how gates were told of them. Nothing excuses one still silent."""
        await self.settle()
        known = len(self.ledger.parts)
        await self.show(count, _AFTERWARDS_HZ)
        await self.settle()
        shown = itertools.islice(self.ledger.parts.values(), known, None)
        return {heard.way for part in shown for heard in part.gates}

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Tell the ledger that something between service and plant is broken meanwhile."""
        outage = self.ledger.begin_outage(time.monotonic())
        try:
            yield
        finally:
            outage.ended = time.monotonic()

    async def kill_broker(self) -> None:
        """SIGKILL, and a new broker on the same port a little later."""
        assert self.mosquitto is not None
        with self.outage():
            await self.mosquitto.stop(signal.SIGKILL)
            await asyncio.sleep(0.5)
            await self.mosquitto.start()

    async def freeze_broker(self, seconds: float) -> None:
        """SIGSTOP for some time."""
        assert self.mosquitto is not None
        with self.outage():
            self.ledger.freeze_broker(frozen=True)
            self.mosquitto.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            self.mosquitto.send_signal(signal.SIGCONT)
            await asyncio.sleep(_THAWED_S)
            self.ledger.freeze_broker(frozen=False)

    async def kill_service(self) -> None:
        """SIGKILL, and a new process on the same journal."""
        with self.outage():
            await self.service.stop(signal.SIGKILL)
            await self.service.start()

    async def freeze_service(self, seconds: float) -> None:
        """SIGSTOP for some time."""
        with self.outage():
            self.service.freeze()
            await asyncio.sleep(seconds)
            self.service.thaw()

    async def open_gate(self) -> None:
        """Have a PLC's gate follow the tags; what they say is taken down. Waits until it watches."""
        gate = TagGate(self.service.endpoint, self.ledger.hear_nodes)
        self._gate = asyncio.create_task(gate.run(), name="gate")
        async with asyncio.timeout(_GATE_START_S):
            await gate.watching.wait()

    async def close_gate(self) -> None:
        """Take the PLC's gate away, without a word where its task is in the middle of something."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await gate


@asynccontextmanager
async def drill_line(
    folder: Path,
    model: DrillModel,
    *,
    sections: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    gate: bool = True,
) -> AsyncIterator[DrillLine]:
    """Run a line in `folder`: mosquitto with its sessions on disk, or the embedded broker where that is not installed.

    The service reaches the broker through a proxy. gate: have a PLC's gate follow the tags.
    """
    executable = find_mosquitto()
    kept = folder / "mosquitto"
    kept.mkdir(parents=True)
    kept.chmod(0o777)  # mosquitto gives up root for a user of its own
    broker: MosquittoBroker | EmbeddedBroker = (
        EmbeddedBroker()
        if executable is None
        else MosquittoBroker(
            executable,
            config_lines=(
                "persistence true",
                f"persistence_location {kept}/",
                # a broker whose word holds when it is killed: else it has acknowledged what it has not saved
                "autosave_on_changes true",
                "autosave_interval 1",
                "max_queued_messages 0",
            ),
        )
    )
    protocol: Literal["5", "3.1.1"] = "3.1.1" if executable is None else "5"
    ledger = Ledger()
    # a PLC's client library has much to say about servers that are killed
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    logging.getLogger("asyncua.client").setLevel(logging.CRITICAL)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(broker)
        proxy = await stack.enter_async_context(TcpProxy(broker.port))
        mqtt = {"port": proxy.port, "protocol": protocol, "reconnect_max_s": 0.5} | dict(sections.get("mqtt", {}))
        service = DrilledService(folder / "service", proxy.port, model, {**sections, "mqtt": mqtt})
        await stack.enter_async_context(service)
        plant = DrillPlant(broker.port, station=STATION, ledger=ledger, protocol=protocol)
        await stack.enter_async_context(plant)
        line = DrillLine(model, broker, proxy, service, plant, ledger)
        if gate:
            await line.open_gate()
        try:
            yield line
        finally:
            await line.close_gate()
