"""A client adapter that runs against a PLC's server, with an intake that answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from adapters.clock import SystemClock
from adapters.opcua.client import OpcUaClientAdapter
from schemas.messages import Decision
from schemas.settings import OpcUaClientSettings
from service.errors import SinkUnavailable
from service.ports import Answer, Arrival
from tests.support.opcua import STATION, NoCommands, RecordingIntake, answer, verdict
from tests.support.waiting import eventually

PATIENT: dict[str, Any] = {"request_timeout_ms": 5000, "reconnect_max_s": 0.2}
"""For machines that are busy; a test that passes never waits this long."""


class Judge:
    """Answers every arrival as the service would: numbered, and tried again until the adapter has it.

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

    def __call__(self, arrival: Arrival) -> None:
        self.seq += 1
        said = verdict(
            self.seq,
            self._decide(arrival),
            event_id=arrival.event.event_id,
            part_id=arrival.event.part_id,
            trigger_id=arrival.event.trigger_id,
        )
        self.answers.append(answer(said))
        task = asyncio.create_task(self._publish(self.answers[-1]))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, said: Answer) -> None:
        while True:
            with contextlib.suppress(SinkUnavailable):
                await self.adapter.publish(said)
                return
            await eventually(lambda: self.adapter.fault is None)


def plc_client(settings: dict[str, Any], *, station: str = STATION, pki: Path | None = None) -> OpcUaClientAdapter:
    """Return an adapter for a PLC; `settings` as in the configuration."""
    chosen = OpcUaClientSettings.model_validate(PATIENT | settings)
    return OpcUaClientAdapter(chosen, station=station, clock=SystemClock(), pki=pki or Path("unused"))


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
            assert adapter.fault is None
        yield intake
    finally:
        task.cancel()
        await asyncio.wait([task])
        await adapter.close()
