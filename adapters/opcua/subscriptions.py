"""The server's side of each subscription: it costs something when there is news, and little for each subscriber.

asyncua 2.1 looks into every subscription once a publishing interval, builds each notification from defaults that it
throws away, and encodes every value anew for every client. With twenty clients at 10 ms that was a third of a core on
the event loop, and the gate command waited beside it. Here a subscription sleeps until it is told of something or a
keep-alive is due, and a value is encoded once, whoever hears of it.

Nor does asyncua look at what a client asks for: a publishing interval of nothing, items without end, filters that make
no sense (`filters.py`). All of that would be paid for within the write of a tag: it is refused or revised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from asyncua import ua
from asyncua.common.events import Event
from asyncua.common.utils import ServiceError
from asyncua.server.internal_session import InternalSession
from asyncua.server.internal_subscription import InternalSubscription
from asyncua.server.monitored_item_service import MonitoredItemData, MonitoredItemService, MonitoredItemValues
from asyncua.server.subscription_service import SubscriptionService
from asyncua.ua.uaprotocol_auto import DataChangeFilter  # what is decoded; ua.DataChangeFilter is a class below it

from adapters.opcua.changes import ChangeQueue
from adapters.opcua.filters import StationWhereClause, filter_result, is_number, objection, wants_changes
from adapters.opcua.notifications import (
    MAX_NOTIFICATION,
    FieldKey,
    WrittenValue,
    encode_event,
    event_list,
    field_key,
    size_of,
)

_MIN_INTERVAL_MS: Final = 10.0
_MAX_INTERVAL_MS: Final = 3_600_000.0
_MAX_ITEMS: Final = 5_000
"""Of all subscriptions together: every tag for a hundred clients and more; a change told to all of them costs 20 ms."""

_MAX_EVENT_ITEMS: Final = 100  # the same for events, each of which is put together for each of them
_MAX_EVENT_QUEUE: Final = 50  # events that an item keeps for its subscriber
_MAX_EVENTS_WAITING: Final = 1024 * 1024  # bytes that wait in one subscription, the latest event of each item beside
_MAX_KEPT: Final = 2 * 1024 * 1024  # bytes that wait for an acknowledgement, the latest message beside


class StationSubscriptions(SubscriptionService):
    """asyncua's subscription service with subscriptions of our own."""

    async def create_subscription(
        self,
        params: ua.CreateSubscriptionParameters,
        callback: Callable[..., Any],
        session_id: ua.NodeId,
        request_callback: Callable[..., Any] | None = None,
    ) -> ua.CreateSubscriptionResult:
        """Create a subscription and start it; asyncua has no other place to say of which class it is."""
        assert self.iserver is not None
        if len(self.subscriptions) >= self.iserver.max_subscriptions:
            raise ServiceError(ua.StatusCodes.BadTooManySubscriptions)
        self._sub_id_counter += 1
        made = ua.CreateSubscriptionResult(
            SubscriptionId=ua.UInt32(self._sub_id_counter),
            RevisedPublishingInterval=_revised_interval(params.RequestedPublishingInterval),
            RevisedLifetimeCount=ua.UInt32(self._clamp_lifetime_count(params.RequestedLifetimeCount)),
            RevisedMaxKeepAliveCount=ua.UInt32(self._clamp_keep_alive_count(params.RequestedMaxKeepAliveCount)),
        )
        subscription = _Subscription(
            made,
            self.aspace,
            callback,
            session_id,
            request_callback=request_callback,
            delete_callback=lambda: self.subscriptions.pop(made.SubscriptionId, None),
            no_acks_limit=self.iserver.max_unacked_messages_per_subscription,
            max_queue_size=self.iserver.max_monitored_item_queue_size,
            publishing_enabled=params.PublishingEnabled,
        )
        await subscription.start()
        self.subscriptions[made.SubscriptionId] = subscription
        return made

    async def create_monitored_items(
        self, params: ua.CreateMonitoredItemsParameters
    ) -> list[ua.MonitoredItemCreateResult]:
        """Create items. Raises ServiceError where that would be too many."""
        there = sum(one.item_count for one in self.subscriptions.values() if isinstance(one, _Subscription))
        if there + len(params.ItemsToCreate) > _MAX_ITEMS:
            raise ServiceError(ua.StatusCodes.BadTooManyMonitoredItems)
        one = self.subscriptions.get(params.SubscriptionId)
        if isinstance(one, _Subscription):
            one.room_for_events = _MAX_EVENT_ITEMS - sum(
                other.event_item_count for other in self.subscriptions.values() if isinstance(other, _Subscription)
            )
        return await super().create_monitored_items(params)

    async def trigger_event(self, event: Event, subscription_id: int | None = None) -> None:
        """Tell subscribers of an event, whose fields are encoded once, whoever hears of it."""
        encoded: dict[FieldKey, bytes] = {}
        for one in self.subscriptions.values():
            if isinstance(one, _Subscription):
                one.encoded_fields = encoded
        await super().trigger_event(event, subscription_id)
        encoded.clear()

    def give(self, subscription_id: int, session: InternalSession) -> None:
        """Make a subscription a session's own; its life begins anew."""
        one = self.subscriptions[subscription_id]
        assert isinstance(one, _Subscription)
        one.change_hands(session)

    def holder(self, subscription_id: int) -> InternalSession | None:
        """Return the session that a subscription belongs to, which may be closed; None: to the server itself."""
        one = self.subscriptions.get(subscription_id)
        return one.holder if isinstance(one, _Subscription) else None


class _Subscription(InternalSubscription):
    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - asyncua's own
        super().__init__(*arguments, **named)
        self.monitored_item_srv: _MonitoredItems = _MonitoredItems(self, self.monitored_item_srv.aspace)
        self._sampled: dict[int, ua.MonitoredItemNotification] = {}
        self._triggered_datachanges = ChangeQueue()
        self._news = asyncio.Event()
        self._event_bytes = 0
        self.encoded_fields: dict[FieldKey, bytes] = {}
        self.room_for_events = 0
        self.holder: InternalSession | None = None

    def change_hands(self, session: InternalSession) -> None:
        self.holder = session
        self.session_id = session.session_id
        self._publish_cycles_count = 0  # OPC 10000-4, 5.13.7.1: else it might run out before it is asked
        self._news.set()

    @property
    def item_count(self) -> int:
        """Return how many items it has."""
        return len(self.monitored_item_srv._monitored_items)  # noqa: SLF001 - asyncua counts them nowhere else

    @property
    def event_item_count(self) -> int:
        """Return how many of them are for events."""
        return sum(map(len, self.monitored_item_srv._monitored_events.values()))  # noqa: SLF001 - as above

    async def set_publishing_mode(self, enabled: bool) -> None:
        await super().set_publishing_mode(enabled)
        self._news.set()

    async def enqueue_statuschange(self, code: ua.StatusCode) -> None:
        await super().enqueue_statuschange(code)
        self._news.set()

    async def enqueue_datachange_event(self, mid: int, eventdata: ua.MonitoredItemNotification, maxsize: int) -> None:
        if self.monitored_item_srv.is_sampled_only(mid):
            self._sampled[mid] = eventdata
            return
        self._changes.add(mid, eventdata, maxsize)
        self._news.set()

    def report_sampled(self, item_id: int, max_count: int) -> None:
        """Queue what an item held when it was not to be told of: the latest, whatever its queue has room for."""
        told = self._sampled.pop(item_id, None)
        if told is not None:
            self._changes.add(item_id, told, max_count)
            self._news.set()

    async def _enqueue_event(self, *arguments: Any) -> None:  # noqa: ANN401 - asyncua's own
        await super()._enqueue_event(*arguments)
        self._news.set()

    def keep_event(self, item_id: int, told: bytes, max_count: int) -> None:
        """Queue an encoded event; the oldest of its item make room."""
        queue: list[bytes] = self._event_queues.setdefault(item_id, [])
        queue.append(told)
        self._event_bytes += len(told)
        while len(queue) > max_count or (len(queue) > 1 and self._event_bytes > _MAX_EVENTS_WAITING):
            self._event_bytes -= len(queue.pop(0))
        self._news.set()

    def keep_oldest(self, item_id: int, *, kept: bool) -> None:
        """Let the last change of an item make room for a new one, or its oldest."""
        items = self._changes.keeping_oldest
        (items.add if kept else items.discard)(item_id)

    def forget(self, item_id: int) -> None:
        """Drop what waits for an item that is gone: else it might be made and deleted without end."""
        self._changes.forget(item_id)
        self._sampled.pop(item_id, None)
        self._event_bytes -= sum(map(len, self._event_queues.pop(item_id, ())))

    def drop_waiting(self, item_id: int) -> None:
        """Drop what waits for an item that is disabled; whether it keeps its oldest change is as before."""
        keeps_oldest = item_id in self._changes.keeping_oldest
        self.forget(item_id)
        self.keep_oldest(item_id, kept=keeps_oldest)

    @property
    def _changes(self) -> ChangeQueue:
        return cast("ChangeQueue", self._triggered_datachanges)

    @property
    def _event_queues(self) -> dict[int, list[bytes]]:
        """Return the queues of events; unless it is nobody's wire, they are encoded."""
        return cast("dict[int, list[bytes]]", self._triggered_events)

    async def _subscription_loop(self) -> None:
        """Publish news at once, but no sooner than a publishing interval after the last."""
        loop = asyncio.get_running_loop()
        period_s = self.data.RevisedPublishingInterval / 1000
        earliest = loop.time()
        while not self._closing:
            self._news.clear()
            published = await self.publish_results()
            if published:
                earliest = loop.time() + period_s
            elif self._is_waiting:
                # no request is left to answer: asyncua counts the cycles until the subscription's life is over
                await asyncio.sleep(period_s)
                continue
            await self._wait_for_news(self.data.RevisedMaxKeepAliveCount * period_s)
            await asyncio.sleep(max(0.0, earliest - loop.time()))

    @property
    def _is_waiting(self) -> bool:
        told = self._triggered_datachanges or self._triggered_events
        is_due = self._startup or self._keep_alive_count >= self.data.RevisedMaxKeepAliveCount
        return bool(is_due or (self._publishing_enabled and told))

    async def _wait_for_news(self, keep_alive_s: float) -> None:
        try:
            async with asyncio.timeout(keep_alive_s):
                await self._news.wait()
        except TimeoutError:
            self._keep_alive_count = self.data.RevisedMaxKeepAliveCount

    def _pop_publish_result(self) -> ua.PublishResult:
        result = super()._pop_publish_result()
        kept = self._not_acknowledged_results
        while len(kept) > 1 and sum(map(size_of, kept.values())) > _MAX_KEPT:
            del kept[next(iter(kept))]
        told = self._triggered_datachanges or self._triggered_events
        result.MoreNotifications = self._publishing_enabled and bool(told)
        return result

    def _pop_triggered_datachanges(self, result: ua.PublishResult) -> None:
        if self.pub_request_callback is None:  # nobody's wire
            super()._pop_triggered_datachanges(result)
            self._triggered_datachanges = ChangeQueue()
        elif self._changes:
            result.NotificationMessage.NotificationData.append(self._changes.take())
            if self._changes:
                self._news.set()

    def _pop_triggered_events(self, result: ua.PublishResult) -> None:
        if self.pub_request_callback is None:  # as above
            super()._pop_triggered_events(result)
            return
        parts: list[bytes] = []
        left = MAX_NOTIFICATION - size_of(result)
        for item_id, queue in list(self._event_queues.items()):
            while queue and (not parts or len(queue[0]) <= left):
                parts.append(queue.pop(0))
                left -= len(parts[-1])
            if queue:
                self._news.set()
                break
            del self._event_queues[item_id]
        if parts:
            self._event_bytes -= sum(map(len, parts))
            result.NotificationMessage.NotificationData.append(event_list(parts))


class _MonitoredItems(MonitoredItemService):
    isub: _Subscription

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401 - asyncua's own
        super().__init__(*arguments)
        self._selected: dict[int, list[tuple[FieldKey, ua.SimpleAttributeOperand]]] = {}

    async def _create_data_change_monitored_item(
        self, params: ua.MonitoredItemCreateRequest
    ) -> ua.MonitoredItemCreateResult:
        refused = objection(self.aspace, params.ItemToMonitor, params.RequestedParameters.Filter)
        if refused is not None:
            return ua.MonitoredItemCreateResult(StatusCode=_status(refused))
        made = await super()._create_data_change_monitored_item(params)
        if made.StatusCode.is_good():
            self.isub.keep_oldest(made.MonitoredItemId, kept=not params.RequestedParameters.DiscardOldest)
        return made

    def _create_events_monitored_item(self, params: ua.MonitoredItemCreateRequest) -> ua.MonitoredItemCreateResult:
        wanted = params.RequestedParameters.Filter
        refused = objection(self.aspace, params.ItemToMonitor, wanted)
        if refused is not None:
            return ua.MonitoredItemCreateResult(_status(refused), FilterResult=_filter_result(wanted))
        if self.isub.room_for_events <= 0:
            return ua.MonitoredItemCreateResult(StatusCode=_status(ua.StatusCodes.BadTooManyMonitoredItems))
        made = super()._create_events_monitored_item(params)
        if made.StatusCode.is_good():
            self.isub.room_for_events -= 1
            item = self._monitored_items[made.MonitoredItemId]
            self._choose_events(item, params.RequestedParameters.Filter)
            item.queue_size = self._revise_event_queue_size(params.RequestedParameters.QueueSize)
            made.RevisedQueueSize = ua.UInt32(item.queue_size)
        return made

    def _modify_monitored_item(self, params: ua.MonitoredItemModifyRequest) -> ua.MonitoredItemModifyResult:
        """Change an item; asyncua looks through all of them, and takes whatever it is told."""
        item, wanted = self._monitored_items.get(params.MonitoredItemId), params.RequestedParameters
        if item is None or item.read_value_id is None:
            return ua.MonitoredItemModifyResult(StatusCode=_status(ua.StatusCodes.BadMonitoredItemIdInvalid))
        if wanted.Filter or item.where_clause_evaluator is None:  # events need one: theirs stays
            refused = objection(self.aspace, item.read_value_id, wanted.Filter)
            if refused is not None:
                return ua.MonitoredItemModifyResult(_status(refused), FilterResult=_filter_result(wanted.Filter))
            item.filter = wanted.Filter
            if isinstance(wanted.Filter, ua.EventFilter):
                self._choose_events(item, wanted.Filter)
        is_data = item.where_clause_evaluator is None
        revise = self._revise_queue_size if is_data else self._revise_event_queue_size
        item.queue_size = revise(wanted.QueueSize)
        if is_data:
            self.isub.keep_oldest(params.MonitoredItemId, kept=not wanted.DiscardOldest)
        return ua.MonitoredItemModifyResult(
            RevisedSamplingInterval=self.isub.data.RevisedPublishingInterval,
            RevisedQueueSize=ua.UInt32(item.queue_size),
        )

    def is_sampled_only(self, item_id: int) -> bool:
        """Tell whether an item is looked at and not told of (OPC 10000-4, 5.12.1.3)."""
        return self._monitored_items[item_id].mode == ua.MonitoringMode.Sampling

    async def _set_monitoring_mode(self, mode: ua.MonitoringMode, mid: int) -> ua.StatusCode:
        item = self._monitored_items.get(mid)
        if item is not None and mode == ua.MonitoringMode.Disabled:
            self.isub.drop_waiting(mid)
            item.mvalue = MonitoredItemValues()  # what was dropped is news again
        elif item is not None and mode == ua.MonitoringMode.Reporting:
            self.isub.report_sampled(mid, item.queue_size)  # before what asyncua may look at now
        return await super()._set_monitoring_mode(mode, mid)

    def _choose_events(self, item: MonitoredItemData, chosen: ua.EventFilter) -> None:
        item.where_clause_evaluator = StationWhereClause(self.logger, self.aspace, chosen.WhereClause)
        assert item.monitored_item_id is not None
        self._selected[item.monitored_item_id] = [(field_key(field), field) for field in chosen.SelectClauses]

    def _revise_event_queue_size(self, requested: int) -> int:
        return min(self._revise_queue_size(requested), _MAX_EVENT_QUEUE)

    def _delete_monitored_items(self, mid: int) -> ua.StatusCode:
        self._selected.pop(mid, None)
        self.isub.forget(mid)
        return super()._delete_monitored_items(mid)

    async def _trigger_event(self, event: Event, mid: int) -> None:
        """Queue an event for its subscriber, encoded."""
        if self.isub.pub_request_callback is None:  # nobody's wire
            await super()._trigger_event(event, mid)
            return
        item = self._monitored_items[mid]
        if item.where_clause_evaluator is None or not item.where_clause_evaluator.eval(event):
            return
        told = encode_event(event, self._selected[mid], item.client_handle or 0, self.isub.encoded_fields)
        self.isub.keep_event(mid, told, item.queue_size)

    def _is_deadband_exceeded(self, values: MonitoredItemValues, flt: DataChangeFilter) -> bool:
        told = (values.old_dvalue, values.current_dvalue)
        if not all(value is not None and value.Value is not None and is_number(value.Value) for value in told):
            return True  # a value that comes or goes
        return super()._is_deadband_exceeded(values, flt)

    async def datachange_callback(self, handle: int, value: ua.DataValue, error: ua.StatusCode | None = None) -> None:
        """Queue a changed value for its subscriber."""
        item = self._monitored_items[self._monitored_datachange[handle]]
        if error is not None or not isinstance(value, WrittenValue) or not wants_changes(item.filter):
            await super().datachange_callback(handle, value, error)
            return
        if item.mode == ua.MonitoringMode.Disabled:
            return
        values = item.mvalue
        before, values.old_dvalue, values.current_dvalue = values.current_dvalue, values.current_dvalue, value
        if value.is_news_after(before):
            told = ua.MonitoredItemNotification(ua.UInt32(item.client_handle or 0), value)
            await self.isub.enqueue_datachange_event(self._monitored_datachange[handle], told, item.queue_size)


def _revised_interval(requested_ms: float) -> ua.Duration:
    """Return an interval that can be kept. Below the floor are all that are negative or no number."""
    return ua.Duration(min(requested_ms, _MAX_INTERVAL_MS) if requested_ms >= _MIN_INTERVAL_MS else _MIN_INTERVAL_MS)


def _filter_result(chosen: ua.MonitoringFilter | None) -> ua.ExtensionObject:
    return cast("ua.ExtensionObject", filter_result(chosen) or ua.ExtensionObject())


def _status(code: int) -> ua.StatusCode:
    return ua.StatusCode(ua.UInt32(code))
