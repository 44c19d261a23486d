"""Changes that wait to be told to one subscriber, in the order in which they were written.

asyncua 2.1 tells them item by item, each where its first change was. Of two results in one publishing interval, what
only the second changed then came behind `ResultSeq`, which had told the subscriber to act.
"""

from __future__ import annotations

import struct
from typing import Final

from asyncua import ua
from asyncua.ua.ua_binary import to_binary

from adapters.opcua.notifications import MAX_NOTIFICATION, ResultEnd, ResultValue, WrittenValue

_DATA_CHANGES: Final = ua.NodeId(ua.Int32(ua.ObjectIds.DataChangeNotification_Encoding_DefaultBinary))
_NO_DIAGNOSTICS: Final = struct.pack("<i", -1)


class ChangeQueue(dict[int, list[ua.MonitoredItemNotification]]):
    """The changes by their number, each a list of one, as asyncua takes them apart where it is nobody's wire."""

    def __init__(self) -> None:
        super().__init__()
        self._last = 0
        self._numbers: dict[int, list[int]] = {}
        self._torn = range(0)

    def add(self, item_id: int, told: ua.MonitoredItemNotification, max_count: int) -> None:
        """Queue a change behind all others; the oldest of its item make room."""
        numbers = self._numbers.setdefault(item_id, [])
        while len(numbers) >= max_count:
            number = numbers.pop(0)
            (lost,) = self.pop(number)
            if isinstance(lost.Value, ResultValue):
                self._tear(number, numbers[0] if numbers else self._last + 1)
        self._append(numbers, told)

    def forget(self, item_id: int) -> None:
        """Drop the changes of an item."""
        for number in self._numbers.pop(item_id, ()):
            del self[number]

    def take(self) -> ua.ExtensionObject:
        """Return a DataChangeNotification (OPC 10000-4, 7.25.2); what it has no room for stays."""
        if self._torn:
            self._drop_torn_results()
        parts: list[bytes] = []
        size, taken = 0, 0
        for number, (item,) in self.items():
            if size > MAX_NOTIFICATION:
                break
            value = item.Value
            encoded = value.encoded if isinstance(value, WrittenValue) else to_binary(ua.DataValue, value)
            parts += (struct.pack("<I", item.ClientHandle), encoded)
            size, taken = size + len(encoded), number
        self._drop_until(taken)
        body = ua.ByteString(b"".join((struct.pack("<i", len(parts) // 2), *parts, _NO_DIAGNOSTICS)))
        return ua.ExtensionObject(_DATA_CHANGES, Body=body)

    def _append(self, numbers: list[int], told: ua.MonitoredItemNotification) -> None:
        self._last += 1
        self[self._last] = [told]
        numbers.append(self._last)

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
            is_torn = numbers[-1] in self._torn
            for number in [number for number in numbers if number in self._torn]:
                del self[number]
                numbers.remove(number)
            if is_torn:
                self._append(numbers, last)
        self._torn = range(0)

    def _drop_until(self, taken: int) -> None:
        if taken == self._last:
            self.clear()
            self._numbers.clear()
            return
        for item_id, numbers in list(self._numbers.items()):
            while numbers and numbers[0] <= taken:
                del self[numbers.pop(0)]
            if not numbers:
                del self._numbers[item_id]
