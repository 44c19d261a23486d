"""One subscription of a client: it costs something when there is news, and little for each subscriber.

asyncua 2.1 looks into every subscription once a publishing interval, builds each notification from defaults that it
throws away, and encodes every value anew for every client. With twenty clients at 10 ms that was a third of a core on
the event loop, and the gate command waited beside it. Here a subscription sleeps until it is told of something or a
keep-alive is due, and a value is encoded once, whoever hears of it.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import structlog
from asyncua import ua
from asyncua.server.internal_session import InternalSession
from asyncua.server.internal_subscription import InternalSubscription

from adapters.opcua.server.notifications import MAX_NOTIFICATION, event_list, size_of
from adapters.opcua.server.subscriptions.changes import ChangeQueue
from adapters.opcua.server.subscriptions.monitored_items import MonitoredItems
from adapters.opcua.server.subscriptions.news import News

if TYPE_CHECKING:
    from types import MethodType

    from asyncua.server.uaprocessor import PublishRequestData

log = structlog.get_logger(__name__)

_MAX_KEPT: Final = 2 * 1024 * 1024  # bytes that wait for an acknowledgement, the latest message beside
_MAX_ENDS: Final = 200  # ends of other subscriptions that wait to be told, as many as can be there at once


class _Asker(Protocol):
    """The connection that a subscription's client asks on (`StationProcessor`)."""

    def refuse_waiting(self, session: InternalSession, code: int) -> None:
        """Answer each request that waits for news of a session."""


class Subscription(InternalSubscription):
    """Tells one client of changes and events, as often as it asked for and no more than it takes."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - asyncua's own
        super().__init__(*arguments, **named)
        self.news = News()
        self.monitored_item_srv: MonitoredItems = MonitoredItems(self, self.monitored_item_srv.aspace, self.news)
        # asyncua looks there for whether there is anything to tell
        self._triggered_datachanges = self.news.changes
        self._triggered_events = cast("dict[int, list[ua.EventFieldList]]", self.news.events)
        self.holder: InternalSession | None = None
        self.most_told = sys.maxsize  # changes and events in one notification
        self._left_to_tell = 0  # of those, in the one that is being made
        self._ends: deque[tuple[ua.UInt32, ua.UInt32]] = deque(maxlen=_MAX_ENDS)

    def touch(self) -> None:
        """Begin life anew."""
        self._publish_cycles_count = 0

    def change_hands(self, session: InternalSession) -> None:
        """Belong to another session; life begins anew."""
        self.holder = session
        self.session_id = session.session_id
        self.touch()  # OPC 10000-4, 5.13.7.1: else it might run out before it is asked
        self.news.came.set()

    def revise(self, interval_ms: ua.Duration, lifetime: ua.UInt32, keep_alive: ua.UInt32) -> None:
        """Publish at another interval from now on; whatever the old one still waits for, it may have been an hour."""
        self.data.RevisedPublishingInterval = interval_ms
        self.data.RevisedLifetimeCount = lifetime
        self.data.RevisedMaxKeepAliveCount = keep_alive
        if self._task is not None:
            self._task.cancel()
            self._task = asyncio.create_task(self._subscription_loop())

    def acknowledge(self, sequence_number: int) -> bool:
        """Let go of a message that has arrived; tell whether there was one."""
        return self._not_acknowledged_results.pop(sequence_number, None) is not None

    def republish(self, nb: int) -> ua.NotificationMessage:
        """Return a message once more; it stays until it is acknowledged. An empty one where there is none."""
        kept = self._not_acknowledged_results.get(nb)
        return ua.NotificationMessage() if kept is None else kept.NotificationMessage

    def tell_end(self, ended: Subscription) -> None:
        """Tell of another subscription of the same session that it has ended; of too many, of the latest."""
        self._ends.append((ended.data.SubscriptionId, ua.UInt32(ended._notification_seq)))
        self.news.came.set()

    def refuse_requests(self) -> None:
        """Answer the requests that wait in its session, which has no subscription left (OPC 10000-4, 5.13.5)."""
        if self.pub_request_callback is None or self.holder is None:
            return
        # the other callback of a connection answers with messages alone
        asker = cast("_Asker", cast("MethodType", self.pub_request_callback).__self__)
        asker.refuse_waiting(self.holder, ua.StatusCodes.BadNoSubscription)

    async def publish_results(self, requestdata: PublishRequestData | None = None) -> bool:
        """Publish what is to be told, ends of other subscriptions first, in as many messages as there are requests for.

        What is left waits for the next request and for nothing else (OPC 10000-4, 5.13.1.3, ReturnNotifications).
        Returns whether a request was answered.
        """
        answered = False
        while self._ends and self.pub_request_callback is not None:
            request = self.pub_request_callback(self.data.SubscriptionId)
            if request is None:
                break
            await self.pub_result_callback(_last_words(*self._ends.popleft()), request)
            answered = True
        while await super().publish_results(requestdata):
            if not self._has_news:
                return True
            requestdata, answered = None, True
            await asyncio.sleep(0)  # there may be a message for each of many changes
            if self._closing:
                return True
        if answered and self._has_news:
            self.news.came.set()  # for want of a request its life may run out now
        return answered

    @property
    def has_client(self) -> bool:
        """Tell whether its session goes on; one that ends has another answer for the requests that wait in it."""
        return self.holder is not None and self.holder.is_activated()

    @property
    def item_count(self) -> int:
        """Return how many items it has."""
        return len(self.monitored_item_srv._monitored_items)  # noqa: SLF001 - asyncua counts them nowhere else

    @property
    def event_item_count(self) -> int:
        """Return how many of them are for events."""
        return sum(map(len, self.monitored_item_srv._monitored_events.values()))  # noqa: SLF001 - as above

    async def set_publishing_mode(self, enabled: bool) -> None:
        """Tell, or only collect."""
        await super().set_publishing_mode(enabled)
        self.touch()
        self.news.came.set()

    async def enqueue_statuschange(self, code: ua.StatusCode) -> None:
        """Queue that the subscription has ended, or was transferred."""
        await super().enqueue_statuschange(code)
        self.news.came.set()

    async def _enqueue_event(self, *arguments: Any) -> None:  # noqa: ANN401 - asyncua's own
        await super()._enqueue_event(*arguments)
        self.news.came.set()

    async def _subscription_loop(self) -> None:
        """Publish until cancelled. Where that breaks, the subscription ends: its client must not take it for quiet."""
        try:
            await self._publish_news()
        except Exception:  # the task's boundary: nobody awaits it, and a defect would be taken for a tag that rests
            log.exception("opcua_subscription_broke", subscription=self.data.SubscriptionId)
            self._closing = True
            if self.delete_callback is not None:
                self.delete_callback()
            self.monitored_item_srv.delete_all_monitored_items()

    async def _publish_news(self) -> None:
        """Publish news at once, but no sooner than a publishing interval after the last."""
        loop = asyncio.get_running_loop()
        period_s = self.data.RevisedPublishingInterval / 1000
        earliest = loop.time()
        while not self._closing:
            self.news.came.clear()
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
    def _has_news(self) -> bool:
        return self._publishing_enabled and bool(self._triggered_datachanges or self._triggered_events)

    @property
    def _is_waiting(self) -> bool:
        return self._startup or self._keep_alive_count >= self.data.RevisedMaxKeepAliveCount or self._has_news

    async def _wait_for_news(self, keep_alive_s: float) -> None:
        try:
            async with asyncio.timeout(keep_alive_s):
                await self.news.came.wait()
        except TimeoutError:
            self._keep_alive_count = self.data.RevisedMaxKeepAliveCount

    def _pop_publish_result(self) -> ua.PublishResult:
        self._left_to_tell = self.most_told
        result = super()._pop_publish_result()
        kept = self._not_acknowledged_results
        while len(kept) > 1 and sum(map(size_of, kept.values())) > _MAX_KEPT:
            del kept[next(iter(kept))]
        result.MoreNotifications = self._has_news
        return result

    def _pop_triggered_datachanges(self, result: ua.PublishResult) -> None:
        if self.pub_request_callback is None:  # nobody's wire
            super()._pop_triggered_datachanges(result)
            self._triggered_datachanges = self.news.changes = ChangeQueue()
        elif changes := self.news.changes:
            waiting = len(changes)
            result.NotificationMessage.NotificationData.append(changes.take(self.most_told))
            self._left_to_tell -= waiting - len(changes)

    def _pop_triggered_events(self, result: ua.PublishResult) -> None:
        if self.pub_request_callback is None:  # as above
            super()._pop_triggered_events(result)
            return
        parts = self.news.take_events(self._left_to_tell, MAX_NOTIFICATION - size_of(result))
        if parts:
            result.NotificationMessage.NotificationData.append(event_list(parts))


def _last_words(subscription_id: ua.UInt32, sequence_number: ua.UInt32) -> ua.PublishResult:
    """Return the message that a subscription's life is over (OPC 10000-4, 5.13.1.2)."""
    end = ua.StatusChangeNotification(Status=ua.StatusCode(ua.UInt32(ua.StatusCodes.BadTimeout)))
    message = ua.NotificationMessage(SequenceNumber=sequence_number, NotificationData=[cast("ua.ExtensionObject", end)])
    return ua.PublishResult(
        SubscriptionId=subscription_id,
        MoreNotifications=cast("ua.Boolean", False),
        NotificationMessage=message,
    )
