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
from adapters.simulation.plc import PlcGate
from service.errors import SinkUnavailable
from service.replay.player import InFlightPart

_CONNECT_S: Final = 10.0
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
        self._root = frames
        self._folder: FrameFolder | None = None
        self._open: dict[str, InFlightPart] = {}
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect. Raises SinkUnavailable where the server is away or refuses us, UsageError if no frame can be put."""
        async with AsyncExitStack() as opening:
            self._folder = await asyncio.to_thread(FrameFolder, self._root)
            opening.push_async_callback(asyncio.to_thread, self._folder.close)
            await self._try()
            for work in (self._gate.run(), self._listen()):
                opening.push_async_callback(_stop, asyncio.create_task(work))
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await self._gate.connected.wait()
            except TimeoutError as exc:
                raise SinkUnavailable(f"{self._access}: the station's server does not answer") from exc
            self._closing = opening.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._closing.__aexit__(exc_type, exc, traceback)

    async def stage(self, in_flight: InFlightPart) -> None:
        """Put the frame where the station reads it, and write the texts. Raises SinkUnavailable."""
        assert self._folder is not None, "use it with `async with`"
        await asyncio.to_thread(self._folder.put, in_flight)
        self._open[in_flight.event_id] = in_flight
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
        self._open.pop(in_flight.event_id, None)
        if self._folder is not None:
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

    async def _listen(self) -> None:
        async for action in self._gate.actions():
            in_flight = self._open.get(action.event_id)
            if in_flight is not None and action.said is not None and not in_flight.answer.done():
                in_flight.answer.set_result(action.said)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, *_LOST):
        await task
