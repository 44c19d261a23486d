"""What finds no room in a subscriber's queue: what is told behind it says so, and no result comes apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.server.notifications import ResultEnd, ResultValue, WrittenValue
from adapters.opcua.server.subscriptions.changes import ChangeQueue

SEQ: Final = 0
TAGS: Final = (1, 2, 3)
OVERFLOW: Final = 0x480

_results = st.tuples(*[st.integers(1, 3)] * len(TAGS))
_steps = st.lists(_results | st.just("publish"), max_size=40)
_queues = st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=4, max_size=4)


def write(changes: ChangeQueue, item: int, value: int, kind: type[WrittenValue], room: int) -> None:
    told = kind(ua.Variant(value, ua.VariantType.UInt32))
    changes.add(item, ua.MonitoredItemNotification(ua.UInt32(item), told), room)


def published(changes: ChangeQueue) -> Iterator[tuple[int, int, bool]]:
    """Take one message; yield handle, value, and whether something was lost before it."""
    body = changes.take().Body
    assert body is not None
    for item in struct_from_binary(ua.DataChangeNotification, Buffer(body)).MonitoredItems:
        yield item.ClientHandle, item.Value.Value.Value, item.Value.StatusCode.value == OVERFLOW


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.booleans())
def test_change_behind_a_gap_says_so(steps: list[bool], room: int, keeps_oldest: bool) -> None:
    """The first behind what was lost, whichever end of the queue that was; in a queue of one, none."""
    changes, waiting, told = ChangeQueue(), list[tuple[int, bool]](), list[tuple[int, bool]]()
    if keeps_oldest:
        changes.keeping_oldest.add(1)
    expected = list[tuple[int, bool]]()
    for value, publishes in enumerate([*steps, True]):
        write(changes, 1, value, WrittenValue, room)
        lost = len(waiting) == room
        if lost:
            waiting.pop(-1 if keeps_oldest else 0)
        waiting.append((value, lost and room > 1 and keeps_oldest))
        if lost and room > 1 and not keeps_oldest:
            waiting[0] = waiting[0][0], True
        if publishes:
            told += [(one, gap) for _, one, gap in published(changes)]
            expected += waiting
            waiting.clear()
    assert told == expected


@given(_steps, _queues)
def test_result_is_whole_and_says_where_others_were_lost(
    steps: list[tuple[int, ...] | str], queues: list[tuple[int, bool]]
) -> None:
    """Whichever end of which queue has no room: a number comes with its own values, and says whether some are lost."""
    changes, results, seen, last = ChangeQueue(), list[tuple[int, ...]](), dict[int, int](), 0
    changes.keeping_oldest |= {item for item, (_, keeps_oldest) in enumerate(queues) if keeps_oldest}
    for step in [*steps, "publish"]:
        if isinstance(step, tuple):
            results.append(step)
            for item, value in zip(TAGS, step, strict=True):
                if len(results) == 1 or results[-2][item - 1] != value:
                    write(changes, item, value, ResultValue, queues[item][0])
            write(changes, SEQ, len(results), ResultEnd, queues[SEQ][0])
        elif changes:
            for item, value, gap in published(changes):
                seen[item] = value
                if item == SEQ:
                    assert [seen[one] for one in TAGS] == list(results[value - 1])
                    assert gap is (value > last + 1 and queues[SEQ][0] > 1)
                    last = value
    assert last == len(results)


def test_forgotten_item_leaves_no_mark() -> None:
    """Nor does its number say anything of the item that comes after it."""
    changes = ChangeQueue()
    changes.keeping_oldest.add(1)
    for value in range(3):
        write(changes, 1, value, WrittenValue, 2)
    changes.forget(1)
    write(changes, 2, 7, WrittenValue, 2)
    assert list(published(changes)) == [(2, 7, False)]
    assert (changes.keeping_oldest, changes) == (set(), {})
