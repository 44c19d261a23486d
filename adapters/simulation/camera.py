"""A camera that is a program: shows parts to the station over MQTT and waits for the verdicts."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from adapters.clock import SystemClock
from adapters.mqtt.plant import HeardVerdict, PlantConnection
from adapters.simulation.renderer import fast_png
from schemas.base import whole_ms
from schemas.messages import ImageEvent, ImageRef, Verdict
from schemas.settings import MqttSettings
from service.errors import SinkUnavailable
from service.pipeline.types import BgrImage

_PATIENCE_S = 5.0
"""How long after its deadline a verdict is still waited for."""


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
    verdict: asyncio.Future[HeardVerdict]


class SimulatedCamera:
    """Publishes image-ready events marked `simulated` and collects their verdicts. Use with `async with`.

    Args:
        settings: the broker, the same as the station's.
        station: id of the station.
        folder: where a frame is put for the station to fetch, until its verdict is there or waited for no longer; None
            sends frames inside the message (MQTT 5 only).
        deadline_ms: what each event asks for; None leaves it to the station.
    """

    def __init__(
        self, settings: MqttSettings, *, station: str, folder: Path | None, deadline_ms: int | None = None
    ) -> None:
        if folder is None and settings.protocol != "5":
            raise ValueError("raw images need MQTT 5: their metadata are user properties")
        self._plant = PlantConnection(settings, station=station, role="camera")
        self._folder = folder
        self._deadline_ms = deadline_ms
        self._clock = SystemClock()
        self._triggers = 0

    async def __aenter__(self) -> Self:
        """Connect. Raises SinkUnavailable where the broker is not there, UsageError where a file is not."""
        await self._plant.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._plant.__aexit__(exc_type, exc, traceback)

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
        self._triggers += 1
        event_id = secrets.token_hex(8)
        encoded = await asyncio.to_thread(fast_png, frame)
        verdict = self._plant.expect(event_id)
        image = None
        if self._folder is not None:
            path = await asyncio.to_thread(_put, self._folder / f"{event_id}.png", encoded)
            # at once, not when the shot is taken: a slow consumer must not fill the disk
            verdict.add_done_callback(partial(_remove, path))
            image = ImageRef(uri=path.as_uri())
        now = self._clock.now()
        event = ImageEvent(
            event_id=event_id,
            part_id=part_id,
            trigger_id=self._triggers,
            captured_at=whole_ms(now),
            deadline_ms=self._deadline_ms,
            simulated=True,
        )
        published = self._clock.monotonic()
        refusal = await self._plant.publish(event, image, encoded)
        if refusal is not None:
            raise SinkUnavailable(refusal)
        return _Shown(event, published, verdict)

    async def _outcome(self, shown: _Shown) -> Shot:
        patience_s = _PATIENCE_S + (shown.event.deadline_ms or 0) / 1000
        await asyncio.wait([shown.verdict], timeout=patience_s)
        self._plant.forget(shown.event.event_id)
        if not shown.verdict.done():
            shown.verdict.cancel()
            return Shot(shown.event, None, None)
        heard = shown.verdict.result()
        return Shot(shown.event, heard.verdict, (heard.arrived_monotonic - shown.published_monotonic) * 1000)


def _put(path: Path, encoded: bytes) -> Path:
    """Write a file that is whole from the moment it can be seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(encoded)
    return unfinished.rename(path).resolve()


def _remove(path: Path, _: asyncio.Future[HeardVerdict]) -> None:
    path.unlink(missing_ok=True)
