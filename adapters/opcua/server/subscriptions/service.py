"""The server's side of subscriptions: who has which, and how much all of them together may cost.

asyncua does not look at what a client asks for: a publishing interval of nothing, items without end. All of that would
be paid for within the write of a tag: it is refused or revised.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from asyncua import ua
from asyncua.common.events import Event
from asyncua.common.utils import ServiceError
from asyncua.server.internal_session import InternalSession
from asyncua.server.subscription_service import SubscriptionService

from adapters.opcua.server.notifications import FieldKey
from adapters.opcua.server.subscriptions.subscription import Subscription

MIN_INTERVAL_MS: Final = 10.0
_MAX_LIFETIME_MS: Final = 600_000.0  # as long as a session may be silent: nobody else may end a subscription
_MAX_INTERVAL_MS: Final = _MAX_LIFETIME_MS / 3  # a life has three keep-alives at least (OPC 10000-4, 5.13.2.2)
MAX_ITEMS: Final = 5_000
"""Of all subscriptions together: every tag for a hundred clients and more; a change told to all of them costs 20 ms."""

_MAX_EVENT_ITEMS: Final = 100  # the same for events, each of which is put together for each of them


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
        interval_ms, lifetime, keep_alive = self._revised(params)
        made = ua.CreateSubscriptionResult(
            SubscriptionId=ua.UInt32(self._sub_id_counter),
            RevisedPublishingInterval=interval_ms,
            RevisedLifetimeCount=lifetime,
            RevisedMaxKeepAliveCount=keep_alive,
        )
        subscription = Subscription(
            made,
            self.aspace,
            callback,
            session_id,
            request_callback=request_callback,
            delete_callback=lambda: self._expire(made.SubscriptionId),
            no_acks_limit=self.iserver.max_unacked_messages_per_subscription,
            max_queue_size=self.iserver.max_monitored_item_queue_size,
            publishing_enabled=params.PublishingEnabled,
        )
        subscription.most_told = params.MaxNotificationsPerPublish or sys.maxsize
        await subscription.start()
        self.subscriptions[made.SubscriptionId] = subscription
        return made

    def modify_subscription(self, params: ua.ModifySubscriptionParameters) -> ua.ModifySubscriptionResult:
        """Change how often a subscription tells of its news, and how long it lives unheard."""
        one = self.subscriptions.get(params.SubscriptionId)
        if not isinstance(one, Subscription):
            raise ServiceError(ua.StatusCodes.BadSubscriptionIdInvalid)
        one.revise(*self._revised(params))
        one.most_told = params.MaxNotificationsPerPublish or sys.maxsize
        return ua.ModifySubscriptionResult(
            RevisedPublishingInterval=one.data.RevisedPublishingInterval,
            RevisedLifetimeCount=one.data.RevisedLifetimeCount,
            RevisedMaxKeepAliveCount=one.data.RevisedMaxKeepAliveCount,
        )

    async def delete_subscriptions(self, ids: list[int]) -> list[ua.StatusCode]:
        """End subscriptions. Who has none left is told so by each of his requests that wait for one."""
        ended = [self.subscriptions[one] for one in ids if one in self.subscriptions]
        results = await super().delete_subscriptions(ids)
        for one in ended:
            if isinstance(one, Subscription) and one.has_client and not self._has_any(one.session_id):
                one.refuse_requests()
        return results

    def publish(self, acks: Iterable[ua.SubscriptionAcknowledgement]) -> tuple[int, list[ua.StatusCode]]:
        """Let go of messages that have arrived; return how many subscriptions there are, and what became of each."""
        return len(self.subscriptions), [ua.StatusCode(ua.UInt32(self._acknowledge(ack))) for ack in acks]

    async def create_monitored_items(
        self, params: ua.CreateMonitoredItemsParameters
    ) -> list[ua.MonitoredItemCreateResult]:
        """Create items. Raises ServiceError where that would be too many."""
        there = sum(one.item_count for one in self.subscriptions.values() if isinstance(one, Subscription))
        if there + len(params.ItemsToCreate) > MAX_ITEMS:
            raise ServiceError(ua.StatusCodes.BadTooManyMonitoredItems)
        one = self.subscriptions.get(params.SubscriptionId)
        if isinstance(one, Subscription):
            one.monitored_item_srv.room_for_events = _MAX_EVENT_ITEMS - sum(
                other.event_item_count for other in self.subscriptions.values() if isinstance(other, Subscription)
            )
        return await super().create_monitored_items(params)

    async def trigger_event(self, event: Event, subscription_id: int | None = None) -> None:
        """Tell subscribers of an event, whose fields are encoded once, whoever hears of it."""
        encoded: dict[FieldKey, bytes] = {}
        for one in self.subscriptions.values():
            if isinstance(one, Subscription):
                one.monitored_item_srv.encoded_fields = encoded
        await super().trigger_event(event, subscription_id)
        encoded.clear()

    def give(self, subscription_id: int, session: InternalSession) -> None:
        """Make a subscription a session's own; its life begins anew."""
        one = self.subscriptions[subscription_id]
        assert isinstance(one, Subscription)
        if one.holder is not None and not self._has_any(one.holder.session_id):
            one.refuse_requests()  # those that wait where it was
        one.change_hands(session)

    def repeat_values(self, subscription_id: int) -> None:
        """Tell the values of a subscription's items once more."""
        one = self.subscriptions[subscription_id]
        assert isinstance(one, Subscription)
        one.monitored_item_srv.repeat_values()

    def touch(self, subscription_id: int) -> None:
        """Let a subscription's life begin anew: its session has asked something of it (OPC 10000-4, 5.13.1.1)."""
        one = self.subscriptions.get(subscription_id)
        if isinstance(one, Subscription):
            one.touch()

    def holder(self, subscription_id: int) -> InternalSession | None:
        """Return the session that a subscription belongs to, which may be closed; None: to the server itself."""
        one = self.subscriptions.get(subscription_id)
        return one.holder if isinstance(one, Subscription) else None

    def _has_any(self, session_id: ua.NodeId) -> bool:
        return any(one.session_id == session_id for one in self.subscriptions.values())

    def _acknowledge(self, ack: ua.SubscriptionAcknowledgement) -> int:
        one = self.subscriptions.get(ack.SubscriptionId)
        if not isinstance(one, Subscription):
            return ua.StatusCodes.BadSubscriptionIdInvalid
        there = one.acknowledge(ack.SequenceNumber)
        return ua.StatusCodes.Good if there else ua.StatusCodes.BadSequenceNumberUnknown

    def _expire(self, subscription_id: int) -> None:
        """Drop a subscription that is over; another of its session says so when it is asked, or who waits is told."""
        ended = self.subscriptions.pop(subscription_id, None)
        if not isinstance(ended, Subscription):
            return
        others = (one for one in self.subscriptions.values() if one.session_id == ended.session_id)
        teller = next((one for one in others if isinstance(one, Subscription)), None)
        if teller is not None:
            teller.tell_end(ended)
        elif ended.has_client:
            ended.refuse_requests()

    def _revised(
        self, params: ua.CreateSubscriptionParameters | ua.ModifySubscriptionParameters
    ) -> tuple[ua.Duration, ua.UInt32, ua.UInt32]:
        """Return how often a subscription publishes, for how many intervals it lives unheard, and may be silent."""
        interval_ms = _revised_interval(params.RequestedPublishingInterval)
        most = int(_MAX_LIFETIME_MS / interval_ms)
        keep_alive = min(self._clamp_keep_alive_count(params.RequestedMaxKeepAliveCount), most // 3)
        lifetime = min(max(self._clamp_lifetime_count(params.RequestedLifetimeCount), 3 * keep_alive), most)
        return interval_ms, ua.UInt32(lifetime), ua.UInt32(keep_alive)


def _revised_interval(requested_ms: float) -> ua.Duration:
    """Return an interval that can be kept. Below the floor are all that are negative or no number."""
    return ua.Duration(min(requested_ms, _MAX_INTERVAL_MS) if requested_ms >= MIN_INTERVAL_MS else MIN_INTERVAL_MS)
