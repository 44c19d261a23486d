"""Plays a recording to a station over MQTT, as its camera did."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from adapters.clock import SystemClock
from adapters.mqtt.plant import HeardVerdict, PlantConnection
from adapters.replay.frames import FrameFolder
from schemas.settings import MqttSettings
from service.errors import SinkUnavailable
from service.replay.player import InFlightPart


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
        self._raw_images = settings.protocol == "5"
        self._root = frames
        self._folder: FrameFolder | None = None
        self._open: dict[str, InFlightPart] = {}
        self._clock = SystemClock()
        self._broken: str | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises SinkUnavailable where the broker is not there, UsageError where a file is not."""
        await self._plant.__aenter__()
        self._plant.lost.add_done_callback(self._note)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._plant.__aexit__(exc_type, exc, traceback)
        if self._folder is not None:
            await asyncio.to_thread(self._folder.close)

    async def stage(self, in_flight: InFlightPart) -> None:
        """Put the frame where the station reads it, unless it goes inside the message."""
        if not self._inside(in_flight):
            if self._folder is None:
                self._folder = await asyncio.to_thread(FrameFolder, self._root)
            await asyncio.to_thread(self._folder.put, in_flight)

    async def show(self, in_flight: InFlightPart) -> None:
        """Publish the event. Raises SinkUnavailable where this one, or one before it, was not accepted."""
        if self._broken is not None:
            raise SinkUnavailable(self._broken)
        self._open[in_flight.event_id] = in_flight
        self._plant.expect(in_flight.event_id).add_done_callback(partial(_settle, in_flight))
        event = in_flight.event(self._clock.now())
        if self._inside(in_flight):
            confirmation = self._plant.publish(event, None, in_flight.part.frame)
        else:
            assert self._folder is not None, "staged before it is shown"
            confirmation = self._plant.publish(event, self._folder.image(in_flight), None)
        confirmation.add_done_callback(self._note)

    def clear(self, in_flight: InFlightPart) -> None:
        """Remove the frame, and wait no longer for the verdict."""
        self._open.pop(in_flight.event_id, None)
        self._plant.forget(in_flight.event_id)
        if self._folder is not None:
            self._folder.remove(in_flight)

    def _inside(self, in_flight: InFlightPart) -> bool:
        return self._raw_images and in_flight.part.event.inline and in_flight.part.frame is not None

    def _note(self, outcome: asyncio.Future[str] | asyncio.Future[str | None]) -> None:
        """Where a part was not accepted, or the connection is lost, let nobody wait for verdicts any more."""
        self._broken = self._broken or outcome.result()
        if self._broken is None:
            return
        for in_flight in self._open.values():
            if not in_flight.answer.done():
                in_flight.answer.set_exception(SinkUnavailable(self._broken))
                in_flight.answer.exception()  # looked at: the first one is raised, and says enough


def _settle(in_flight: InFlightPart, heard: asyncio.Future[HeardVerdict]) -> None:
    if not in_flight.answer.done():
        in_flight.answer.set_result(heard.result().verdict)
