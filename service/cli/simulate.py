"""`cangate simulate`: a line that is a program, for load tests and for training people."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from adapters.replay.presence import until_service
from adapters.simulation.line import PicturePool, SimulatedStation
from adapters.simulation.line_plan import Belt, LineRates
from adapters.simulation.renderer import SIDES_PX
from schemas.messages import MAX_DEADLINE_MS
from schemas.settings import Settings
from service.cli.common import (
    ConfigOption,
    checked_station,
    console,
    error_console,
    load_settings,
    parsed_size,
    say,
    stage_bars,
)
from service.errors import SinkUnavailable, UsageError
from service.files import real_path
from service.percentiles import percentile


def simulate(
    *,
    station: Annotated[
        list[str] | None, typer.Option(help="Id of a station; may be repeated.", show_default="station.id")
    ] = None,
    parts: Annotated[int, typer.Option(min=0, help="Parts a station; 0 goes on until Ctrl-C.")] = 100,
    rate: Annotated[float, typer.Option(min=0.01, max=200, help="Parts a second and station.")] = 2.0,
    jitter: Annotated[float, typer.Option(min=0, max=1, help="Spread of the distance of parts, share of it.")] = 0.1,
    bursts: Annotated[float, typer.Option(min=0, max=1, help="Share of parts that begin a burst.")] = 0.02,
    stops: Annotated[float, typer.Option(min=0, max=1, help="Share of parts after which the belt stands.")] = 0.01,
    damaged: Annotated[float, typer.Option(min=0, max=1, help="Share of damaged parts.")] = 0.1,
    wrong: Annotated[float, typer.Option(min=0, max=1, help="Share of frames cut off or blank.")] = 0.01,
    missing: Annotated[float, typer.Option(min=0, max=1, help="Share of frames that never come.")] = 0.01,
    speed: Annotated[float, typer.Option(min=1, max=100_000, help="Of the belt, mm/s.")] = 500.0,
    gate: Annotated[float, typer.Option(min=1, max=1_000_000, help="From camera to gate, mm.")] = 750.0,
    size: Annotated[str, typer.Option(metavar="WxH", help="Of the frames, pixels.")] = "1280x960",
    seed: Annotated[int, typer.Option(min=0, help="The same seed is the same line.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Show parts to running services and act at their gates, as a line with cameras, encoder and reject gates does.

    Parts come at a rate with jitter, bursts and stops of the belt; some are damaged, some frames are wrong or never
    come. A part is tracked by the encoder's count, which its event carries as trigger_id. When it is at the gate, the
    gate opens if a verdict for that count says so by then, else it rejects. Everything but the answers follows from the
    seed. Events are marked as simulated; images go inside their messages, which takes MQTT 5.

    Exit status 1 where a part got no verdict at all, and where a station has no service.

    Example: cangate simulate -c config.toml --rate 5 --parts 1000

    Example: cangate simulate --station line1 --station line2 --stops 0.05 --wrong 0.1 --parts 0
    """
    settings = load_settings(config)
    if settings.mqtt.protocol != "5":
        raise UsageError("mqtt.protocol is 3.1.1: images inside messages take MQTT 5")
    stations = list(dict.fromkeys(map(checked_station, station or [settings.station.id])))
    rates = LineRates(
        rate_hz=rate, jitter=jitter, bursts=bursts, stops=stops, damaged=damaged, wrong=wrong, missing=missing
    )
    belt = Belt(speed_mm_s=speed, gate_mm=gate)
    _refuse_far_gate(belt)
    size_wh = parsed_size(size, SIDES_PX)
    with _naming_broker(settings):
        asyncio.run(_services(settings, stations))
    with stage_bars() as progress:
        pool = PicturePool.render(seed, size_wh, partial(progress, "render"))
    nowhere = real_path(next(iter(settings.images.roots), Path("data/frames")))
    line = [SimulatedStation(settings.mqtt, name, pool=pool, missing=nowhere) for name in stations]
    try:
        with _naming_broker(settings):
            asyncio.run(_run(line, seed=seed, rates=rates, belt=belt, parts=parts))
    except KeyboardInterrupt:
        console.print("interrupted")
    for one in line:
        say(_summary(one))
    if any(one.count.never for one in line):
        raise typer.Exit(1)


@contextmanager
def _naming_broker(settings: Settings) -> Iterator[None]:
    try:
        yield
    except SinkUnavailable as exc:
        raise SinkUnavailable(f"mqtt: {settings.mqtt.host}:{settings.mqtt.port}: {exc}") from exc


async def _services(settings: Settings, stations: Sequence[str]) -> None:
    """Return once every station has its service. Raises SinkUnavailable, and UsageError for a file that is no use."""
    try:
        async with asyncio.TaskGroup() as group:
            for station in stations:
                group.create_task(until_service(settings.mqtt, station=station, tell=say))
    except* (SinkUnavailable, UsageError) as broken:
        raise broken.exceptions[0] from None


async def _run(line: Sequence[SimulatedStation], *, seed: int, rates: LineRates, belt: Belt, parts: int) -> None:
    shown = (
        Live(_table(line), console=error_console, refresh_per_second=4, transient=True)
        if error_console.is_terminal
        else None
    )
    changed = (lambda: None) if shown is None else partial(_redraw, shown, line)
    try:
        with shown or nullcontext():
            async with asyncio.TaskGroup() as group:
                for one in line:
                    group.create_task(one.run(seed=seed, rates=rates, belt=belt, parts=parts, changed=changed))
    except* SinkUnavailable as broken:
        raise broken.exceptions[0] from None


def _redraw(shown: Live, line: Sequence[SimulatedStation]) -> None:
    shown.update(_table(line))


def _table(line: Sequence[SimulatedStation]) -> Table:
    table = Table(
        "station", "parts", "passed", "rejected", "escapes", "over-rejects", "errors", "late", "never", box=None
    )
    for one in line:
        count = one.count
        figures = (count.parts, count.passed, count.rejected, count.escapes, count.over_rejects, count.errors)
        table.add_row(one.station, *map(str, (*figures, count.late, count.never)))
    return table


def _summary(one: SimulatedStation) -> str:
    count = one.count
    slack = percentile(count.slack_s, 1)
    told = "" if slack is None else f"; 99% of the verdicts came {slack * 1000:.0f} ms before the gate or earlier"
    return (
        f"{one.station}: {count.parts} parts, {count.passed} passed, {count.rejected} rejected, "
        f"{count.escapes} escapes, {count.over_rejects} over-rejects, {count.errors} errors, {count.late} late, "
        f"{count.never} never answered{told}"
    )


def _refuse_far_gate(belt: Belt) -> None:
    """Raise UsageError for a gate that no part reaches within the longest deadline that it may ask for."""
    longest_s = MAX_DEADLINE_MS / 1000
    if belt.to_gate_s > longest_s:
        raise UsageError(f"--gate {belt.gate_mm:g} at --speed {belt.speed_mm_s:g} is not within {longest_s:g} s")
