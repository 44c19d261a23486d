"""Changes that wait to be told to one subscriber, in the order in which they were written.

asyncua 2.1 tells them item by item, each where its first change was. Of two results in one publishing interval, what
only the second changed then came behind `ResultSeq`, which had told the subscriber to act.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from asyncua import ua
from asyncua.ua.ua_binary import to_binary

from adapters.opcua.server.notifications import MAX_NOTIFICATION, ResultEnd, ResultValue, WrittenValue

_DATA_CHANGES: Final = ua.NodeId(ua.Int32(ua.ObjectIds.DataChangeNotification_Encoding_DefaultBinary))
_OVERFLOW: Final = 0x480  # InfoBits of a DataValue: something was lost before it (OPC 10000-4, 7.39.1)
_NO_DIAGNOSTICS: Final = struct.pack("<i", -1)


class ChangeQueue(dict[int, list[ua.MonitoredItemNotification]]):
    """The changes by their number, each a list of one, as asyncua takes them apart where it is nobody's wire.

    `keeping_oldest` are the items whose last change makes room for a new one, in place of their oldest.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last = 0
        self._numbers: dict[int, list[int]] = {}  # of each item
        self._items: dict[int, int] = {}  # of each number
        self._torn = range(0)
        self._behind_gaps: set[int] = set()
        self.keeping_oldest: set[int] = set()

    def add(self, item_id: int, told: ua.MonitoredItemNotification, max_count: int) -> None:
        """Queue a change behind all others; the oldest of its item make room, or the last one.

        What comes behind those that are lost says so, but for a queue of one (OPC 10000-4, 5.12.1.5).
        """
        numbers = self._numbers.setdefault(item_id, [])
        while len(numbers) >= max_count:
            behind = self._lose(numbers, len(numbers) - 1 if item_id in self.keeping_oldest else 0)
            if max_count > 1:
                self._behind_gaps.add(behind)
        self._append(item_id, numbers, told)

    def repeat(self, told: Iterable[tuple[int, ua.MonitoredItemNotification]]) -> None:
        """Queue what was told before once more, ahead of all others, for items of which nothing waits."""
        again = sorted(
            (one for one in told if one[0] not in self._numbers), key=lambda one: isinstance(one[1].Value, ResultEnd)
        )
        waiting = dict(self)
        first = min([*self._torn[:1], next(iter(waiting), self._last + 1)]) - len(again)
        self.clear()
        for number, (item_id, change) in enumerate(again, first):
            self[number] = [change]
            self._numbers[item_id] = [number]
            self._items[number] = item_id
        self.update(waiting)

    def forget(self, item_id: int) -> None:
        """Drop the changes of an item."""
        self.keeping_oldest.discard(item_id)
        for number in self._numbers.pop(item_id, ()):
            del self[number], self._items[number]
            self._behind_gaps.discard(number)

    def take(self, most: int = sys.maxsize) -> ua.ExtensionObject:
        """Return a DataChangeNotification (OPC 10000-4, 7.25.2) of at most so many; what it has no room for stays."""
        if self._torn:
            self._drop_torn_results()
        parts: list[bytes] = []
        taken: list[int] = []
        size = 0
        for number, (item,) in self.items():
            if size > MAX_NOTIFICATION or len(taken) == most:
                break
            value = _behind_gap(item.Value) if number in self._behind_gaps else item.Value
            encoded = value.encoded if isinstance(value, WrittenValue) else to_binary(ua.DataValue, value)
            parts += (struct.pack("<I", item.ClientHandle), encoded)
            size += len(encoded)
            taken.append(number)
        self._drop(taken)
        body = ua.ByteString(b"".join((struct.pack("<i", len(taken)), *parts, _NO_DIAGNOSTICS)))
        return ua.ExtensionObject(_DATA_CHANGES, Body=body)

    def _append(self, item_id: int, numbers: list[int], told: ua.MonitoredItemNotification) -> None:
        self._last += 1
        self[self._last] = [told]
        self._items[self._last] = item_id
        numbers.append(self._last)

    def _lose(self, numbers: list[int], at: int) -> int:
        """Drop one change of an item; return the number of the one behind it, which may be yet to come."""
        number = numbers.pop(at)
        (lost,) = self.pop(number)
        del self._items[number]
        self._behind_gaps.discard(number)
        behind = numbers[at] if at < len(numbers) else self._last + 1
        if isinstance(lost.Value, ResultValue):
            self._tear(number, behind)
        return behind

    def _tear(self, lost: int, next_of_item: int) -> None:
        """Note that between the two an item's value is not the one that is told."""
        start = min(lost, self._torn.start) if self._torn else lost
        self._torn = range(start, max(next_of_item, self._torn.stop))

    def _drop_torn_results(self) -> None:
        """Tell of no result whose values found no room; where that is the last, of it behind all else."""
        for numbers in self._numbers.values():
            (last,) = self[numbers[-1]]
            if not isinstance(last.Value, ResultEnd):
                continue
            if numbers[-1] in self._torn:
                self._move_behind_all(numbers)
            for number in [number for number in numbers if number in self._torn]:
                self._behind_gaps.add(self._lose(numbers, numbers.index(number)))
        self._torn = range(0)

    def _move_behind_all(self, numbers: list[int]) -> None:
        number = numbers.pop()
        (last,) = self.pop(number)
        self._append(self._items.pop(number), numbers, last)
        if number in self._behind_gaps:
            self._behind_gaps.remove(number)
            self._behind_gaps.add(self._last)

    def _drop(self, taken: list[int]) -> None:
        """Drop the first changes; what is left costs nothing, however much there is for messages however small."""
        if len(taken) == len(self):
            for each in (self, self._numbers, self._items, self._behind_gaps):
                each.clear()
            return
        for number in taken:
            del self[number]
            self._behind_gaps.discard(number)
            item_id = self._items.pop(number)
            numbers = self._numbers[item_id]
            del numbers[0]
            if not numbers:
                del self._numbers[item_id]


def _behind_gap(value: ua.DataValue) -> ua.DataValue:
    status = 0 if value.StatusCode is None else value.StatusCode.value
    return replace(value, StatusCode=ua.StatusCode(ua.UInt32(status | _OVERFLOW)))
