"""The PLC's trigger: from changes of its node to image-ready events, each given once.

A trigger counts when its value changes to something that is not 0. What stands in the node when a connection is made is
looked at with care (`TriggerMemory`): nothing is judged twice, and what was given while the PLC was out of reach is not
forgotten. The texts beside a trigger are those that were written before it (`PlcTexts`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import structlog
from asyncua import ua

from adapters.opcua.client.coercion import Coercion
from adapters.opcua.client.connection import PlcConnection
from adapters.opcua.client.diagnosis import Diagnosis, PlcFault, PlcUnusable, status_name
from adapters.opcua.client.nodes import SOURCES, PlcNode
from adapters.opcua.client.texts import PlcTexts, Reading, Told, held, is_good, stamp_of
from adapters.opcua.events import TriggerNumbers, TriggerTexts
from adapters.telemetry import Metrics
from service.errors import SinkUnavailable

log = structlog.get_logger(__name__)

_QUEUE: Final = 1000
"""Changes that the PLC keeps for us between two publish responses, and we between two looks."""

_SHORTEST_QUEUE: Final = 2
"""From here on a server says when a queue has overflowed (OPC 10000-4, 5.12.1.5)."""

_KEEP_ALIVE_S: Final = 1.0
_LIFETIME_S: Final = 30.0
_SILENT_S: Final = 3.0
_OVERFLOW: Final = 0x480
"""StatusCode bits: the info type says DataValue, and the queue of the item overflowed (OPC 10000-4, 7.39)."""

_ROUND_TRIP: Final = timedelta(milliseconds=100)
"""How long at most an answer and the next request are under way."""

_OLDEST_AGE_S: Final = 3600.0
_CURRENT_TIME: Final = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_CurrentTime))


@dataclass(frozen=True, slots=True)
class GivenTrigger:
    """A trigger to be judged. `age_s` is how long ago we were told of it, or how long it had stood in the PLC.

    unknown: words whose texts may be another part's, so that this one must be refused.
    """

    value: int
    texts: TriggerTexts
    unknown: Sequence[str]
    age_s: float


class TriggerMemory:
    """What is known of the trigger beyond one connection.

    A value that stands in the node when a connection is made is new where

    - the service has just started: `result_trigger_id` in the PLC names another one, so nobody has answered it, unless
      it is the last one that an earlier run answered, with the same texts. Without that node nobody can tell, and it is
      taken as answered;
    - the connection was lost for a while: it is not the last one that was seen;
    - the PLC itself restarted meanwhile: it is another one, or the same number with other texts beside it.

    Where the node has no value then (it is not Good), the same holds for the first one that it gets; but after the
    start of the service that one is a change, and taken as new where nobody can tell.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._had_none = False
        self._texts = TriggerTexts()
        self._plc_started: object = None
        self._plc_restarted = False
        self._answered_in_plc: int | None = None
        self._answered: deque[int] = deque(maxlen=256)
        self._answered_last: tuple[int, TriggerTexts] | None = None

    def answered(self, trigger: int) -> None:
        """Note that a verdict for `trigger` is on its way, or in work: of the last run, it must not be judged again."""
        self._answered.append(trigger)

    def answered_last(self, trigger: int, texts: TriggerTexts) -> None:
        """Note which trigger an earlier run was given last and has answered, by the texts that its event had."""
        self._answered_last = trigger, texts

    def connected(self, *, plc_started: object, answered_in_plc: int | None) -> bool:
        """Note what a new connection found; tell whether the PLC's server has restarted since the one before.

        Args:
            plc_started: when the PLC's server started; None where it does not say.
            answered_in_plc: `result_trigger_id` where it is mapped.
        """
        has_restarted = None not in (plc_started, self._plc_started) and plc_started != self._plc_started
        self._plc_restarted |= has_restarted  # until what stands there is taken: this connection may not come to that
        self._plc_started = plc_started if plc_started is not None else self._plc_started
        self._answered_in_plc = answered_in_plc
        return has_restarted

    def has_none(self) -> None:
        """Note that the node has no value: it is Bad, or Uncertain whether it still holds what it held."""
        self._had_none = True

    def take(self, value: int, texts: TriggerTexts, *, standing: bool) -> bool:
        """Note a value of the trigger; tell whether it is a new one that must be judged."""
        if self._last is None:
            unanswered = self._had_none if self._answered_in_plc is None else value != self._answered_in_plc
            new = unanswered and value not in self._answered and not self._is_answered_last(value, texts)
        else:
            new = value != self._last or (standing and self._plc_restarted and texts != self._texts)
        self._last, self._plc_restarted = value, self._plc_restarted and not standing
        if new and value != 0:
            self._texts = texts
        return new and value != 0

    def _is_answered_last(self, value: int, texts: TriggerTexts) -> bool:
        """Tell whether a value stands there since an earlier run has answered it; by the number alone nobody can."""
        if self._answered_last is None or not (texts.part_id or texts.image_uri or texts.event_id):
            return False
        trigger, then = self._answered_last
        return value == trigger and texts == replace(then, event_id=then.event_id if texts.event_id else "")


class TriggerWatch:
    """A subscription to the trigger and its texts on one connection.

    Args:
        connection: an open connection.
        nodes: the mapped nodes.
        coercion: how the trigger is read.
        memory: what earlier connections knew.
        numbers: is told of each number, before an event is made of it.
        metrics: counts triggers that the PLC dropped.
    """

    def __init__(
        self,
        connection: PlcConnection,
        nodes: Mapping[str, PlcNode],
        coercion: Coercion,
        memory: TriggerMemory,
        numbers: TriggerNumbers,
        metrics: Metrics,
    ) -> None:
        self._connection = connection
        self._nodes = [nodes[word] for word in SOURCES if word in nodes]  # the trigger is the first
        self._coercion = coercion
        self._memory = memory
        self._numbers = numbers
        self._stood = False  # what stood in the node was told
        self._metrics = metrics
        self._texts = PlcTexts(node.word for node in self._nodes[1:])
        self._number = 0  # of publish responses and looks: the order in which things were told
        self._response = 0  # number of the last response
        self._goes_on = False  # what was to be told at once did not fit into it
        self._published: datetime | None = None
        self._arrived = 0.0
        self._span: timedelta | None = None
        self._publishing = timedelta()
        self._changes: deque[Told] = deque()
        self._news = asyncio.Event()
        self._subscription: int | None = None
        self._ended: str | None = None
        self._blind: str | None = None
        self._short: str | None = None
        self._troubled: str | None = None

        connection.lost.add_done_callback(self._on_lost)
        self._silence_s = _SILENT_S

    @property
    def blind(self) -> str | None:
        """Why triggers, or the texts of some, cannot be seen or may be missed, by the word; None where all is well."""
        return self._blind or self._short or self._texts.trouble

    async def start(self, *, sampling_ms: float, publishing_ms: float) -> None:
        """Subscribe. Raises PlcUnusable where the server refuses an item."""
        period_ms = max(publishing_ms, 1.0)
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=ua.Duration(publishing_ms),
            RequestedLifetimeCount=ua.UInt32(int(_LIFETIME_S * 1000 / period_ms)),
            RequestedMaxKeepAliveCount=ua.UInt32(int(_KEEP_ALIVE_S * 1000 / period_ms)),
        )
        # the trigger last: one that is told before its texts are looked at would be given those of the next part
        items = [_item(handle, node.node_id, sampling_ms) for handle, node in reversed(list(enumerate(self._nodes)))]
        made = await self._connection.subscribe(parameters, self._on_publish)
        self._subscription = int(made.SubscriptionId)
        results = await self._connection.monitor(self._subscription, items)
        refused = [
            Diagnosis(PlcFault.ACCESS_DENIED, f"cannot be subscribed to: {status_name(result.StatusCode)}", node.word)
            for node, result in zip(reversed(self._nodes), results, strict=True)
            if not result.StatusCode.is_good()
        ]
        if refused:
            raise PlcUnusable(*refused)
        keep_alive_s = float(made.RevisedPublishingInterval) * int(made.RevisedMaxKeepAliveCount) / 1000
        self._silence_s = max(_SILENT_S, 3 * keep_alive_s)
        revised_ms = max(float(result.RevisedSamplingInterval) for result in results)
        self._texts.sampled_every(timedelta(milliseconds=revised_ms))
        self._publishing = timedelta(milliseconds=float(made.RevisedPublishingInterval))
        queues = {
            node.word: int(found.RevisedQueueSize) for node, found in zip(reversed(self._nodes), results, strict=True)
        }
        for word in (word for word, queue in queues.items() if queue < _SHORTEST_QUEUE):
            if word == self._nodes[0].word:
                self._short = f"{word}: may be missed: the PLC's queue is too short"
            else:
                self._texts.lose(word)
        log.info(
            "plc_subscribed",
            publishing_ms=float(made.RevisedPublishingInterval),
            sampling_ms=revised_ms,
            queue=min(queues.values()),
        )

    def end(self, reason: str) -> None:
        """Give no more triggers, though the connection goes on."""
        self._ended = reason
        self._news.set()

    async def stop(self) -> None:
        """End the subscription; the connection may go on without us."""
        self._connection.lost.remove_done_callback(self._on_lost)
        if self._subscription is not None and not self._connection.lost.done():
            with contextlib.suppress(SinkUnavailable):
                await self._connection.unsubscribe(self._subscription)

    async def given(self) -> AsyncIterator[GivenTrigger]:
        """Yield every new trigger, oldest first. Raises SinkUnavailable once the connection is lost, or after `end`.

        Where a look at the texts fails, what was told by then is given, to be refused, before that is raised.
        """
        standing, failed = True, None
        while failed is None or self._changes:
            changes = await self._wait()
            values = [self._coercion.trigger(held(change.value)) if is_good(change.value) else 0 for change in changes]
            for number, (change, value) in enumerate(zip(changes, values, strict=True), start=1):
                if not is_good(change.value):  # no value, so no change either
                    self._memory.has_none()
                    continue
                # earlier ones of a burst: what the PLC holds by now belongs to a later one
                is_newest = not any(values[number:])
                looks = standing or (value != 0 and is_newest and not self._texts.are_told(change))
                reading = None
                try:
                    reading = await self._read() if looks and failed is None else None
                except SinkUnavailable as exc:
                    failed = exc
                    if standing and number == len(changes) and not self._changes:
                        raise  # it stands there at the next connection, too
                texts, unknown = self._texts.beside(change, reading if is_newest else None)
                if looks and reading is None:  # what was told by then need not be all
                    texts, unknown = TriggerTexts(), [node.word for node in self._nodes[1:]]
                if self._texts.trouble != self._troubled:
                    self._troubled = self._texts.trouble
                    log.warning("plc_texts_unknown", reason=self._troubled or "known again")
                if self._memory.take(value, texts, standing=standing):
                    waited_s = asyncio.get_running_loop().time() - change.at
                    stood_s = _age_s(change.value, reading) if standing and reading else 0.0
                    yield GivenTrigger(value, texts, unknown, max(waited_s, stood_s))
                elif not standing:
                    self._numbers.settle(value)
                standing = False
        raise failed

    async def _wait(self) -> list[Told]:
        while not self._changes:
            if self._connection.lost.done():
                raise SinkUnavailable(self._connection.lost.result())
            if self._ended is not None:
                raise SinkUnavailable(self._ended)
            try:
                async with asyncio.timeout(self._silence_s):
                    await self._news.wait()
            except TimeoutError as exc:
                diagnosis = Diagnosis(PlcFault.NO_ANSWER, f"no publish response within {self._silence_s:g} s")
                self._connection.abort(diagnosis)
                raise PlcUnusable(diagnosis) from exc
            self._news.clear()
        changes = list(self._changes)
        self._changes.clear()
        return changes

    async def _read(self) -> Reading:
        self._number += 1
        number = self._number
        trigger_node, *text_nodes = (node.node_id for node in self._nodes)
        # the trigger last, as above
        rows = await self._connection.read([*text_nodes, _CURRENT_TIME, trigger_node])
        *texts, now, trigger = (row[0] for row in rows)
        seen = {node.word: text for node, text in zip(self._nodes[1:], texts, strict=True)}
        for word, text in seen.items():
            self._texts.see(word, text, number)
        return Reading(trigger, seen, held(now), number)

    def _on_lost(self, _lost: asyncio.Future[str]) -> None:
        self._news.set()

    def _on_publish(self, result: ua.PublishResult) -> None:
        self._news.set()
        self._count(result)
        for notification in result.NotificationMessage.NotificationData or ():
            if isinstance(notification, ua.DataChangeNotification):
                for item in notification.MonitoredItems:
                    self._take(int(item.ClientHandle), item.Value)
            elif isinstance(notification, ua.StatusChangeNotification):
                status = status_name(notification.Status)
                self._connection.abort(
                    Diagnosis(PlcFault.CONNECTION_LOST, f"the server ended the subscription: {status}")
                )

    def _count(self, result: ua.PublishResult) -> None:
        published, arrived = result.NotificationMessage.PublishTime, asyncio.get_running_loop().time()
        if not self._goes_on:
            self._number += 1
            self._response = self._number
            waited = timedelta(seconds=arrived - self._arrived)
            self._span = span_of(published, self._published, waited=waited, publishing=self._publishing)
        self._published, self._arrived, self._goes_on = published, arrived, bool(result.MoreNotifications)

    def _take(self, handle: int, value: ua.DataValue) -> None:
        if handle >= len(self._nodes):
            # then it may tell our own under any handle, and be silent of the trigger
            diagnosis = Diagnosis(PlcFault.SERVER_REFUSED, "the server tells of an item that was not subscribed to")
            self._connection.abort(diagnosis)
            return
        node = self._nodes[handle]
        if value.StatusCode is not None and value.StatusCode.value == ua.StatusCodes.BadNodeIdUnknown:
            # a program is being loaded: an item of a node that is gone need not come back with it
            self.end(str(Diagnosis(PlcFault.NODE_UNKNOWN, "the node is gone", node.word)))
        has_overflowed = value.StatusCode is not None and value.StatusCode.value & _OVERFLOW == _OVERFLOW
        if node is not self._nodes[0]:
            if has_overflowed:
                self._texts.lose(node.word)
            self._texts.tell(node.word, value, self._response)
            return
        if has_overflowed:
            self._metrics.refused.labels("opcua-client", "trigger_overflow").inc()
            log.error("plc_triggers_lost", reason="the PLC's queue overflowed")
        self._blind = None if is_good(value) else f"trigger: {status_name(value.StatusCode)}"
        if self._stood and is_good(value):
            self._numbers.tell(self._coercion.trigger(held(value)))
        self._stood = True
        self._changes.append(Told(value, self._response, asyncio.get_running_loop().time(), self._span))
        if len(self._changes) > _QUEUE:
            self._connection.abort(Diagnosis(PlcFault.CONNECTION_LOST, f"more than {_QUEUE} triggers are waiting"))


def span_of(
    published: datetime | None, before: datetime | None, *, waited: timedelta, publishing: timedelta
) -> timedelta | None:
    """Return within which time all was written that one response tells; None where that is not known.

    Args:
        published: when the server sent it.
        before: when it sent the one before.
        waited: since that one came. Where that is as long, leave to tell was there: it was told at once.
        publishing: the interval at which the server tells what there is.
    """
    if not published or not before or published <= before:
        return None  # a server that does not say when it publishes says the same each time
    span = published - before
    return min(span, publishing + _ROUND_TRIP) if waited + _ROUND_TRIP >= span else span


def _item(handle: int, node_id: ua.NodeId, sampling_ms: float) -> ua.MonitoredItemCreateRequest:
    wanted = ua.MonitoringParameters(
        ClientHandle=ua.UInt32(handle), SamplingInterval=ua.Duration(sampling_ms), QueueSize=ua.UInt32(_QUEUE)
    )
    seen = ua.ReadValueId(NodeId=node_id, AttributeId=ua.AttributeIds.Value)
    return ua.MonitoredItemCreateRequest(seen, ua.MonitoringMode.Reporting, wanted)


def _age_s(change: ua.DataValue, reading: Reading) -> float:
    """Return how long ago the PLC was given `change`, by its own clock, so that its clock need not agree with ours."""
    stamp, now = stamp_of(change), reading.now
    if stamp is None or not isinstance(now, datetime):
        return 0.0
    return min(max(0.0, (now - stamp).total_seconds()), _OLDEST_AGE_S)
