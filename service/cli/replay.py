"""`cangate replay`: recorded parts through the real adapters again, or straight through a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adapters.opcua.client.access import read_access
from adapters.opcua.own_certificate import PKI
from adapters.recordings.reader import Session
from adapters.replay.mqtt import MqttReplay
from adapters.replay.opcua_client import OpcUaClientReplay
from adapters.replay.opcua_server import OpcUaServerReplay
from adapters.replay.presence import until_service
from schemas.messages import Decision
from schemas.settings import Settings
from service.cli.acceptance import AcceptanceRun, acceptance_judge, refuse_unused_labels
from service.cli.common import ConfigOption, LabelsOption, StoreOption, console, load_settings, say, tell_troubles
from service.cli.playback import Selection, direct_station, played_parts
from service.cli.replay_view import replay_view, watch
from service.cli.sessions import SessionArgument
from service.errors import CangateError, SinkUnavailable, UsageError
from service.replay.acceptance import Acceptance, Expectation
from service.replay.parts import moment_ns
from service.replay.player import Pace, ReplayTarget
from service.replay.tally import Tally
from service.threads import share_interpreter


class Via(StrEnum):
    """The way in."""

    DIRECT = "direct"
    MQTT = "mqtt"
    OPCUA_SERVER = "opcua-server"
    OPCUA_CLIENT = "opcua-client"


def replay(
    session: SessionArgument,
    *,
    via: Annotated[Via, typer.Option(help="The way in: to a running service, or direct to a model here.")] = Via.DIRECT,
    speed: Annotated[
        str, typer.Option(metavar="N|max", help="Multiple of the recorded pace, 0.01 to 1000, or max.")
    ] = "1",
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="direct: what judges.", show_default="model.name")
    ] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="RFC 3339, or [[H:]M:]S after the start.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="The same; parts before it.")] = None,
    only: Annotated[
        Decision | None,
        typer.Option(
            case_sensitive=False, help="Only parts of which this was said; without a recorded verdict, their label."
        ),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end, until Ctrl-C.")] = False,
    in_flight: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Speed max: parts on their way at a time.", show_default="4, over OPC UA 1"),
    ] = None,
    expect: Annotated[
        Expectation | None, typer.Option(help="Judge the replay against what was recorded, or against labels.")
    ] = None,
    labels: LabelsOption = None,
    report: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="REPORT", help="Folder of the judgement.", show_default="reports/SESSION"),
    ] = None,
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

    With --expect every verdict is compared, and acceptance in the configuration decides; parts.csv, acceptance.json
    and report.html say why.

    Exit status 1 where a part was not answered, or the replay is not accepted; 130 after Ctrl-C, but with --loop.

    Example: cangate replay data/recordings/line1-20260131T080000.000000Z --speed max --model canister@3

    Example: cangate replay SESSION --via mqtt -c config.toml --from 2026-01-31T10:00Z --to 2026-01-31T12:30Z
    """
    settings = load_settings(config)
    recorded = Session.open(session)
    # a trigger has no deadline of its own, so that a queue would miss the station's
    pace = Pace(_speed(speed), in_flight or (1 if via in (Via.OPCUA_SERVER, Via.OPCUA_CLIENT) else 4))
    selection = _selection(recorded, begin, end, only)
    if model is not None and via is not Via.DIRECT:
        raise UsageError("--model belongs to --via direct; a running service judges with its own")
    target = direct_station(settings, store, model) if via is Via.DIRECT else _way_in(via, settings, frames)
    refuse_unused_labels(expect, labels)
    if report is not None and expect is None:
        raise UsageError("--out belongs to --expect")
    if loop and expect is not None:
        raise UsageError("--loop never ends, and --expect judges at the end")
    run = (
        None
        if expect is None
        else AcceptanceRun(acceptance_judge(settings, recorded, expect, labels), recorded, report)
    )
    share_interpreter()
    tally = Tally()
    whole = begin is None and end is None and only is None and not loop
    acceptance: Acceptance | None = None
    interrupted = False
    playing = played_parts(recorded, selection, target, pace, tally, loop=loop)
    try:
        with nullcontext() if run is None else run.report() as draft:
            with replay_view(tally, recorded.count() if whole else None) as view:
                asyncio.run(watch(playing, view, None if run is None else run.judge))
            if run is not None and draft is not None:
                timed = pace.speed is not None and via is not Via.DIRECT
                acceptance = run.conclude(draft, via=via, speed=speed, skipped=tally.skipped, timed=timed)
    except KeyboardInterrupt:
        interrupted = True
    except SinkUnavailable as exc:
        _summarise(tally)
        if via is not Via.MQTT:
            raise  # it names the server
        raise SinkUnavailable(f"{settings.mqtt.host}:{settings.mqtt.port}: {exc}") from exc
    tell_troubles([*recorded.remarks, *recorded.troubles])
    if run is not None and acceptance is not None and not interrupted:
        run.tell(acceptance)
    _summarise(tally)
    if interrupted and not loop:
        raise KeyboardInterrupt  # the summary is of a part of what was asked for
    if not (tally.parts or tally.skipped or interrupted):
        when = f"`cangate sessions show {session}` says when its parts came"
        raise CangateError(f"no part was replayed: nothing in the session is what was asked for; {when}")
    if tally.unanswered or not tally.parts or not (acceptance is None or acceptance.accepted):
        raise typer.Exit(1)


def _selection(recorded: Session, begin: str | None, end: str | None, only: Decision | None) -> Selection:
    start_ns = recorded.start_ns() if begin or end else 0
    from_ns = None if begin is None else moment_ns(begin, start_ns=start_ns)
    to_ns = None if end is None else moment_ns(end, start_ns=start_ns)
    if from_ns is not None and to_ns is not None and from_ns >= to_ns:
        raise UsageError(f"--from {begin} is not before --to {end}: no part lies between them")
    return Selection(from_ns, to_ns, only)


def _way_in(via: Via, settings: Settings, frames: Path | None) -> AbstractAsyncContextManager[ReplayTarget]:
    station, opcua = settings.station.id, settings.opcua
    root = frames or next(iter(settings.images.roots), None)
    if root is None:
        raise UsageError("images.roots is empty: name a folder of the station with --frames")
    if via is Via.MQTT:
        return _where_it_runs(settings, MqttReplay(settings.mqtt, station=station, frames=root))
    if via is Via.OPCUA_CLIENT:
        return OpcUaClientReplay(opcua.client, settings.mqtt, station=station, frames=root)
    endpoint = opcua.replay.endpoint or f"opc.tcp://{opcua.server.host}:{opcua.server.port}/cangate/"
    access = read_access(opcua.replay, endpoint, station=station, pki=PKI, section="opcua.replay")
    return OpcUaServerReplay(access, station=station, frames=root)


@asynccontextmanager
async def _where_it_runs(settings: Settings, replay: MqttReplay) -> AsyncIterator[ReplayTarget]:
    """Lend the way in once the service is there: a broker takes parts for nobody, too."""
    await until_service(settings.mqtt, station=settings.station.id, tell=say)
    async with replay as target:
        yield target


def _summarise(tally: Tally) -> None:
    spacing = tally.spacing_error_ms()
    if spacing is not None:
        console.print(f"spacing error: 95% below {spacing:.1f} ms")
    if tally.skipped:
        console.print(f"skipped: {tally.skipped} parts whose frame was not recorded")
    say(str(tally))


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.01 <= speed <= 1000:  # below that a part a second takes minutes
        raise UsageError(f"--speed {text!r} is neither max nor a number from 0.01 to 1000")
    return speed
