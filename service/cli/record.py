"""`cangate record`: a running line, recorded from outside."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from adapters.clock import SystemClock
from adapters.frames import AllowListedFrames
from adapters.recordings.listener import MqttListener
from adapters.recordings.recorder import SessionRecorder
from schemas.settings import Settings
from service.cli.common import ConfigOption, error_console, load_settings, say
from service.errors import CangateError, UsageError
from service.logs import configure_logging

_CONNECT_S = 10.0


def record(
    parts: Annotated[
        int, typer.Option(min=0, help="End after this many parts, recorded or not; 0 goes on until Ctrl-C.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Where sessions lie.", show_default="record.folder"),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Record a running line from outside: its events, frames and verdicts, as one session.

    Listens on the topics of the station beside the service, which notices nothing. Frames are read from images.roots
    and images.http_hosts as the service reads them. A part that came in over OPC UA is known by its verdict. To record
    inside the service, with the very bytes that were judged, set record.enabled.

    Example: cangate record -c config.toml --parts 1000
    """
    settings = load_settings(config)
    if not settings.mqtt.enabled:
        raise UsageError("mqtt.enabled is false: there is nothing to listen to; set record.enabled instead")
    configure_logging(settings.log)
    if out is not None:
        settings = settings.model_copy(update={"record": settings.record.model_copy(update={"folder": out})})
    recorder = asyncio.run(_record(settings, parts))
    dropped = f", {recorder.frames_dropped} without their frame" if recorder.frames_dropped else ""
    kept = recorder.parts - recorder.parts_lost
    say(f"{kept} parts{dropped} are in {recorder.folder}" if recorder.parts else "nothing was recorded")
    missing = []
    if recorder.parts_lost:
        removed = "a file was removed or replaced while it was being written"
        missing.append(f"{recorder.parts_lost} parts are gone from {recorder.folder}: {removed}")
    if recorder.parts_dropped:
        missing.append(f"{recorder.parts_dropped} parts could not be recorded: {recorder.fault or 'no room'}")
    if missing:
        raise CangateError("; ".join(missing))


async def _record(settings: Settings, parts: int) -> SessionRecorder:
    clock = SystemClock()
    frames = AllowListedFrames(settings.images)
    recorder = SessionRecorder(
        settings.record, station=settings.station.id, origin="mqtt", fetch=frames.fetch, clock=clock
    )
    listener = MqttListener(
        settings.mqtt,
        station=settings.station.id,
        recorder=recorder,
        fetch=frames.fetch,
        max_raw_bytes=settings.images.max_bytes,
        clock=clock,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    listening = asyncio.create_task(listener.run(), name="listener")
    listening.add_done_callback(lambda _: stop.set())
    try:
        await _connected(listener, listening, settings)
        say(f"recording {settings.station.id} into {recorder.folder}")
        await _until(stop, recorder, parts)
    finally:
        listening.cancel()
        await asyncio.wait([listening])
        await listener.finish()
        await asyncio.to_thread(recorder.close)
    return recorder


async def _connected(listener: MqttListener, listening: asyncio.Task[None], settings: Settings) -> None:
    hearing = asyncio.create_task(listener.listening.wait())
    await asyncio.wait([hearing, listening], timeout=_CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
    if listening.done():
        listening.result()
    if not hearing.done():
        hearing.cancel()
        raise CangateError(f"the broker {settings.mqtt.host}:{settings.mqtt.port} does not answer")


async def _until(stop: asyncio.Event, recorder: SessionRecorder, parts: int) -> None:
    """Return when `stop` is set or enough parts have passed, recorded or not; on a terminal their number is shown."""
    shown = Live(console=error_console, transient=True, auto_refresh=False) if error_console.is_terminal else None
    with shown or contextlib.nullcontext():
        while not stop.is_set() and not (parts and recorder.parts + recorder.parts_dropped >= parts):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await stop.wait()
            if shown is not None:
                shown.update(f"{recorder.parts} parts, {recorder.frames_dropped} frames dropped", refresh=True)
