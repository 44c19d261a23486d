"""Plays a recording as the PLC whose OPC UA server the service is a client of."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from adapters.clock import SystemClock
from adapters.mqtt.plant import HeardVerdict, PlantConnection
from adapters.opcua.client.nodes import read_mapping
from adapters.replay.frames import FrameFolder
from adapters.simulation.plc_server import PlcResult, PlcServer
from schemas.messages import Verdict
from schemas.settings import MqttSettings, OpcUaClientSettings
from schemas.tags import VerdictCode, result_seq
from service.errors import SinkUnavailable, UsageError
from service.replay.player import InFlightPart

_CONNECT_S: Final = 30.0
"""The service tries to connect every other second, and looks at every node when it does."""

_CYCLE_MS: Final = 5.0
"""Of a fast PLC."""

_UNMATCHED: Final = 256
"""Results kept until their verdict is heard."""

_MARKED_BY: Final = "opcua.client.event_id must be mapped: it is what marks a part as replayed"


class OpcUaClientReplay:
    """Serves the PLC's nodes that `[opcua.client]` names, at the endpoint where the service looks for them.

    A PLC is told decision, gate and score; boxes and the rest of a verdict are heard over MQTT. A part is answered when
    both are there, and they must agree. Fulfils ReplayTarget; use with `async with`. A trigger has no deadline of its
    own: the station's default holds at any speed.

    Args:
        settings: the mapping, the same as the station's.
        mqtt: the broker, the same as the station's.
        station: id of the station.
        frames: a root of the station on this machine.
    """

    def __init__(self, settings: OpcUaClientSettings, mqtt: MqttSettings, *, station: str, frames: Path) -> None:
        if not settings.endpoint:
            raise UsageError("opcua.client.endpoint is empty: this service is nobody's client")
        if not settings.event_id:
            raise UsageError(_MARKED_BY)
        if not mqtt.enabled:
            raise UsageError("mqtt.enabled is false: a PLC is not told the boxes, they are heard over MQTT")
        self._endpoint = settings.endpoint
        self._station = station
        addresses = read_mapping(settings, station=station)
        self._plc = PlcServer(0, stations=(station,), addresses=addresses, endpoint=settings.endpoint)
        self._plant = PlantConnection(mqtt, station=station, role="replay")
        self._root = frames
        self._folder: FrameFolder | None = None
        self._closing = AsyncExitStack()
        self._heard: dict[int, tuple[InFlightPart, Verdict]] = {}
        self._told: dict[int, PlcResult] = {}
        self._contradiction: str | None = None
        self._clock = SystemClock()
        self._cycle_s = 2 * max(settings.sampling_ms, _CYCLE_MS) / 1000
        self._next_at = 0.0
        # a PLC that has no node for the verdict reads none; one without a node for reject reads ERROR instead of a PASS
        self._unsaid = [VerdictCode.NONE] + [VerdictCode.ERROR] * ("reject" not in addresses)

    async def __aenter__(self) -> Self:
        """Serve, and wait for the service to come. Raises SinkUnavailable, UsageError."""
        async with AsyncExitStack() as opening:
            self._folder = await asyncio.to_thread(FrameFolder, self._root)
            opening.push_async_callback(asyncio.to_thread, self._folder.close)
            await opening.enter_async_context(self._plant)
            try:
                await opening.enter_async_context(self._plc)
            except OSError as exc:
                raise UsageError(f"cannot listen at opcua.client.endpoint {self._endpoint}: {exc.strerror}") from exc
            listening = asyncio.create_task(self._listen(), name="plc results")
            opening.push_async_callback(asyncio.wait, [listening])
            opening.callback(listening.cancel)
            await self._wait_for_service()
            self._closing = opening.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._closing.__aexit__(exc_type, exc, traceback)

    async def stage(self, in_flight: InFlightPart) -> None:
        """Put the frame where the station reads it."""
        assert self._folder is not None, "use it with `async with`"
        await asyncio.to_thread(self._folder.put, in_flight)

    async def show(self, in_flight: InFlightPart) -> None:
        """Change the trigger. Raises SinkUnavailable where the PLC was told something else than the plant before."""
        assert self._folder is not None, "use it with `async with`"
        if self._contradiction is not None:
            raise SinkUnavailable(self._contradiction)
        self._plant.expect(in_flight.event_id).add_done_callback(partial(self._hear, in_flight))
        # a PLC has a cycle: texts written nearer to the trigger before them than the service samples would be its own
        await asyncio.sleep(self._next_at - self._clock.monotonic())
        uri = self._folder.image(in_flight).uri
        await self._plc.trigger(in_flight.part.event.part_id or "", uri, in_flight.event_id, station=self._station)
        self._next_at = self._clock.monotonic() + self._cycle_s

    def clear(self, in_flight: InFlightPart) -> None:
        """Remove the frame, and wait no longer for the verdict."""
        self._plant.forget(in_flight.event_id)
        self._heard = {seq: heard for seq, heard in self._heard.items() if heard[0] is not in_flight}
        if self._folder is not None:
            self._folder.remove(in_flight)

    async def _wait_for_service(self) -> None:
        """Return when the service watches the trigger: until then a change would be nobody's."""
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._plc.watched()
        except TimeoutError as exc:
            raise SinkUnavailable(f"{self._endpoint}: no service has connected within {_CONNECT_S:g} s") from exc

    async def _listen(self) -> None:
        while True:
            result = await self._plc.result(self._station)
            self._told[result.seq] = result
            if len(self._told) > _UNMATCHED:  # of parts that came in another way
                del self._told[next(iter(self._told))]
            self._settle(result.seq)

    def _hear(self, in_flight: InFlightPart, heard: asyncio.Future[HeardVerdict]) -> None:
        if heard.cancelled():
            return
        verdict = heard.result().verdict
        seq = result_seq(verdict.seq)
        self._heard[seq] = (in_flight, verdict)
        self._settle(seq)

    def _settle(self, seq: int) -> None:
        if seq not in self._heard or seq not in self._told:
            return
        (in_flight, verdict), told = self._heard.pop(seq), self._told.pop(seq)
        if told.verdict not in (VerdictCode.of(verdict.decision), *self._unsaid):
            self._contradiction = (
                f"part {verdict.part_id}: the PLC was told {told.verdict.name}, the plant {verdict.decision}"
            )
        if not in_flight.answer.done():
            in_flight.answer.set_result(verdict)
