"""The one place where settings become objects."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable
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
from adapters.opcua.security import PLAIN
from adapters.opcua.server import OpcUaServerAdapter
from adapters.pictures import PictureStore
from adapters.recordings.recorder import SessionRecorder
from adapters.systemd import SystemdWatchdog
from schemas.messages import FaultCode
from schemas.settings import LogSettings, Settings, is_loopback
from service.admission import Admission
from service.commands import StationCommands
from service.compute import Compute, LoadedModel
from service.deadline import Margin
from service.device import compute_device
from service.dispatch import Dispatcher
from service.errors import UsageError
from service.inspector import Inspector
from service.journal_health import JournalHealth
from service.model.active import ActiveModel
from service.outbox import Outbox
from service.ports import Adapter, Answer, Arrival, Journal, VerdictSink
from service.recovery import Recovery
from service.runner import Runner
from service.station import Station

_GIVE_UP_S = 60.0
"""Judging that has failed for longer is left to a new process, where systemd watches over this one."""


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service that its starter may want to look at."""

    runner: Runner
    compute: Compute
    pictures: PictureStore
    recorder: SessionRecorder | None
    hmi: HmiServer | None


def configure_logging(settings: LogSettings) -> None:
    """Send structured log lines to standard error, ours and those of the libraries alike."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        # plain: the other formatter prints the local variables of each frame, and some of them are passwords
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    logging.captureWarnings(capture=True)
    # some would say every header of a request at level debug, the login among them
    libraries = ("aiosqlite", "amqtt", "asyncua", "engineio", "httpcore", "httpx", "PIL", "socketio", "transitions")
    for talkative in (*libraries, "uvicorn", "websockets"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


def build(settings: Settings, journal: Journal, *, take_free_http_port: bool = False) -> Service:
    """Wire a service from its settings. Raises UsageError where a setting cannot be used."""
    _refuse_open_doors(settings)
    clock = SystemClock()
    device = compute_device(settings.compute)
    models = ActiveModel(settings.model, device=device)
    frames = AllowListedFrames(settings.images)
    # batching gains nothing on a CPU and makes the first of a batch wait for the last
    max_batch = 1 if device.type == "cpu" else settings.compute.max_batch
    compute = Compute(
        frames,
        # while one batch is judged the next one is made ready
        admission=Admission(settings.intake, clock=clock, places=settings.compute.prepare_workers + 2 * max_batch - 1),
        settings=settings.compute,
        max_batch=max_batch,
    )
    recovery = Recovery(compute, models, clock=clock)
    compute.on_trouble = recovery.report
    margin = Margin(settings.deadline.margin_ms)
    health = JournalHealth()
    pictures = PictureStore(settings.images.store, keep=settings.images.keep)
    recorder: SessionRecorder | None = None
    if settings.record.enabled:
        recorder = SessionRecorder(
            settings.record, station=settings.station.id, origin="service", fetch=frames.fetch, clock=clock
        )

    gate_sinks: list[VerdictSink] = []
    adapters: list[Adapter] = []
    side_faults: list[tuple[FaultCode, str, Callable[[], str | None]]] = [
        (
            FaultCode.JOURNAL_FAILING,
            "journal",
            lambda: health.fault or journal.fault,
        ),
        (FaultCode.PICTURES_FAILING, "pictures", lambda: pictures.fault),
        (FaultCode.RECORDING_FAILING, "recording", lambda: None if recorder is None else recorder.fault),
    ]
    if settings.mqtt.enabled:
        mqtt = MqttAdapter(
            settings.mqtt, station=settings.station.id, clock=clock, max_raw_bytes=settings.images.max_bytes
        )
        gate_sinks.append(mqtt)
        adapters.append(mqtt)
        side_faults.append((FaultCode.SINK_DOWN, mqtt.name, lambda: mqtt.refused))
    if settings.opcua.server.enabled:
        opcua = OpcUaServerAdapter(settings.opcua.server, station=settings.station.id, clock=clock, models=models)
        gate_sinks.append(opcua)
        adapters.append(opcua)
    if settings.opcua.client.endpoint:
        plc = OpcUaClientAdapter(settings.opcua.client, station=settings.station.id, clock=clock)
        gate_sinks.append(plc)
        adapters.append(plc)

    def judging_model() -> LoadedModel | None:
        return None if station.paused or recovery.fault is not None else models.current

    def dispatch(answer: Answer, arrival: Arrival) -> None:
        if answer.for_gate and not answer.repeated:
            station.count(answer.verdict)
        dispatcher.dispatch(answer, arrival)

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
    outboxes = [Outbox(sink, journal=journal, clock=clock, margin=margin) for sink in gate_sinks]
    station = Station(
        settings.station.id,
        version=version("cangate"),
        clock=clock,
        model=lambda: None if models.current is None else models.current.ref,
        model_fault=lambda: models.fault,
        in_work=lambda: compute.in_work,
        can_decide=lambda: not (compute.stuck or dispatcher.stalled),
        sinks=gate_sinks,
        blocking_faults=[
            (FaultCode.COMPUTE_STUCK, "compute", lambda: "an inspection hangs" if compute.stuck else None),
            (FaultCode.COMPUTE_FAILING, "compute", lambda: recovery.fault),
        ],
        side_faults=side_faults,
    )
    hmi: HmiServer | None = None
    if settings.http.enabled:
        hmi = HmiServer(
            settings.http,
            view=station,
            journal=journal,
            pictures=pictures,
            station=settings.station.id,
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
        parts=[("threads", compute.watch), ("recovery", recovery.run)],
        commands=StationCommands(settings.station.id, station=station, models=models, reset_fault=reset_fault),
        watchdog=SystemdWatchdog(given_up=partial(recovery.given_up, _GIVE_UP_S)),
        before_ready=models.load,
    )
    return Service(runner, compute, pictures, recorder, hmi)


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    *,
    take_free_http_port: bool = False,
    on_started: Callable[[Service], None] = lambda _: None,
) -> None:
    """Run the service until `stop` is set. Raises UsageError where something it needs at start is not there."""
    async with SqlJournal(settings.journal, station=settings.station.id, clock=SystemClock()) as journal:
        service = build(settings, journal, take_free_http_port=take_free_http_port)
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
                await asyncio.to_thread(service.recorder.close)


def _refuse_open_doors(settings: Settings) -> None:
    """Refuse to listen beyond this machine without authentication, unless that was asked for in so many words."""
    for name, listener in (("http", settings.http), ("opcua.server", settings.opcua.server)):
        told_so = "anonymous" in listener.model_fields_set
        if listener.enabled and listener.anonymous and not told_so and not is_loopback(listener.host):
            raise UsageError(
                f"{name}.host: {listener.host} is not this machine; to let anybody in, say {name}.anonymous = true"
            )
    opcua = settings.opcua.server
    in_the_clear = opcua.users_file is not None and PLAIN in opcua.security and not is_loopback(opcua.host)
    if opcua.enabled and in_the_clear and "security" not in opcua.model_fields_set:
        raise UsageError(
            "opcua.server.security: None sends passwords in the clear; name a policy that encrypts, or say None"
        )
