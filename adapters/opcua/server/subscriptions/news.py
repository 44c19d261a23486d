"""What waits to be told to one subscriber, bounded item by item and as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from asyncua import ua

from adapters.opcua.server.subscriptions.changes import ChangeQueue

_MAX_EVENTS_WAITING: Final = 1024 * 1024  # bytes that wait in one subscription, the latest event of each item beside


class News:
    """Changes and events that wait; `came` is set when there is something new."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.changes = ChangeQueue()
        self.events: dict[int, list[bytes]] = {}
        self._event_bytes = 0
        self._sampled: dict[int, ua.MonitoredItemNotification] = {}

    def add_change(self, item_id: int, told: ua.MonitoredItemNotification, max_count: int) -> None:
        """Queue a change; others of its item make room."""
        self.changes.add(item_id, told, max_count)
        self.came.set()

    def repeat(self, told: Iterable[tuple[int, ua.MonitoredItemNotification]]) -> None:
        """Queue what was told before once more, ahead of all others, for items of which nothing waits."""
        self.changes.repeat(told)
        self.came.set()

    def keep_sampled(self, item_id: int, told: ua.MonitoredItemNotification) -> None:
        """Keep the change of an item that is looked at and not to be told of, in place of the one before."""
        self._sampled[item_id] = told

    def report_sampled(self, item_id: int, client_handle: int, max_count: int) -> None:
        """Queue what an item held when it was not to be told of: the latest, whatever its queue has room for."""
        told = self._sampled.pop(item_id, None)
        if told is not None:
            told.ClientHandle = ua.UInt32(client_handle)  # it may have been given another one meanwhile
            self.add_change(item_id, told, max_count)

    def keep_oldest(self, item_id: int, *, kept: bool) -> None:
        """Let the last change of an item make room for a new one, or its oldest."""
        items = self.changes.keeping_oldest
        (items.add if kept else items.discard)(item_id)

    def add_event(self, item_id: int, told: bytes, max_count: int) -> None:
        """Queue an encoded event; the oldest of its item make room."""
        queue = self.events.setdefault(item_id, [])
        queue.append(told)
        self._event_bytes += len(told)
        while len(queue) > max_count or (len(queue) > 1 and self._event_bytes > _MAX_EVENTS_WAITING):
            self._event_bytes -= len(queue.pop(0))
        self.came.set()

    def take_events(self, most: int, room: int) -> list[bytes]:
        """Return at most so many events of so many bytes, one that is longer by itself; what has no room stays."""
        parts: list[bytes] = []
        for item_id, queue in list(self.events.items()):
            while queue and len(parts) < most and (not parts or len(queue[0]) <= room):
                parts.append(queue.pop(0))
                room -= len(parts[-1])
            if queue:
                break
            del self.events[item_id]
        self._event_bytes -= sum(map(len, parts))
        return parts

    def drop(self, item_id: int) -> None:
        """Drop what waits for an item that is disabled; whether it keeps its oldest change is as before."""
        keeps_oldest = item_id in self.changes.keeping_oldest
        self.forget(item_id)
        self.keep_oldest(item_id, kept=keeps_oldest)

    def forget(self, item_id: int) -> None:
        """Drop what waits for an item that is gone: else it might be made and deleted without end."""
        self.changes.forget(item_id)
        self._sampled.pop(item_id, None)
        self._event_bytes -= sum(map(len, self.events.pop(item_id, ())))
