"""`cangate replay`: recorded parts through the real adapters again, or straight through a model."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adapters.clock import SystemClock
from adapters.frames import AllowListedFrames
from adapters.recordings.reader import Session
from adapters.replay.mqtt import MqttReplay
from schemas.messages import Decision
from schemas.settings import IntakeSettings, Settings
from service.admission import Admission
from service.cli.common import ConfigOption, console, load_settings
from service.cli.models import StoreOption
from service.cli.replay_view import ReplayView, replay_view
from service.cli.sessions import SessionArgument
from service.compute import Compute, LoadedModel
from service.device import compute_device
from service.errors import UsageError
from service.model.package import read_package
from service.model.registry import ModelRegistry
from service.replay.direct import DirectStation
from service.replay.parts import RecordedPart, moment_ns
from service.replay.player import Pace, Played, ReplayTarget, play
from service.replay.tally import Tally


class Via(StrEnum):
    """The way in."""

    DIRECT = "direct"
    MQTT = "mqtt"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which parts of a session are played."""

    from_ns: int | None
    to_ns: int | None
    only: Decision | None

    def of(self, session: Session, tally: Tally) -> Iterator[RecordedPart]:
        """Yield the parts meant; one whose frame was not recorded is counted as skipped."""
        for part in session.parts(from_ns=self.from_ns, to_ns=self.to_ns):
            if self.only is not None and part.decision is not self.only:
                continue
            if part.event.frame_dropped:
                tally.skipped += 1
                continue
            yield part


def replay(
    session: SessionArgument,
    *,
    via: Annotated[Via, typer.Option(help="The way in: to a running service, or direct to a model here.")] = Via.DIRECT,
    speed: Annotated[str, typer.Option(metavar="N|max", help="Multiple of the recorded pace, or max.")] = "1",
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="direct: what judges.", show_default="model.name")
    ] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="RFC 3339, or [[H:]M:]S after the start.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="The same; parts before it.")] = None,
    only: Annotated[
        Decision | None, typer.Option(case_sensitive=False, help="Only parts of which this was said.")
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end, until Ctrl-C.")] = False,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Speed max: parts on their way at a time.")] = 4,
    frames: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the station reads frames.", show_default="the first of images.roots"),
    ] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Play a recorded session: with the original spacing, a multiple of it, or as fast as answers come.

    Events are marked as replayed: a live station answers them and moves no gate, unless gate.on_replayed says act.
    Each gets a new event id, which begins with replay/. Speed max asks for a deadline of a minute.

    Exit status 1 where a part was not answered.

    Example: cangate replay data/recordings/line1-20260131T080000.000000Z --speed max --model canister@3

    Example: cangate replay SESSION --via mqtt -c config.toml --from 10:00 --to 12:30 --only damaged
    """
    settings = load_settings(config)
    recorded = Session.open(session)
    pace = Pace(_speed(speed), in_flight)
    start_ns = recorded.start_ns() if begin or end else 0
    selection = Selection(
        from_ns=None if begin is None else moment_ns(begin, start_ns=start_ns),
        to_ns=None if end is None else moment_ns(end, start_ns=start_ns),
        only=only,
    )
    if via is Via.DIRECT:
        target: AbstractAsyncContextManager[ReplayTarget] = direct_station(settings, store, model)
    elif model is not None:
        raise UsageError("--model belongs to --via direct; a running service judges with its own")
    else:
        target = MqttReplay(settings.mqtt, station=settings.station.id, frames=frames or settings.images.roots[0])
    tally = Tally()
    whole = begin is None and end is None and only is None and not loop
    with replay_view(tally, recorded.count() if whole else None) as view, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(played_parts(recorded, selection, target, pace, tally, loop=loop), view))
    for trouble in recorded.troubles:
        console.print(trouble, style="yellow", markup=False, soft_wrap=True)
    _summarise(tally)
    if tally.unanswered or not tally.parts:
        raise typer.Exit(1)


async def played_parts(
    session: Session,
    selection: Selection,
    target: AbstractAsyncContextManager[ReplayTarget],
    pace: Pace,
    tally: Tally,
    *,
    loop: bool = False,
) -> AsyncGenerator[Played, None]:
    """Play what is selected of a session, again and again where asked to, and yield each part with its verdict."""
    async with target as station:
        while True:
            before = tally.parts
            async with aclosing(play(selection.of(session, tally), station, pace, clock=SystemClock())) as playing:
                async for played in playing:
                    yield played
            if not loop or tally.parts == before:
                return


def direct_station(settings: Settings, store: Path | None, model: str | None) -> DirectStation:
    """Return a station that judges in this process. Raises UsageError where there is no such model."""
    reference = model or settings.model.name
    if not reference:
        raise UsageError("nothing to judge with: give --model, or model.name in the configuration")
    if model is None and settings.model.version != "active":
        reference = f"{reference}@{settings.model.version}"
    package = read_package(ModelRegistry(store or settings.model.store).resolve(reference))
    pipeline = package.build_pipeline(compute_device(settings.compute))
    # every frame comes with its part: no folder and no host is asked
    images = settings.images.model_copy(update={"roots": (), "http_hosts": ()})
    clock = SystemClock()
    compute = Compute(
        AllowListedFrames(images),
        # nothing has a deadline here: whatever is played waits for its turn
        admission=Admission(
            IntakeSettings(capacity=sys.maxsize), clock=clock, places=settings.compute.prepare_workers + 1
        ),
        settings=settings.compute,
        max_batch=1,
    )
    return DirectStation(
        compute,
        LoadedModel(pipeline, package.ref),
        station=settings.station.id,
        gate_on_error=settings.gate.on_error,
        clock=clock,
    )


async def _watch(playing: AsyncGenerator[Played, None], view: ReplayView) -> None:
    async with aclosing(playing):
        async for played in playing:
            view.take(played)


def _summarise(tally: Tally) -> None:
    spacing = tally.spacing_error_ms()
    if spacing is not None:
        console.print(f"spacing error: 95% below {spacing:.1f} ms")
    if tally.skipped:
        console.print(f"skipped: {tally.skipped} parts whose frame was not recorded")
    console.print(str(tally), markup=False, soft_wrap=True)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1000:
        raise UsageError(f"--speed {text!r} is neither max nor a number above 0 and up to 1000")
    return speed
