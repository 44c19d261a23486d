"""A station behind the companion model: commands that change its state, models on a shelf, a judge that answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from adapters.clock import SystemClock
from adapters.opcua.server.adapter import OpcUaServerAdapter
from schemas.messages import Command, CommandName, CommandReply, Decision, Fault, FaultCode, ModelRef, StationState
from schemas.settings import OpcUaServerSettings
from service.ports import Arrival, StoredModel
from tests.support.fakes import RecordingIntake
from tests.support.opcua import STATION, answer, status, verdict

SHELF = (StoredModel("canister", "1"), StoredModel("canister", "2"), StoredModel("lid", "1"))


def reference(stored: StoredModel) -> ModelRef:
    return ModelRef(name=stored.name, version=stored.version, sha256="ab" * 32)


class ScriptedStation:
    """Does what the station does on each command, and shows it to the adapter as a status.

    refuse: set to a text, the next command is refused with it. hold: parts are not judged while it is set.
    """

    def __init__(self) -> None:
        self.intake = RecordingIntake(self._judge)
        self.commands: list[CommandName] = []
        self.refuse: str | None = None
        self.paused = False
        self.stuck = False
        self.model: ModelRef | None = reference(SHELF[1])
        self.decision = Decision.OK
        self.seq = 0
        self.hold = False
        self.held: list[Arrival] = []
        self.adapter: OpcUaServerAdapter | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def handle(self, command: Command, source: str) -> CommandReply:
        assert source == "opcua"
        self.commands.append(command.command)
        if self.refuse is not None:
            error, self.refuse = self.refuse, None
            return CommandReply(station=STATION, command=command.command, ok=False, error=error)
        match command.command:
            case CommandName.PAUSE:
                self.paused = True
            case CommandName.RESUME:
                self.paused = False
            case CommandName.ACTIVATE_MODEL:
                stored = StoredModel(str(command.args["name"]), str(command.args["version"]))
                self.model = reference(stored)
        await self.tell()
        result: dict[str, JsonValue] = {} if self.model is None else {"model": self.model.model_dump(mode="json")}
        return CommandReply(station=STATION, command=command.command, ok=True, result=result)

    async def stored(self) -> list[StoredModel]:
        return list(SHELF)

    async def unload(self) -> None:
        """Leave the model, and tell it a moment later, as the service does."""
        self.model, self.intake.ready = None, False
        self._run(self.tell())

    async def tell(self) -> None:
        """Show the state of the station to the adapter, as the service does on every change."""
        assert self.adapter is not None
        fault = self._fault()
        self.intake.ready = fault is None
        state = StationState.READY if fault is None else StationState.FAULT
        shown = status(state, fault=fault).model_copy(update={"model": self.model})
        await self.adapter.publish_status(shown, ready=fault is None)

    def release(self) -> None:
        """Judge what was held."""
        self.hold = False
        for arrival in self.held:
            self._judge(arrival)
        self.held.clear()

    def _fault(self) -> Fault | None:
        if self.model is None:
            return Fault(code=FaultCode.MODEL_UNAVAILABLE, text="model: none")
        if self.stuck:
            return Fault(code=FaultCode.COMPUTE_STUCK, text="compute: hangs")
        return Fault(code=FaultCode.PAUSED, text="station: paused by command") if self.paused else None

    def _judge(self, arrival: Arrival) -> None:
        if self.hold:
            self.held.append(arrival)
            return
        assert self.adapter is not None
        self.seq += 1
        event = arrival.event
        said = verdict(
            self.seq,
            self.decision,
            event_id=event.event_id,
            part_id=event.part_id,
            trigger_id=event.trigger_id,
        ).model_copy(update={"simulated": event.simulated, "received_at": arrival.received_at})
        self._run(self.adapter.publish(answer(said, arrival)))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


@contextlib.asynccontextmanager
async def served_vision(settings: OpcUaServerSettings, pki: Path) -> AsyncIterator[ScriptedStation]:
    """Serve a station with the companion model; it is Operational, Ready."""
    station = ScriptedStation()
    adapter = OpcUaServerAdapter(settings, station=STATION, clock=SystemClock(), models=station, pki=pki)
    station.adapter = adapter
    await adapter.open()
    task = asyncio.create_task(adapter.run(station.intake, station))
    await asyncio.sleep(0)
    try:
        await station.tell()
        yield station
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await adapter.close()
