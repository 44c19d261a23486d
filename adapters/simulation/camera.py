"""A camera that is a program: shows parts to the station over MQTT and waits for the verdicts."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
from pydantic import ValidationError

from adapters.clock import SystemClock
from adapters.mqtt.access import read_access
from adapters.mqtt.connection import Connection, Incoming, Outgoing
from schemas.base import rfc3339
from schemas.messages import ImageEvent, ImageReady, ImageRef, Verdict
from schemas.settings import MqttSettings
from schemas.topics import Leaf, Prefix, StationTopics
from service.errors import SinkUnavailable
from service.pipeline.types import BgrImage

_PATIENCE_S = 5.0
"""How long after its deadline a verdict is still waited for."""

_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True, slots=True)
class Shot:
    """One part that was shown, and what came back: None where nothing came.

    round_trip_ms: from the publish of the event to the verdict.
    """

    event: ImageEvent
    verdict: Verdict | None
    round_trip_ms: float | None


@dataclass(frozen=True, slots=True)
class _Shown:
    event: ImageEvent
    published_monotonic: float
    verdict: asyncio.Future[tuple[Verdict, float]]


class SimulatedCamera:
    """Publishes image-ready events marked `simulated` and collects their verdicts. Use with `async with`.

    Args:
        settings: the broker, the same as the station's.
        station: id of the station.
        folder: where frames are put for the station to fetch; None sends them inside the message (MQTT 5 only).
        deadline_ms: what each event asks for; None leaves it to the station.
    """

    def __init__(
        self, settings: MqttSettings, *, station: str, folder: Path | None, deadline_ms: int | None = None
    ) -> None:
        if folder is None and settings.protocol != "5":
            raise ValueError("raw images need MQTT 5: their metadata are user properties")
        self._settings = settings
        self._station = station
        self._folder = folder
        self._deadline_ms = deadline_ms
        self._topics = StationTopics(Prefix(settings.prefix), station)
        self._clock = SystemClock()
        self._connection: Connection | None = None
        self._expected: dict[str, asyncio.Future[tuple[Verdict, float]]] = {}
        self._triggers = 0

    async def __aenter__(self) -> Self:
        """Connect. Raises SinkUnavailable where the broker is not there, UsageError where a file is not."""
        access = await asyncio.to_thread(read_access, self._settings, station=self._station)
        access = replace(access, client_id=f"cangate-camera-{secrets.token_hex(4)}", session_expiry_s=0)
        connection = Connection(access, clock=self._clock, on_message=self._on_message)
        await connection.connect()
        await connection.subscribe(self._topics.of(Leaf.VERDICT))
        self._connection = connection
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close(timeout_s=1.0)

    async def run(self, parts: Iterable[tuple[str, BgrImage]], *, rate_hz: float) -> AsyncIterator[Shot]:
        """Show `(part_id, frame)` after `(part_id, frame)` at `rate_hz` and yield each with its verdict, in that order.

        Frames are (H, W, 3) uint8, BGR; they are taken from `parts` on a thread. A slow consumer slows nothing down.

        Raises:
            SinkUnavailable: the broker went away.
        """
        shown: asyncio.Queue[_Shown | None] = asyncio.Queue()
        showing = asyncio.create_task(self._show_all(parts, rate_hz, shown), name="camera")
        try:
            while (part := await shown.get()) is not None:
                yield await self._outcome(part)
            await showing
        finally:
            showing.cancel()
            await asyncio.wait([showing])

    async def _show_all(
        self, parts: Iterable[tuple[str, BgrImage]], rate_hz: float, shown: asyncio.Queue[_Shown | None]
    ) -> None:
        loop = asyncio.get_running_loop()
        supply = iter(parts)
        due = loop.time()
        try:
            while (part := await asyncio.to_thread(next, supply, None)) is not None:
                part_id, frame = part
                await asyncio.sleep(due - loop.time())
                shown.put_nowait(await self._show(part_id, frame))
                due = max(due + 1 / rate_hz, loop.time())  # a camera that fell behind does not hurry afterwards
        finally:
            shown.put_nowait(None)

    async def _show(self, part_id: str, frame: BgrImage) -> _Shown:
        assert self._connection is not None, "use the camera with `async with`"
        self._triggers += 1
        event_id = secrets.token_hex(8)
        encoded = await asyncio.to_thread(_encode, frame)
        image = None
        if self._folder is not None:
            image = ImageRef(uri=(await asyncio.to_thread(_put, self._folder / f"{event_id}.png", encoded)).as_uri())
        now = self._clock.now()
        event = ImageEvent(
            event_id=event_id,
            part_id=part_id,
            trigger_id=self._triggers,
            captured_at=now.replace(microsecond=now.microsecond // 1000 * 1000),  # as it is written on the wire
            deadline_ms=self._deadline_ms,
            simulated=True,
        )
        verdict: asyncio.Future[tuple[Verdict, float]] = asyncio.get_running_loop().create_future()
        self._expected[event_id] = verdict
        published = self._clock.monotonic()
        refusal = await self._connection.publish(self._message(event, image, encoded))
        if refusal is not None:
            raise SinkUnavailable(refusal)
        return _Shown(event, published, verdict)

    def _message(self, event: ImageEvent, image: ImageRef | None, encoded: bytes) -> Outgoing:
        if image is not None:
            ready = ImageReady(**event.model_dump(), image=image)
            return Outgoing(self._topics.of(Leaf.IMAGE_READY), ready.to_json())
        assert event.captured_at is not None
        properties = {
            "event_id": event.event_id,
            "part_id": event.part_id,
            "trigger_id": event.trigger_id,
            "captured_at": rfc3339(event.captured_at),
            "deadline_ms": event.deadline_ms,
            "simulated": "true",
        }
        given = tuple((name, str(value)) for name, value in properties.items() if value is not None)
        return Outgoing(self._topics.of(Leaf.IMAGE_READY_RAW), encoded, user_properties=given)

    async def _outcome(self, shown: _Shown) -> Shot:
        patience_s = _PATIENCE_S + (shown.event.deadline_ms or 0) / 1000
        await asyncio.wait([shown.verdict], timeout=patience_s)
        self._expected.pop(shown.event.event_id, None)
        if not shown.verdict.done():
            return Shot(shown.event, None, None)
        verdict, arrived = shown.verdict.result()
        return Shot(shown.event, verdict, (arrived - shown.published_monotonic) * 1000)

    def _on_message(self, connection: Connection, message: Incoming) -> None:
        connection.ack(message)
        with suppress(ValidationError):  # somebody else's: ours would be in order
            verdict = Verdict.model_validate_json(message.payload)
            expected = self._expected.get(verdict.event_id)
            if expected is not None and not expected.done():
                expected.set_result((verdict, message.received_monotonic))


def _encode(frame: BgrImage) -> bytes:
    written, encoded = cv2.imencode(".png", frame, _FAST_PNG)
    assert written, "OpenCV writes every (H, W, 3) uint8"
    return encoded.tobytes()


def _put(path: Path, encoded: bytes) -> Path:
    """Write a file that is whole from the moment it can be seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(encoded)
    return unfinished.rename(path).resolve()
