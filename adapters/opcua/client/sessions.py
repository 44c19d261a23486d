"""Sessions that the stations of one process share where they reach one PLC in the same way (docs/decisions/0010).

A small PLC has few sessions. A session in an unknown state is thrown away for all who share it (docs/decisions/0003);
everything else, a wrong node above all, stays with the station whose it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from adapters.opcua.client.access import PlcAccess
from adapters.opcua.client.connection import PlcConnection
from adapters.opcua.client.diagnosis import TooManySessions
from service.errors import SinkUnavailable


@dataclass(slots=True)
class _Shared:
    connection: PlcConnection
    opening: asyncio.Task[None]
    stations: int = 0


class PlcSessions:
    """At most one session for each way to reach a PLC, from the first station that joins to the last that leaves."""

    def __init__(self) -> None:
        self._shared: dict[Hashable, _Shared] = {}
        self._left: dict[Hashable, PlcConnection] = {}  # the last that was lost: the PLC may still keep its session

    @asynccontextmanager
    async def join(self, way: Hashable, access: PlcAccess) -> AsyncIterator[PlcConnection]:
        """Lend an open connection.

        Args:
            way: equal for stations that may share: all that `access` was made of but the station's name.
            access: how to reach the PLC where nobody is there yet.

        Raises:
            PlcUnusable: the server or we refuse, or it does not answer.
        """
        shared = self._shared.get(way)
        if shared is None or shared.connection.lost.done():
            connection = PlcConnection(access)
            # in a task of its own: it goes on for the others where the station that began it is told to stop
            shared = _Shared(connection, asyncio.create_task(self._open(way, connection), name="plc connect"))
            # who waits hears of it; where nobody does any more, nobody need
            shared.opening.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._shared[way] = shared
        shared.stations += 1
        reason = "closed"
        try:
            await asyncio.shield(shared.opening)
            yield shared.connection
        except SinkUnavailable as exc:
            reason = str(exc)
            raise
        finally:
            shared.stations -= 1
            if not shared.stations:
                if self._shared.get(way) is shared:
                    del self._shared[way]
                shared.opening.cancel()
                was_lost = shared.connection.lost.done()  # so it was open
                await shared.connection.close(reason)
                if was_lost:
                    self._left[way] = shared.connection

    async def _open(self, way: Hashable, connection: PlcConnection) -> None:
        try:
            await connection.open()
        except TooManySessions:
            # what the PLC keeps a place for may be ours: without it there is one at the next attempt
            if left := self._left.pop(way, None):
                await left.give_back()
            raise
