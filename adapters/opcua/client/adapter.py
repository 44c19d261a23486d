"""The service as client of a PLC's OPC UA server (contract section 4)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Final

import structlog
from asyncua import ua

from adapters.opcua.client.access import PlcAccess, read_access
from adapters.opcua.client.coercion import Coercion
from adapters.opcua.client.connection import PlcConnection
from adapters.opcua.client.diagnosis import PlcFault, PlcUnusable
from adapters.opcua.client.nodes import SOURCES, Address, PlcNode, read_mapping, resolve
from adapters.opcua.client.results import ResultMemory, ResultWriter
from adapters.opcua.client.sessions import PlcSessions
from adapters.opcua.client.triggers import GivenTrigger, TriggerMemory, TriggerWatch
from adapters.opcua.events import DefaultEventIds, TriggerTexts, trigger_arrival
from adapters.opcua.own_certificate import PKI
from adapters.telemetry import Metrics
from schemas.messages import ImageEvent, Reason, Status
from schemas.settings import OpcUaClientSettings, OpcUaLogin
from service.errors import JournalError, SinkUnavailable, UsageError
from service.ports import Answer, Clock, CommandHandler, Intake, Journal, Refusal

log = structlog.get_logger(__name__)

_FIRST_RETRY_S: Final = 0.1
_STEADY_S: Final = 10.0
_JOURNAL_PATIENCE_S: Final = 0.5
_LOOKED_BACK: Final = 256
"""So many verdicts of earlier runs may hold the one that the PLC asked for last."""

_NAMES: Final = TriggerTexts(part_id="part_id", image_uri="image_uri", event_id="event_id")
_START_TIME: Final = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_StartTime))


class OpcUaClientAdapter:
    """Takes triggers from a PLC's server and writes verdicts back. Fulfils Adapter and VerdictSink.

    Args:
        settings: the PLC, how to be there, and which of its nodes are which.
        station: id of the station.
        clock: stamps what comes in.
        journal: knows which trigger an earlier run answered last.
        sessions: of this process, to share with other stations.
        metrics: counts what the PLC lost.
        pki: where a certificate of our own is kept if none is named.
    """

    name = "opcua-client"

    def __init__(
        self,
        settings: OpcUaClientSettings,
        *,
        station: str,
        clock: Clock,
        journal: Journal | None = None,
        sessions: PlcSessions | None = None,
        metrics: Metrics | None = None,
        pki: Path = PKI,
    ) -> None:
        self._settings = settings
        self._sessions = sessions or PlcSessions()
        self._metrics = metrics or Metrics()
        self._station = station
        self._clock = clock
        self._journal = journal
        self._pki = pki
        self._access: PlcAccess | None = None
        self._mapping: Mapping[str, Address] = {}
        self._connection: PlcConnection | None = None
        self._results: ResultWriter | None = None
        self._watch: TriggerWatch | None = None
        self._fault: str | None = "not connected yet"
        self._left_alive = False
        self._memory = TriggerMemory()
        self._result_memory = ResultMemory(self.name)
        self._answered_earlier: Sequence[tuple[datetime, ImageEvent]] = ()
        self._event_ids = DefaultEventIds(station, datetime.fromtimestamp(0, UTC))

    @property
    def fault(self) -> str | None:
        """Why nothing can be written now: endpoint, name of the fault, what it is about; None while all is well."""
        if self._connection is not None and self._connection.lost.done():
            return f"{self._access}: {self._connection.lost.result()}"
        if self._results is not None and self._results.ended.done():
            return f"{self._access}: {self._results.ended.result()}"
        return self._fault

    @property
    def refused(self) -> str | None:
        """Why the PLC did not take the last result, or shows no trigger or no texts; None where all is well.

        No fault: the next result is offered, too, and the next trigger is taken.
        """
        if self._result_memory.not_taken is not None:
            return f"{self._access}: {self._result_memory.not_taken}"
        blind = None if self._watch is None else self._watch.blind
        return None if blind is None else f"{self._access}: {blind}"

    async def open(self) -> None:
        """Read what the settings name. A PLC that is away is no error: it is tried again and again.

        Raises:
            UsageError: a setting or a file cannot be used.
        """
        self._mapping = read_mapping(self._settings, station=self._station)
        self._access = await asyncio.to_thread(
            read_access,
            self._settings,
            self._settings.endpoint,
            station=self._station,
            pki=self._pki,
            request_timeout_s=self._settings.request_timeout_ms / 1000,
            connect_timeout_s=self._settings.connect_timeout_s,
        )
        self._event_ids = DefaultEventIds(self._station, self._clock.now())

    async def run(self, intake: Intake, commands: CommandHandler) -> None:  # noqa: ARG002 - commands come over MQTT
        """Stay connected and hand the PLC's triggers to `intake` until cancelled."""
        if self._access is None:
            raise UsageError("the OPC UA client was not opened")
        await self._recall()
        retry_s = _FIRST_RETRY_S
        while True:
            began, self._left_alive = self._clock.monotonic(), False
            fault = f"{self._access}: {await self._serve(self._access, intake)}"
            if fault != self._fault:
                log.warning("plc_disconnected", fault=fault)
            self._fault = fault
            if self._left_alive or self._clock.monotonic() - began > _STEADY_S:
                retry_s = _FIRST_RETRY_S
            # spread, so that a line of stations does not fall upon a PLC that comes back
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
            retry_s = min(self._settings.reconnect_max_s, retry_s * 2)

    async def close(self) -> None:
        """Say so; the session ended with `run`."""
        self._connection, self._fault = None, "closed"

    async def publish(self, answer: Answer) -> None:
        """Write the result, the sequence last; one repeated, or not for the gate, only where a trigger asked for it.

        What names the trigger is the one that asked, whichever the verdict names: by it the PLC knows its part. Where
        that names another part than was judged, or a newer trigger has its number, the result says reject.

        Raises:
            SinkRefused: the PLC does not take this result; it is passed over.
            SinkUnavailable: not every node was confirmed.
        """
        asked_here = answer.asker.source == self.name
        if not (answer.for_gate or asked_here):
            return
        if answer.asker.trigger_id is not None:
            self._memory.answered(answer.asker.trigger_id)
        if asked_here or not answer.repeated:
            await self._require_results().write(answer, owed=asked_here)

    async def publish_status(self, status: Status, *, ready: bool) -> None:  # noqa: ARG002 - there is no node for it
        """Show the heartbeat.

        Raises:
            SinkUnavailable: it was not confirmed.
        """
        await self._require_results().beat(status.heartbeat)

    def _require_results(self) -> ResultWriter:
        if self._results is None:
            raise SinkUnavailable(self._fault or "not connected")
        return self._results

    async def _serve(self, access: PlcAccess, intake: Intake) -> str:
        """Connect and serve until the connection is lost or this station's nodes must be looked at anew; say why."""
        connection, reason = None, "closed"
        try:
            async with self._sessions.join(_way(self._settings, self._pki), access) as connection:
                self._connection = connection
                await self._serve_on(connection, intake)
        except SinkUnavailable as exc:
            reason = str(exc)
        finally:
            self._connection = None
        return reason if connection is None or not connection.lost.done() else connection.lost.result()

    async def _serve_on(self, connection: PlcConnection, intake: Intake) -> None:
        nodes = await resolve(connection, self._mapping)
        coercion = Coercion(nodes)
        await self._remember(connection, nodes, coercion)
        left_open = [(left.received_at, left.event) for left in intake.left_open if left.source == self.name]
        earlier = sorted([*self._answered_earlier, *left_open], key=itemgetter(0))
        self._result_memory.triggers.recall(event for _, event in earlier)
        for _, event in left_open:
            if event.trigger_id is not None:
                self._memory.answered(event.trigger_id)
        results = ResultWriter(connection, nodes, coercion, self._clock, self._result_memory)
        await results.start()
        watch = TriggerWatch(connection, nodes, coercion, self._memory, self._result_memory.triggers, self._metrics)
        writing: asyncio.Task[str] | None = None
        try:
            await watch.start(sampling_ms=self._settings.sampling_ms, publishing_ms=self._settings.publishing_ms)
            self._results, self._watch, self._fault = results, watch, None
            found = {word: f"{node.node_id.to_string()} {node.type.name}" for word, node in nodes.items()}
            log.info("plc_connected", endpoint=self._settings.endpoint, nodes=found)
            writing = asyncio.create_task(self._keep_writing(connection, nodes, results), name="plc results")
            writing.add_done_callback(lambda task: watch.end(_why(task)))
            async for trigger in watch.given():
                self._submit(trigger, intake)
        finally:
            self._results, self._watch, self._fault = None, None, self._fault or "leaving the session"
            if writing is not None:
                self._left_alive = not connection.lost.done()
                writing.cancel()
                await asyncio.wait([writing])
            await watch.stop()

    async def _keep_writing(
        self, connection: PlcConnection, nodes: Mapping[str, PlcNode], results: ResultWriter
    ) -> str:
        """Look at the nodes anew where a result was refused; return why the triggers cannot go on meanwhile."""
        retry_s = _FIRST_RETRY_S
        while True:
            await asyncio.wait([results.ended])
            error = results.ended.result()
            if connection.lost.done() or PlcFault.NODE_UNKNOWN in _faults(error):
                return str(error)  # a program was loaded meanwhile: who knows what became of the subscription
            await asyncio.sleep(retry_s)
            retry_s = min(self._settings.reconnect_max_s, retry_s * 2)
            try:
                found = await resolve(connection, self._mapping)
                coercion = Coercion(found)
            except SinkUnavailable as exc:
                if connection.lost.done() or _faults(exc) != {PlcFault.SERVER_REFUSED}:
                    return str(exc)
                continue
            if any(_place(found, word) != _place(nodes, word) for word in SOURCES):
                return "the nodes of the trigger have changed"
            results = ResultWriter(connection, found, coercion, self._clock, self._result_memory)
            try:
                await results.start()
            except SinkUnavailable as exc:
                results.ended.set_result(exc)
            else:
                retry_s = _FIRST_RETRY_S
                log.info("plc_looked_at_anew", refused=str(error))
            self._results = results

    async def _recall(self) -> None:
        """Learn which triggers earlier runs have answered, where the journal says so at once."""
        if self._journal is None:
            return
        try:
            async with asyncio.timeout(_JOURNAL_PATIENCE_S):
                last = await self._journal.last_seq()
                entries, _ = await self._journal.answered(after=max(0, last - _LOOKED_BACK), limit=_LOOKED_BACK)
        except (JournalError, TimeoutError) as exc:
            log.warning("journal_read_failed", sink=self.name, error=str(exc) or "the journal does not answer")
            return
        own = sorted((one for one in entries if one.source == self.name), key=lambda entry: entry.received_at)
        self._answered_earlier = [(entry.received_at, entry.event) for entry in own]
        # the last alone: of a trigger that counts anew, or is true and false, an earlier one says nothing
        if own and own[-1].event.trigger_id is not None:
            event, image = own[-1].event, own[-1].image
            texts = TriggerTexts(event.part_id or "", "" if image is None else image.uri or "", event.event_id)
            self._memory.answered_last(own[-1].event.trigger_id, texts)

    async def _remember(self, connection: PlcConnection, nodes: Mapping[str, PlcNode], coercion: Coercion) -> None:
        ((started,),) = await connection.read([_START_TIME])
        answered = nodes.get("result_trigger_id")
        has_restarted = self._memory.connected(
            plc_started=None if started.Value is None else started.Value.Value,
            answered_in_plc=None if answered is None else coercion.answered(answered.value),
        )
        if has_restarted:
            self._result_memory.triggers.begin_again(self._clock.now())

    def _submit(self, trigger: GivenTrigger, intake: Intake) -> None:
        # beside an unknown text the event id may be another part's, too, whose verdict would come again
        texts = replace(trigger.texts, event_id="") if trigger.unknown else trigger.texts
        arrival = trigger_arrival(
            trigger.value,
            texts,
            self._event_ids,
            names=_NAMES,
            received_at=self._clock.now() - timedelta(seconds=trigger.age_s),
            received_monotonic=self._clock.monotonic() - trigger.age_s,
            source=self.name,
        )
        if trigger.unknown:
            words = ", ".join(trigger.unknown)
            why = "it is not Good, or the PLC did not leave it alone and its stamps do not tell"
            detail = f"{words}: may be another part's: {why}"
            arrival = replace(arrival, refusal=Refusal(Reason.FRAME_REFUSED, detail))
        self._result_memory.triggers.give(trigger.value, arrival.event, arrival.received_at)
        intake.submit(arrival)


def _place(nodes: Mapping[str, PlcNode], word: str) -> tuple[ua.NodeId, ua.VariantType] | None:
    return (nodes[word].node_id, nodes[word].type) if word in nodes else None


def _faults(error: SinkUnavailable) -> set[PlcFault]:
    return {diagnosis.fault for diagnosis in error.diagnoses} if isinstance(error, PlcUnusable) else set()


def _why(writing: asyncio.Task[str]) -> str:
    if writing.cancelled():
        return "closed"
    defect = writing.exception()
    if defect is None:
        return writing.result()
    log.error("plc_results_crashed", exc_info=defect)
    return repr(defect)


def _way(settings: OpcUaClientSettings, pki: Path) -> Hashable:
    """Return what stations that share a session have in common: all but their nodes and how these are looked at."""
    shared = (*OpcUaLogin.model_fields, "request_timeout_ms", "connect_timeout_s")
    return (pki, *(getattr(settings, key) for key in shared))
