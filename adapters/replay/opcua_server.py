"""Plays a recording to a station's own OPC UA server, as a PLC triggers it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from asyncua import ua

from adapters.opcua.client.access import PlcAccess
from adapters.opcua.client.connection import PlcConnection
from adapters.replay.frames import FrameFolder
from adapters.replay.open_parts import OpenParts
from adapters.simulation.plc import PlcGate
from service.errors import SinkUnavailable
from service.replay.player import InFlightPart

_CONNECT_S: Final = 10.0

_AWAY_S: Final = 5.0
"""A station may be too busy to answer for a moment; one that is gone for as long is not waited for."""

_LOST: Final = (OSError, TimeoutError, ua.UaError)


class OpcUaServerReplay:
    """Writes texts and Trigger and reads the verdicts from Results. Fulfils ReplayTarget; use with `async with`.

    A trigger has no deadline of its own: the station's default holds at any speed. Where somebody else triggers the
    station the replay ends: two that share one Trigger would mistake each other's parts.

    Args:
        access: the station's server, and who to be there: somebody who may write.
        station: id of the station.
        frames: a root of the station on this machine.
    """

    def __init__(self, access: PlcAccess, *, station: str, frames: Path) -> None:
        self._access = access
        self._gate = PlcGate(access.endpoint, station, replayed=True, access=access)
        self._folder = FrameFolder(frames)
        self._open = OpenParts()
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect. Raises SinkUnavailable where the server is away or refuses us, UsageError if no frame can be put."""
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self._folder)
            await self._try()
            running = asyncio.create_task(self._gate.run())
            for task in (running, asyncio.create_task(self._listen()), asyncio.create_task(self._watch())):
                opening.push_async_callback(_stop, task)
            await self._until_connected(running)
            running.add_done_callback(self._note_end)
            self._closing = opening.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._closing.__aexit__(exc_type, exc, traceback)

    async def stage(self, in_flight: InFlightPart) -> None:
        """Put the frame where the station reads it, and write the texts. Raises SinkUnavailable."""
        self._open.add(in_flight)
        await self._folder.put(in_flight)
        uri = self._folder.image(in_flight).uri
        try:
            await self._gate.announce(in_flight.part.event.part_id or "", uri, in_flight.event_id)
        except _LOST as exc:
            raise SinkUnavailable(f"{self._access}: {exc}") from exc

    async def show(self, in_flight: InFlightPart) -> None:  # noqa: ARG002 - the texts are written already
        """Write Trigger. Raises SinkUnavailable."""
        try:
            await self._gate.fire()
        except _LOST as exc:
            raise SinkUnavailable(f"{self._access}: {exc}") from exc

    def clear(self, in_flight: InFlightPart) -> None:
        """Remove the frame, and wait no longer for the verdict."""
        self._open.remove(in_flight)
        self._folder.remove(in_flight)

    async def _try(self) -> None:
        """Connect once to hear what is wrong: the gate would try again without a word."""
        connection = PlcConnection(self._access)
        try:
            await connection.open()
        except SinkUnavailable as exc:
            raise SinkUnavailable(f"{self._access}: {exc}") from exc
        finally:
            await connection.close("tried")

    async def _until_connected(self, running: asyncio.Task[None]) -> None:
        connecting = asyncio.create_task(self._gate.connected.wait())
        try:
            await asyncio.wait([running, connecting], timeout=_CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            if not self._gate.connected.is_set():
                raise SinkUnavailable(f"{self._access}: the station's server does not answer")
        except _LOST as exc:
            raise SinkUnavailable(f"{self._access}: {exc}") from exc
        finally:
            connecting.cancel()

    async def _listen(self) -> None:
        async for action in self._gate.actions():
            if action.said is not None:
                self._open.answer(action.event_id, action.said)

    def _note_end(self, running: asyncio.Task[None]) -> None:
        if not running.cancelled():
            self._open.give_up(f"{self._access}: {running.exception() or 'connection lost'}")

    async def _watch(self) -> None:
        """Let nobody wait for verdicts any more where the station is gone, and does not come back at once."""
        while True:
            await self._gate.lost.wait()
            await asyncio.sleep(_AWAY_S)
            if self._gate.lost.is_set():
                self._open.give_up(f"{self._access}: connection lost")
                return


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, *_LOST):
        await task
