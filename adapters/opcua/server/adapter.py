"""The station's own OPC UA server: a PLC writes triggers here and reads every verdict as tags."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog
from asyncua import ua

from adapters.opcua.events import DefaultEventIds, TriggerNumbers, TriggerTexts, trigger_arrival
from adapters.opcua.own_certificate import PKI
from adapters.opcua.server.listener import StationServer
from adapters.opcua.server.long_lived import long_lived
from adapters.opcua.server.machine_vision.service import add_vision_system
from adapters.opcua.server.machine_vision.system import VisionSystem
from adapters.opcua.server.notifications import ResultValue
from adapters.opcua.server.ring import ResultRing
from adapters.opcua.server.security import ServerSecurity
from adapters.opcua.server.sessions import StationInternalServer
from adapters.opcua.server.tags import TRIGGER_TEXTS, TagSpace, TagValue, TagWrites
from adapters.opcua.trust import encoding_of
from schemas.messages import Decision, Gate, Reason, StationState, Status
from schemas.settings import OpcUaServerSettings
from schemas.tags import NAMESPACE_URI, RESULT_RING, Tag, VerdictCode, result_seq
from service.errors import JournalError, SinkUnavailable, UsageError
from service.ports import (
    Answer,
    Arrival,
    Asker,
    Clock,
    CommandHandler,
    Intake,
    Journal,
    ModelShelf,
    Refusal,
    VerdictQuery,
)
from service.tasks import NamedTask, together

log = structlog.get_logger(__name__)

ENDPOINT_PATH: Final = "/cangate/"
_CLOSE_S = 2.0
_JOURNAL_PATIENCE_S = 0.5
_DROPPED_S = 5.0
_T = TypeVar("_T")

_COUNTS: Final = {Decision.OK: Tag.CountOk, Decision.DAMAGED: Tag.CountDamaged, Decision.ERROR: Tag.CountError}
_TEXT_TAGS: Final = TriggerTexts(
    part_id=Tag.TriggerPartId.name, image_uri=Tag.TriggerImageUri.name, event_id=Tag.TriggerEventId.name
)


class OpcUaServerAdapter:
    """Serves the tags of one station. Fulfils Adapter and VerdictSink (service/ports.py)."""

    def __init__(
        self,
        settings: OpcUaServerSettings,
        *,
        station: str,
        clock: Clock,
        models: ModelShelf | None = None,
        journal: Journal | None = None,
        pki: Path = PKI,
    ) -> None:
        self._settings = settings
        self._models = models
        self._journal = journal
        self._station = station
        self._clock = clock
        self._pki = pki
        self._server: StationServer | None = None
        self._tags: TagSpace | None = None
        self._intake: Intake | None = None
        self._commands: CommandHandler | None = None
        self._vision: VisionSystem | None = None
        self._event_ids = DefaultEventIds(station, datetime.fromtimestamp(0, UTC))
        self._asked: dict[tuple[str, Asker], float] = {}  # what was given here and is not answered, and when
        self._triggers = TriggerNumbers(self.name)
        self._ring = ResultRing()
        self._queue = 0

    @property
    def name(self) -> str:
        """Short name for logs, metrics and the journal."""
        return "opcua"

    @property
    def endpoint(self) -> str:
        """The URL that clients connect to."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"opc.tcp://{host}:{self._settings.port}{ENDPOINT_PATH}"

    @property
    def fault(self) -> str | None:
        """Why no tag can be written now; None while the server is open."""
        return None if self._tags else "the server is not open"

    async def open(self) -> None:
        """Read certificates and users, build the tags and start to listen.

        Raises:
            UsageError: a setting or file cannot be used, or the port is taken.
        """
        logging.getLogger("asyncua").setLevel(logging.WARNING)
        security = await asyncio.to_thread(ServerSecurity.load, self._settings, self._pki)
        await self._refuse_taken_port()
        self._event_ids = DefaultEventIds(self._station, self._clock.now())
        server = await self._build(security)
        tags = await TagSpace.create(server, self._station, self._clock.now())
        self._ring = ResultRing(await self._said_earlier())
        tags.write({Tag.Results: self._ring.texts}, self._clock.now())
        server.iserver.attribute_service = TagWrites(tags, partial(self._on_trigger, tags))
        if self._settings.machine_vision:
            self._vision = await self._add_vision_system(server, tags)
        try:
            await server.start()
        except OSError as exc:
            raise UsageError(self._cannot_listen(exc)) from exc
        self._server, self._tags = server, tags

    async def run(self, intake: Intake, commands: CommandHandler) -> None:
        """Hand triggers and jobs to `intake` and orders to `commands` until cancelled; none is taken at other times."""
        assert self._server is not None
        self._intake, self._commands = intake, commands
        self._triggers.recall(left.event for left in intake.left_open if left.source == self.name)
        try:
            tasks: list[NamedTask] = [("opcua sessions", self._server.end_revoked_sessions)]
            if self._vision is not None:
                self._vision.start()
                tasks.append(("opcua vision system", self._vision.run))
            await together(*tasks)
        finally:
            self._intake = self._commands = None
            if self._tags:
                self._tags.write({Tag.Ready: False}, self._clock.now())

    async def close(self) -> None:
        """Stop the server, within two seconds."""
        server, self._server, self._tags, self._vision = self._server, None, None, None
        if server is None:
            return
        ticking, server.iserver.time_task = server.iserver.time_task, None
        if ticking:  # asyncua would wait up to a second for the end of its clock's sleep
            ticking.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await server.stop()
        gc.unfreeze()

    async def publish(self, answer: Answer) -> None:
        """Write all tags of one result, ResultSeq last, before the event loop does anything else.

        A repeated answer is written only where a trigger asked for it: the PLC waits for ResultValid. So is one that
        is not for the gate, with Reject true: a replay sees what was judged, and no gate opens. ResultTriggerId is the
        trigger that asked, whichever the verdict names: by it the PLC knows its part; Reject is true where that
        names another part than was judged, or a newer trigger has its number.

        Raises:
            SinkUnavailable: the server is not open.
        """
        tags = self._open_tags()
        self._asked.pop((answer.verdict.event_id, answer.asker), None)
        self._queue = max(0, self._queue - 1)
        if (answer.repeated or not answer.for_gate) and answer.asker.source != self.name:
            return
        now, seq = self._clock.now(), result_seq(answer.verdict.seq)
        tags.write({Tag.Busy: self._busy}, now)
        tags.write_result(self._result(answer) | self._counts(answer, seq, tags), seq, now)
        if self._vision is not None and not answer.repeated:
            _beside(self._vision.add, answer)

    async def publish_status(self, status: Status, *, ready: bool) -> None:
        """Write what has changed of Ready, Busy, Fault, FaultCode and Heartbeat.

        Raises:
            SinkUnavailable: the server is not open.
        """
        self._queue = status.queue
        if not status.queue:  # a repetition may be dropped where hundreds wait: nothing else is told of it
            since = self._clock.monotonic() - _DROPPED_S
            self._asked = {asked: at for asked, at in self._asked.items() if at > since}
        values: dict[Tag, TagValue] = {
            Tag.Ready: ready and self._intake is not None,
            Tag.Busy: self._busy,
            Tag.Fault: status.state is StationState.FAULT,
            Tag.FaultCode: status.fault.code if status.fault else 0,
            Tag.Heartbeat: status.heartbeat % 2**32,
        }
        tags = self._open_tags()
        tags.write({tag: value for tag, value in values.items() if value != tags.number(tag)}, self._clock.now())
        if self._vision is not None and self._intake is not None:
            _beside(self._vision.observe, status)

    @property
    def _busy(self) -> bool:
        return bool(self._asked) or self._queue > 0

    def _open_tags(self) -> TagSpace:
        if self._tags is None:
            raise SinkUnavailable("the server is not open")
        return self._tags

    async def _said_earlier(self) -> Sequence[bytes]:
        """Return the last verdicts of earlier runs; none where the journal does not say them at once."""
        if self._journal is None:
            return ()
        try:
            async with asyncio.timeout(_JOURNAL_PATIENCE_S):
                return await self._journal.page(VerdictQuery(limit=RESULT_RING))
        except (JournalError, TimeoutError) as exc:
            log.warning("journal_read_failed", sink=self.name, error=str(exc) or "the journal does not answer")
            return ()

    def _result(self, answer: Answer) -> dict[Tag, TagValue]:
        verdict, monotonic = answer.verdict, self._clock.monotonic()
        is_their_part = answer.is_about_their_part and self._triggers.mean(answer)
        shown = self._ring.show(answer, monotonic)
        return {
            Tag.ResultPartId: verdict.part_id or "",
            Tag.ResultEventId: verdict.event_id,
            Tag.ResultTriggerId: answer.asker.trigger_id or 0,
            Tag.Verdict: int(VerdictCode.of(verdict.decision)),
            Tag.Reject: answer.gate_at(monotonic) is not Gate.PASS or not is_their_part,
            Tag.ResultValid: True,
            Tag.Score: verdict.score,
            Tag.Threshold: verdict.threshold,
            Tag.BoxCount: len(verdict.boxes),
            Tag.Boxes: tuple(edge for box in verdict.boxes for edge in box.xyxy),
            Tag.Reason: str(verdict.reason),
            Tag.ModelVersion: verdict.model.reference if verdict.model else "",
            Tag.DeadlineMissed: shown.deadline_missed,
            Tag.LatencyMs: shown.latency_ms,
            Tag.Results: self._ring.texts,
        }

    def _counts(self, answer: Answer, seq: int, tags: TagSpace) -> dict[Tag, TagValue]:
        counts: dict[Tag, TagValue] = {}
        if answer.for_gate and not answer.repeated:
            decided = _COUNTS[answer.verdict.decision]
            counts[decided] = tags.next(decided)
            if answer.verdict.reason is Reason.OVERLOAD:
                counts[Tag.Overruns] = tags.next(Tag.Overruns)
        if tags.number(Tag.ResultSeq) not in (0, tags.number(Tag.ResultAck), seq):
            counts[Tag.UnackedResults] = tags.next(Tag.UnackedResults)
        return counts

    def _on_trigger(self, tags: TagSpace, trigger: int) -> None:
        """Take a changed Trigger: judge it where Ready is shown, else count it as missed."""
        now = self._clock.now()
        if self._intake is None or not tags.number(Tag.Ready):
            tags.write({Tag.MissedTriggers: tags.next(Tag.MissedTriggers)}, now)
            self._triggers.give(trigger, None, now)
            return
        unknown = [tag for tag in TRIGGER_TEXTS if tag in tags.unknown]
        texts = TriggerTexts(
            part_id=tags.text(Tag.TriggerPartId),
            image_uri=tags.text(Tag.TriggerImageUri),
            # beside an unknown text it may be another part's, too, whose verdict would come again
            event_id="" if unknown else tags.text(Tag.TriggerEventId),
        )
        arrival = self._arrival(trigger, texts, now, unknown)
        self._triggers.give(trigger, arrival.event, now)
        self._submit(arrival, self._intake, tags, {Tag.TriggerAck: trigger})

    def _start_part(self, tags: TagSpace, job_id: str, part_id: str, image_uri: str) -> None:
        """Inspect the part of a single job: like a trigger, but without a place on the belt."""
        if self._intake is None:
            return
        unknown = [] if image_uri or Tag.TriggerImageUri not in tags.unknown else [Tag.TriggerImageUri]
        texts = TriggerTexts(part_id=part_id, image_uri=image_uri or tags.text(Tag.TriggerImageUri), event_id=job_id)
        arrival = self._arrival(0, texts, self._clock.now(), unknown)
        event = arrival.event.model_copy(update={"trigger_id": None})
        self._submit(replace(arrival, event=event), self._intake, tags, {})

    def _submit(self, arrival: Arrival, intake: Intake, tags: TagSpace, more: dict[Tag, TagValue]) -> None:
        """Hand over a part for which Ready was shown: whatever has come in since by other ways, it is judged."""
        self._asked[arrival.event.event_id, Asker.of(arrival)] = self._clock.monotonic()
        # Nothing may pass on the strength of the result before: until the new one the tags say reject.
        waiting: dict[Tag, TagValue] = {Tag.Verdict: int(VerdictCode.NONE), Tag.Reject: True, Tag.ResultValid: False}
        tags.write(waiting, arrival.received_at, kind=ResultValue)
        tags.write({Tag.Busy: True} | more, arrival.received_at)
        intake.submit(replace(arrival, promised=True))
        # at once, not with the next status: a second trigger must not find a Ready that no longer holds
        self._show_ready(tags)

    def _show_ready(self, tags: TagSpace) -> None:
        tags.write({Tag.Ready: self._intake is not None and self._intake.ready}, self._clock.now())

    def _arrival(self, trigger: int, texts: TriggerTexts, now: datetime, unknown: Sequence[Tag]) -> Arrival:
        arrival = trigger_arrival(
            trigger,
            texts,
            self._event_ids,
            names=_TEXT_TAGS,
            received_at=now,
            received_monotonic=self._clock.monotonic(),
            source=self.name,
        )
        if unknown:
            detail = f"{', '.join(tag.name for tag in unknown)}: the last write was refused"
            arrival = replace(arrival, refusal=Refusal(Reason.FRAME_REFUSED, detail))
        simulated = self._vision is not None and self._vision.simulating
        return replace(arrival, event=arrival.event.model_copy(update={"simulated": True})) if simulated else arrival

    async def _add_vision_system(self, server: StationServer, tags: TagSpace) -> VisionSystem:
        with long_lived():
            return await add_vision_system(
                server,
                own=await server.get_namespace_index(NAMESPACE_URI),
                station=self._station,
                version=importlib.metadata.version("cangate"),
                clock=self._clock,
                models=self._models,
                commands=lambda: self._commands,
                ready=lambda: self._intake is not None and bool(tags.number(Tag.Ready)),
                show_ready=partial(self._show_ready, tags),
                start_part=partial(self._start_part, tags),
            )

    async def _build(self, security: ServerSecurity) -> StationServer:
        server = StationServer(StationInternalServer(user_manager=security.users))
        server.name, server.manufacturer_name, server.product_uri = "cangate", "cangate", NAMESPACE_URI
        server.application_type = ua.ApplicationType.Server
        with long_lived():
            await server.init()
        version = importlib.metadata.version("cangate")
        await server.set_build_info(NAMESPACE_URI, "cangate", "cangate", version, version, self._clock.now())
        await server.set_application_uri(NAMESPACE_URI)
        server.set_endpoint(self.endpoint)
        server.set_identity_tokens(security.tokens)
        server.set_security_policy(security.policies)
        server.set_certificate_validator(security.validate_client)
        if security.certificate and security.private_key:
            try:
                certificate, key = security.certificate, security.private_key
                await server.load_certificate(certificate, encoding_of(certificate))
                await server.load_private_key(key, format=encoding_of(key))
            except (OSError, ValueError) as exc:
                paths = f"{security.certificate} and {security.private_key}"
                raise UsageError(f"opcua.server: cannot use {paths}: {exc}") from exc
        return server

    async def _refuse_taken_port(self) -> None:
        """Try the port before asyncua does, which logs a traceback where it is taken."""
        loop = asyncio.get_running_loop()
        try:
            probe = await loop.create_server(asyncio.Protocol, self._settings.host, self._settings.port)
        except OSError as exc:
            raise UsageError(self._cannot_listen(exc)) from exc
        probe.close()
        await probe.wait_closed()

    def _cannot_listen(self, exc: OSError) -> str:
        return f"opcua.server: cannot listen on {self._settings.host}:{self._settings.port}: {exc.strerror or exc}"


def _beside(step: Callable[[_T], None], news: _T) -> None:
    """Tell the companion model; a defect in there must not reach the tags."""
    try:
        step(news)
    except Exception:  # the supervised boundary: the gate goes on without the model beside it
        log.exception("machine_vision_failed")
