"""The server's side of each subscription: it costs something when there is news, and little for each subscriber.

asyncua 2.1 looks into every subscription once a publishing interval, builds each notification from defaults that it
throws away, and encodes every value anew for every client. With twenty clients at 10 ms that was a third of a core on
the event loop, and the gate command waited beside it. Here a subscription sleeps until it is told of something or a
keep-alive is due, and a value is encoded once, whoever hears of it.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, Self

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.internal_subscription import InternalSubscription
from asyncua.server.monitored_item_service import MonitoredItemService
from asyncua.server.subscription_service import SubscriptionService
from asyncua.ua.ua_binary import to_binary

_DATA_CHANGES: Final = ua.NodeId(ua.Int32(ua.ObjectIds.DataChangeNotification_Encoding_DefaultBinary))
_NO_DIAGNOSTICS: Final = struct.pack("<i", -1)


class WrittenValue(ua.DataValue):
    """A value that nobody changes once it is written: subscriptions share it, and its encoding."""

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    @cached_property
    def encoded(self) -> bytes:
        """Return it as it is on the wire (OPC 10000-6, 5.2.2.17)."""
        return to_binary(ua.DataValue, self)


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
            RevisedPublishingInterval=params.RequestedPublishingInterval,
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


class _Subscription(InternalSubscription):
    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - asyncua's own
        super().__init__(*arguments, **named)
        self.monitored_item_srv = _MonitoredItems(self, self.monitored_item_srv.aspace)
        self._news = asyncio.Event()

    async def set_publishing_mode(self, enabled: bool) -> None:
        await super().set_publishing_mode(enabled)
        self._news.set()

    async def enqueue_statuschange(self, code: ua.StatusCode) -> None:
        await super().enqueue_statuschange(code)
        self._news.set()

    async def _enqueue_event(self, *arguments: Any) -> None:  # noqa: ANN401 - asyncua's own
        await super()._enqueue_event(*arguments)
        self._news.set()

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

    def _pop_triggered_datachanges(self, result: ua.PublishResult) -> None:
        if self.pub_request_callback is None:  # nobody's wire
            super()._pop_triggered_datachanges(result)
        elif self._triggered_datachanges:
            items = [item for told in self._triggered_datachanges.values() for item in told]
            self._triggered_datachanges = {}
            result.NotificationMessage.NotificationData.append(
                ua.ExtensionObject(_DATA_CHANGES, Body=ua.ByteString(_encode(items)))
            )


class _MonitoredItems(MonitoredItemService):
    isub: _Subscription

    async def datachange_callback(self, handle: int, value: ua.DataValue, error: ua.StatusCode | None = None) -> None:
        """Queue a changed value for its subscriber."""
        item = self._monitored_items[self._monitored_datachange[handle]]
        if error is not None or not isinstance(value, WrittenValue) or not _wants_changes(item.filter):
            await super().datachange_callback(handle, value, error)
            return
        if item.mode == ua.MonitoringMode.Disabled:
            return
        values = item.mvalue
        before, values.old_dvalue, values.current_dvalue = values.current_dvalue, values.current_dvalue, value
        if before is None or before.Value != value.Value or before.StatusCode != value.StatusCode:
            told = ua.MonitoredItemNotification(ua.UInt32(item.client_handle or 0), value)
            await self.isub.enqueue_datachange_event(self._monitored_datachange[handle], told, item.queue_size)


def _wants_changes(chosen: ua.MonitoringFilter | None) -> bool:
    """Tell whether a filter lets pass what changes its value or its status, and nothing else: the default."""
    return not chosen or (  # none is an extension object without a body, which is false
        isinstance(chosen, ua.DataChangeFilter)
        and chosen.Trigger == ua.DataChangeTrigger.StatusValue
        and chosen.DeadbandType == ua.DeadbandType.None_
    )


def _encode(items: list[ua.MonitoredItemNotification]) -> bytes:
    """Return the body of a DataChangeNotification (OPC 10000-4, 7.25.2)."""
    parts = [struct.pack("<i", len(items))]
    for item in items:
        value = item.Value
        encoded = value.encoded if isinstance(value, WrittenValue) else to_binary(ua.DataValue, value)
        parts += (struct.pack("<I", item.ClientHandle), encoded)
    return b"".join((*parts, _NO_DIAGNOSTICS))
