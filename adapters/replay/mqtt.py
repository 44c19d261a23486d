"""Plays a recording to a station over MQTT, as its camera did."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from adapters.clock import SystemClock
from adapters.mqtt.plant import HeardVerdict, PlantConnection
from adapters.replay.frames import FrameFolder
from adapters.replay.open_parts import OpenParts
from schemas.settings import MqttSettings
from service.errors import SinkUnavailable
from service.replay.player import Showing


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
        self._plant = PlantConnection(settings, station=station, role="replay")
        self._broker = f"{settings.host}:{settings.port}"
        self._raw_images = settings.protocol == "5"
        self._root = frames
        self._folder: FrameFolder | None = None
        self._closing = AsyncExitStack()
        self._open = OpenParts()
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
        await self._closing.__aexit__(exc_type, exc, traceback)

    async def stage(self, showing: Showing) -> None:
        """Put the frame where the station reads it, unless it goes inside the message. Raises SinkUnavailable."""
        if not self._inside(showing):
            if self._folder is None:
                self._folder = await self._closing.enter_async_context(FrameFolder(self._root))
            await self._folder.put(showing)

    async def show(self, showing: Showing) -> None:
        """Publish the event. Raises SinkUnavailable where this one, or one before it, was not accepted."""
        self._open.add(showing)
        self._plant.expect(showing.event_id).add_done_callback(partial(self._hear, showing))
        event = showing.event(self._clock.now())
        if self._inside(showing):
            confirmation = self._plant.publish(event, None, showing.part.frame)
        else:
            assert self._folder is not None, "staged before it is shown"
            confirmation = self._plant.publish(event, self._folder.image(showing), None)
        confirmation.add_done_callback(self._note)

    def clear(self, showing: Showing) -> None:
        """Remove the frame, and wait no longer for the verdict."""
        self._open.remove(showing)
        self._plant.forget(showing.event_id)
        if self._folder is not None:
            self._folder.remove(showing)

    def _inside(self, showing: Showing) -> bool:
        return self._raw_images and showing.part.event.inline and showing.part.frame is not None

    def _note(self, outcome: asyncio.Future[str] | asyncio.Future[str | None]) -> None:
        """Where a part was not accepted, or the connection is lost, let nobody wait for verdicts any more."""
        reason = outcome.result()
        if reason is not None:
            self._open.give_up(f"{self._broker}: {reason}")

    def _hear(self, showing: Showing, heard: asyncio.Future[HeardVerdict]) -> None:
        self._open.answer(showing.event_id, heard.result().verdict)
