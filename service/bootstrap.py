"""The one place where settings become objects."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import structlog

from adapters.clock import SystemClock
from adapters.frames import AllowListedFrames
from adapters.hmi.server import HmiServer
from adapters.journal import SqlJournal
from adapters.mqtt import MqttAdapter
from adapters.opcua.client import OpcUaClientAdapter
from adapters.opcua.client.nodes import written_nodes
from adapters.opcua.client.sessions import PlcSessions
from adapters.opcua.server.adapter import OpcUaServerAdapter
from adapters.pictures import PictureStore
from adapters.recordings.recorder import SessionRecorder
from adapters.systemd import Systemd
from adapters.telemetry import Metrics
from schemas.messages import FaultCode
from schemas.settings import Settings, without_password
from service.commands import StationCommands
from service.compute import Compute, LoadedModel
from service.deadline import Margin
from service.device import compute_device
from service.dispatch import Dispatcher
from service.inspector import Inspector
from service.journal_health import JournalHealth
from service.model.active import ActiveModel
from service.outbox import Outbox
from service.ports import Adapter, Answer, Arrival, Clock, Journal
from service.recovery import Recovery
from service.refusals import journal_file, refuse_clashes, refuse_open_doors
from service.runner import Runner
from service.station import Station

log = structlog.get_logger(__name__)

_GIVE_UP_S = 60.0
"""Judging that has failed for longer is left to a new process, where systemd watches over this one."""


@dataclass(frozen=True, slots=True)
class Process:
    """What the stations of one process have in common."""

    stations: int
    systemd: Systemd
    plc_sessions: PlcSessions

    @classmethod
    def of(cls, stations: Sequence[Settings]) -> Process:
        """Return what `stations` share."""
        return cls(len(stations), Systemd([settings.station.id for settings in stations]), PlcSessions())


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service that its starter may want to look at."""

    runner: Runner
    compute: Compute
    pictures: PictureStore
    recorder: SessionRecorder | None
    hmi: HmiServer | None


_RECORDER_PATIENCE_S = 1.0
"""What a slow disk may cost of the time to stop: the journal is closed after the recording."""


def build(
    settings: Settings, journal: Journal, *, process: Process | None = None, take_free_http_port: bool = False
) -> Service:
    """Wire the service of one station from its settings. Raises UsageError where a setting cannot be used."""
    refuse_open_doors(settings)
    process = process or Process.of([settings])
    clock, metrics = SystemClock(), Metrics()
    device = compute_device(settings.compute, stations=process.stations)
    models = ActiveModel(settings.model, device=device)
    frames = AllowListedFrames(settings.images)
    compute = Compute.of(settings.compute, settings.intake, frames, device, clock)
    recovery = Recovery(compute, models, clock=clock)
    compute.on_trouble = models.on_trouble = recovery.report
    models.on_loaded = recovery.retry
    margin = Margin(settings.deadline.margin_ms, clock=clock)
    health = JournalHealth()
    pictures = PictureStore(settings.images.store, keep=settings.images.keep, metrics=metrics)
    recorder: SessionRecorder | None = None
    if settings.record.enabled:
        recorder = SessionRecorder(
            settings.record,
            station=settings.station.id,
            origin="service",
            fetch=frames.fetch,
            clock=clock,
            metrics=metrics,
        )

    transports = _transports(settings, journal, clock=clock, models=models, metrics=metrics, process=process)
    adapters: list[Adapter] = list(transports)

    def judging_model() -> LoadedModel | None:
        return None if station.paused or recovery.fault is not None else models.current

    def dispatch(answer: Answer, arrival: Arrival) -> asyncio.Future[bool]:
        if answer.for_gate and not answer.repeated:
            station.count(answer.verdict)
        return dispatcher.dispatch(answer, arrival)

    inspector = Inspector(
        settings,
        clock=clock,
        journal=journal,
        compute=compute,
        margin=margin,
        health=health,
        model=judging_model,
        dispatch=dispatch,
        pictures=pictures,
        recorder=recorder,
    )
    outboxes = [Outbox(sink, journal=journal, clock=clock, margin=margin) for sink in transports]
    station = Station(
        settings.station.id,
        version=version("cangate"),
        clock=clock,
        model=lambda: None if models.current is None else models.current.ref,
        model_fault=lambda: models.fault,
        in_work=lambda: compute.in_work,
        can_decide=lambda: not (compute.stuck or dispatcher.stalled),
        sinks=transports,
        blocking_faults=[
            (FaultCode.COMPUTE_STUCK, "compute", lambda: "an inspection hangs" if compute.stuck else None),
            (FaultCode.COMPUTE_FAILING, "compute", lambda: recovery.fault),
        ],
        side_faults=[
            (FaultCode.JOURNAL_FAILING, "journal", lambda: health.fault or journal.fault),
            (FaultCode.PICTURES_FAILING, "pictures", lambda: pictures.fault),
            (FaultCode.RECORDING_FAILING, "recording", lambda: None if recorder is None else recorder.fault),
            *(
                (FaultCode.SINK_DOWN, sink.name, partial(getattr, sink, "refused"))
                for sink in transports
                if isinstance(sink, MqttAdapter | OpcUaClientAdapter)
            ),
        ],
    )
    hmi: HmiServer | None = None
    if settings.http.enabled:
        hmi = HmiServer(
            settings.http,
            view=station,
            journal=journal,
            pictures=pictures,
            station=settings.station.id,
            metrics=metrics,
            take_free_port=take_free_http_port,
        )
        adapters.append(hmi)
        outboxes.append(Outbox(hmi, journal=None, clock=clock))
    dispatcher = Dispatcher(journal, outboxes, clock=clock, margin=margin, health=health)

    def reset_fault() -> None:
        journal.reset_fault()
        recovery.retry()

    runner = Runner(
        station=station,
        inspector=inspector,
        dispatcher=dispatcher,
        outboxes=outboxes,
        adapters=adapters,
        tasks=[("threads", compute.watch), ("recovery", recovery.run), ("model", models.keep_looking)],
        commands=StationCommands(settings.station.id, station=station, models=models, reset_fault=reset_fault),
        capacity=settings.intake.capacity,
        watchdog=process.systemd.watchdog(settings.station.id, partial(recovery.given_up, _GIVE_UP_S)),
        before_ready=models.load,
    )
    models.on_unloaded = runner.announce
    return Service(runner, compute, pictures, recorder, hmi)


def _transports(
    settings: Settings, journal: Journal, *, clock: Clock, models: ActiveModel, metrics: Metrics, process: Process
) -> list[MqttAdapter | OpcUaServerAdapter | OpcUaClientAdapter]:
    """Return what brings events in and verdicts out, in the order in which a verdict goes out."""
    station = settings.station.id
    found: list[MqttAdapter | OpcUaServerAdapter | OpcUaClientAdapter] = []
    if settings.mqtt.enabled:
        found.append(
            MqttAdapter(
                settings.mqtt,
                station=station,
                clock=clock,
                max_raw_bytes=settings.images.max_bytes,
                metrics=metrics,
                worker=hashlib.sha256(journal_file(without_password(settings.journal.url)).encode()).hexdigest()[:8],
            )
        )
    if settings.opcua.server.enabled:
        found.append(
            OpcUaServerAdapter(settings.opcua.server, station=station, clock=clock, models=models, journal=journal)
        )
    if settings.opcua.client.endpoint:
        found.append(
            OpcUaClientAdapter(
                settings.opcua.client,
                station=station,
                clock=clock,
                journal=journal,
                sessions=process.plc_sessions,
                metrics=metrics,
            )
        )
    return found


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    *,
    process: Process | None = None,
    take_free_http_port: bool = False,
    on_started: Callable[[Service], None] = lambda _: None,
) -> None:
    """Run one station until `stop` is set. Raises UsageError where something it needs at start is not there."""
    async with SqlJournal(settings.journal, station=settings.station.id, clock=SystemClock()) as journal:
        service = build(settings, journal, process=process, take_free_http_port=take_free_http_port)
        running = asyncio.create_task(service.runner.run(stop), name="runner")
        started = asyncio.create_task(service.runner.started.wait())
        await asyncio.wait({running, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        # what was made up to here stays: the collector need not look at it in the middle of a part
        gc.collect()
        gc.freeze()
        if not running.done():
            on_started(service)
        try:
            await running
        finally:
            service.compute.close()
            await asyncio.to_thread(service.pictures.close)
            if service.recorder is not None:
                await asyncio.to_thread(service.recorder.close, _RECORDER_PATIENCE_S)
    log.info("station_stopped")


async def serve_all(
    stations: Sequence[Settings], stop: asyncio.Event, *, on_started: Callable[[], None] = lambda: None
) -> None:
    """Run several stations side by side until `stop` is set; what one of them cannot start without ends them all.

    on_started: called whenever one of them has started.

    Raises:
        UsageError: something that a station needs at start is not there, or two of them want the same for themselves.
    """
    refuse_clashes(stations, written_nodes)
    process = Process.of(stations)

    async def serve_one(settings: Settings) -> None:
        structlog.contextvars.bind_contextvars(station=settings.station.id)
        await serve(settings, stop, process=process, on_started=lambda _: on_started())

    serving = [asyncio.create_task(serve_one(settings), name=settings.station.id) for settings in stations]
    try:
        await asyncio.gather(*serving)
    finally:
        stop.set()
        await asyncio.wait(serving)
