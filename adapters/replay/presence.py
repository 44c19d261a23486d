"""Whether the service of a station is there: a broker takes what nobody will answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from adapters.clock import SystemClock
from adapters.mqtt.access import guest_access
from adapters.mqtt.connection import Connection
from adapters.mqtt.packets import Incoming
from schemas.messages import StationState, Status
from schemas.settings import MqttSettings
from schemas.topics import Leaf, Prefix, StationTopics
from service.errors import SinkUnavailable

_SILENT_S: Final = 2.0
"""How long nothing is said of the waiting: a service that runs gives its status every second."""

_PATIENCE_S: Final = 10.0
"""How long a service that is being started is waited for."""


async def until_service(
    settings: MqttSettings, *, station: str, tell: Callable[[str], None], patience_s: float = _PATIENCE_S
) -> None:
    """Return once the station's service gives its status; `tell` what is waited for, where that is not at once.

    A status that the broker has kept may be that of a service that was killed, or ran before the broker was started. A
    login whose subscription to the status is refused learns nothing of it, and nothing is waited for.

    Raises:
        SinkUnavailable: the broker, or within `patience_s` seconds the service, is not there.
        UsageError: a file of the configuration cannot be used.
    """
    access = await asyncio.to_thread(guest_access, settings, station=station, role="presence")
    listener = _StatusListener()
    connection = Connection(access, clock=SystemClock(), on_message=listener.take)
    try:
        await connection.connect()
        topic = StationTopics(Prefix(settings.prefix), station).of(Leaf.STATUS)
        if any(await connection.subscribe(topic)):
            return
        if await _is_there(listener, connection, _SILENT_S):
            return
        tell(f"waiting up to {patience_s:g} s for the service of {station}: {listener.status}")
        if not await _is_there(listener, connection, patience_s):
            raise SinkUnavailable(f"no service of {station} is running: {listener.status}{listener.hint}")
    finally:
        await connection.close(timeout_s=1.0)


@dataclass(slots=True)
class _StatusListener:
    """What the status topic has said."""

    there: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    status: str = "its status topic says nothing"
    hint: str = "; start it with `cangate run`, or let this login read that topic"

    def take(self, connection: Connection, message: Incoming) -> None:
        connection.ack(message)
        try:
            state = Status.model_validate_json(message.payload).state
        except ValidationError:
            return  # somebody else's: ours would be in order
        self.status, self.hint = f"its last status says {state}", "; start it with `cangate run`"
        if not (message.retain or state is StationState.OFFLINE or self.there.done()):
            self.there.set_result(None)


async def _is_there(listener: _StatusListener, connection: Connection, timeout_s: float) -> bool:
    either: list[asyncio.Future[None] | asyncio.Future[str]] = [listener.there, connection.lost]
    await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if connection.lost.done():
        raise SinkUnavailable(connection.lost.result())
    return listener.there.done()
