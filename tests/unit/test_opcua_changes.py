"""Whatever falls into one publishing interval, ResultSeq comes when no tag is behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from unittest.mock import patch

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.opcua.server.notifications import ResultEnd, ResultValue, WrittenValue
from adapters.opcua.server.subscriptions.changes import ChangeQueue

SEQ, WAITING = 0, 0
TAGS: Final = (1, 2, 3)

_results = st.tuples(*[st.integers(1, 3)] * len(TAGS))
_steps = st.lists(_results | st.sampled_from(["trigger", "repeat", "publish", "transfer"]), max_size=40)
_queue_sizes = st.lists(st.integers(1, 4), min_size=4, max_size=4)


class Station:
    """Writes tags, of which one subscriber is told where they change."""

    def __init__(self, queue_sizes: list[int]) -> None:
        self.changes = ChangeQueue()
        self.values: dict[int, int] = {}
        self._written: dict[int, WrittenValue] = {}
        self._queue_sizes = queue_sizes

    def write(self, tag: int, value: int, kind: type[WrittenValue]) -> None:
        written = kind(ua.Variant(value, ua.VariantType.UInt32))
        if written.is_news_after(self._written.get(tag)):
            self.changes.add(tag, ua.MonitoredItemNotification(ua.UInt32(tag), written), self._queue_sizes[tag])
        self._written[tag], self.values[tag] = written, value

    def write_result(self, values: tuple[int, ...], seq: int) -> None:
        for tag, value in zip(TAGS, values, strict=True):
            self.write(tag, value, ResultValue)
        self.write(SEQ, seq, ResultEnd)

    def trigger(self) -> None:
        for tag in TAGS:
            self.write(tag, WAITING, ResultValue)

    def transfer(self) -> None:
        """Give the subscription to a session that wants to know all values."""
        self.changes.repeat(
            (tag, ua.MonitoredItemNotification(ua.UInt32(tag), written)) for tag, written in self._written.items()
        )

    def published(self) -> Iterator[tuple[int, int]]:
        """Take one message; yield handles and values in its order."""
        body = self.changes.take().Body
        assert body is not None
        message = struct_from_binary(ua.DataChangeNotification, Buffer(body))
        for item in message.MonitoredItems:
            yield item.ClientHandle, item.Value.Value.Value


@example([(1, 1, 1), "trigger", "publish", (1, 1, 1)], [2, 1, 1, 2], 0)  # ResultSeq found no room
@given(_steps, _queue_sizes, st.sampled_from([0, 50, 2**20]))
def test_sequence_is_told_with_the_tags_of_its_result(
    steps: list[tuple[int, ...] | str], queue_sizes: list[int], max_message: int
) -> None:
    """At each ResultSeq every tag is that result's, or waits for the next, which a trigger behind it asked for."""
    station, results, seen = Station(queue_sizes), list[tuple[int, ...]](), dict[int, int]()
    is_split = max_message < 100

    def hear() -> None:
        for tag, value in station.published():
            is_told_again = "transfer" in steps and value == seen.get(SEQ)
            may_be_overtaken = is_split or value == len(results) or is_told_again
            seen[tag] = value
            if tag == SEQ:
                for other, own in zip(TAGS, results[value - 1], strict=True):
                    assert seen[other] in ({own, WAITING} if may_be_overtaken else {own})

    with patch("adapters.opcua.server.subscriptions.changes.MAX_NOTIFICATION", max_message):
        for step in steps:
            if step == "publish":
                if station.changes:
                    hear()
            elif step == "transfer":
                station.transfer()
            elif step in {"trigger", "repeat"}:
                station.trigger()
                if step == "repeat" and results:
                    station.write_result(results[-1], len(results))
            else:
                assert isinstance(step, tuple)
                results.append(step)
                station.write_result(step, len(results))
        while station.changes:
            hear()
    assert seen == station.values


def test_every_change_is_told_in_order_while_there_is_room() -> None:
    """Also of an item that is told of several times, and beside one that is forgotten."""
    station = Station([9] * 4)
    for seq, value in enumerate((2, 1), start=1):
        station.write(1, value, ResultValue)
        station.write(2, 7, ResultValue)
        station.write(3, seq, WrittenValue)
        station.write(SEQ, seq, ResultEnd)
    station.changes.forget(3)
    assert list(station.published()) == [(1, 2), (2, 7), (SEQ, 1), (1, 1), (SEQ, 2)]
    assert not station.changes


def test_what_is_repeated_comes_before_what_waits() -> None:
    """ResultSeq behind the tags of its result, whichever was watched first; what waits is told as ever."""
    station = Station([9] * 4)
    station.changes.repeat([])
    station.write(SEQ, 1, ResultEnd)
    station.write_result((4, 5, 6), 2)
    assert [tag for tag, _ in station.published()] == [SEQ, *TAGS, SEQ]
    station.transfer()
    assert list(station.published()) == [(1, 4), (2, 5), (3, 6), (SEQ, 2)]
    station.write(1, WAITING, ResultValue)
    station.transfer()
    assert list(station.published()) == [(2, 5), (3, 6), (SEQ, 2), (1, WAITING)]
    assert not station.changes
