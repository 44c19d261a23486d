"""Plays a recording to a station over MQTT, as its camera did."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from adapters.clock import SystemClock
from adapters.mqtt.plant import HeardVerdict, PlantConnection
from adapters.replay.frames import FrameFolder
from adapters.replay.open_parts import OpenParts
from schemas.messages import StationState
from schemas.settings import MqttSettings
from service.errors import SinkUnavailable
from service.replay.player import InFlightPart

_OFFLINE_S: Final = 10.0
"""How long parts that are out wait for a service that is offline: so long may a restart take."""


class MqttReplay:
    """Publishes image-ready events and hears their verdicts. Fulfils ReplayTarget; use with `async with`.

    An image that came inside its message is sent that way again, where the broker's protocol can; any other one is put
    into a folder that the station may read.

    Args:
        settings: the broker, the same as the station's.
        station: id of the station.
        frames: a root of the station on this machine.
    """

    def __init__(self, settings: MqttSettings, *, station: str, frames: Path) -> None:
        self._plant = PlantConnection(settings, station=station, role="replay", on_state=self._note_state)
        self._station = station
        self._broker = f"{settings.host}:{settings.port}"
        self._raw_images = settings.protocol == "5"
        self._root = frames
        self._folder: FrameFolder | None = None
        self._closing = AsyncExitStack()
        self._open = OpenParts()
        self._offline = False
        self._waiting: asyncio.TimerHandle | None = None
        self._clock = SystemClock()

    async def __aenter__(self) -> Self:
        """Connect. Raises SinkUnavailable where the broker is not there, UsageError where a file is not."""
        try:
            await self._closing.enter_async_context(self._plant)
        except SinkUnavailable as exc:
            raise SinkUnavailable(f"{self._broker}: {exc}") from exc
        self._plant.lost.add_done_callback(self._note)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._wait_no_more()
        await self._closing.__aexit__(exc_type, exc, traceback)

    async def stage(self, in_flight: InFlightPart) -> None:
        """Put the frame where the station reads it, unless it goes inside the message. Raises SinkUnavailable."""
        if not self._inside(in_flight):
            if self._folder is None:
                self._folder = await self._closing.enter_async_context(FrameFolder(self._root))
            await self._folder.put(in_flight)

    async def show(self, in_flight: InFlightPart) -> None:
        """Publish the event. Raises SinkUnavailable where this one, or one before it, was not accepted."""
        self._open.add(in_flight)
        self._wait_for_service()
        self._plant.expect(in_flight.event_id).add_done_callback(partial(self._hear, in_flight))
        event = in_flight.event(self._clock.now())
        if self._inside(in_flight):
            confirmation = self._plant.publish(event, None, in_flight.part.frame)
        else:
            assert self._folder is not None, "staged before it is shown"
            confirmation = self._plant.publish(event, self._folder.image(in_flight), None)
        confirmation.add_done_callback(self._note)

    def clear(self, in_flight: InFlightPart) -> None:
        """Remove the frame, and wait no longer for the verdict."""
        self._open.remove(in_flight)
        self._plant.forget(in_flight.event_id)
        if self._folder is not None:
            self._folder.remove(in_flight)

    def _inside(self, in_flight: InFlightPart) -> bool:
        return self._raw_images and in_flight.part.event.inline and in_flight.part.frame is not None

    def _note(self, outcome: asyncio.Future[str] | asyncio.Future[str | None]) -> None:
        """Where a part was not accepted, or the connection is lost, let nobody wait for verdicts any more."""
        reason = outcome.result()
        if reason is not None:
            self._open.give_up(f"{self._broker}: {reason}")

    def _hear(self, in_flight: InFlightPart, heard: asyncio.Future[HeardVerdict]) -> None:
        self._open.answer(in_flight.event_id, heard.result().verdict)

    def _note_state(self, state: StationState) -> None:
        """Follow whether the service is there: its last will says that it is not, any other status that it is."""
        self._offline = state is StationState.OFFLINE
        if self._offline:
            self._wait_for_service()
        else:
            self._wait_no_more()

    def _wait_for_service(self) -> None:
        """Give a service that is offline while parts are out a while to come back."""
        if self._offline and self._waiting is None and self._open.is_waiting:
            self._waiting = asyncio.get_running_loop().call_later(_OFFLINE_S, self._end_unless_back)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _end_unless_back(self) -> None:
        self._waiting = None
        if self._open.is_waiting:  # else the next part waits anew
            self._open.give_up(f"{self._broker}: the service of {self._station} is offline")
