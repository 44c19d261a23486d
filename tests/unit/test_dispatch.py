"""The way of a verdict out: made safe, handed on, acknowledged."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.memory_journal import MemoryJournal, SlowJournal
from tests.support.waiting import eventually
from tests.support.way_out import an_exit, seqs


async def test_dispatcher_stores_publishes_and_acknowledges() -> None:
    """Each verdict is in the journal, at the sink, confirmed, and its source is told."""
    async with an_exit() as out:
        for seq in range(1, 101):
            await out.send(seq)
        await out.sink.wait_for(100)
        await out.idle()
    assert seqs(out) == list(range(1, 101))
    assert await out.journal.last_seq() == 100
    assert out.journal.confirmations == {"recorder": 100}
    assert sorted(out.acknowledged) == sorted(f"e{seq}" for seq in range(1, 101))


async def test_dispatcher_acknowledges_what_is_stored_though_the_sink_is_away() -> None:
    """Stored durably is enough: the source need not wait for a broker."""
    async with an_exit() as out:
        out.sink.down = True
        await out.send(1)
        await eventually(lambda: out.acknowledged == ["e1"])


async def test_dispatcher_publishes_though_the_journal_fails() -> None:
    """A full disk costs no gate decision; the broker's confirmation then stands for the journal."""
    journal = MemoryJournal()
    journal.failing = True
    async with an_exit(journal) as out:
        await out.send(1)
        await out.sink.wait_for(1)
        await out.idle()
        assert out.acknowledged == ["e1"]
        assert out.health.fault == "disk full"


async def test_dispatcher_does_not_acknowledge_what_is_nowhere() -> None:
    """Neither stored nor confirmed: the source must send it again."""
    journal = MemoryJournal()
    journal.failing = True
    async with an_exit(journal) as out:
        out.sink.down = True
        await out.send(1)
        await eventually(lambda: out.sink.attempts > 0)
        assert out.acknowledged == []
        out.sink.down = False
        await eventually(lambda: out.acknowledged == ["e1"])


async def test_dispatcher_catches_up_when_the_journal_works_again() -> None:
    """What a full disk kept from the journal is stored when there is room, and acknowledged then."""
    journal = MemoryJournal()
    journal.failing = True
    async with an_exit(journal) as out:
        out.sink.down = True
        for seq in (1, 2, 3):
            await out.send(seq)
        await eventually(lambda: out.health.fault == "disk full")
        journal.failing = False
        await eventually(lambda: out.acknowledged == ["e1", "e2", "e3"])
        assert journal.highest_seq == 3
        assert out.health.fault is None


async def test_dispatcher_publishes_in_order_though_the_disk_hangs() -> None:
    """A verdict waits for a disk only so long as its deadline, and those behind it, allow."""
    journal = SlowJournal()
    async with an_exit(journal) as out:
        for seq in range(1, 6):
            await out.send(seq)
        await out.sink.wait_for(5)
        assert seqs(out) == [1, 2, 3, 4, 5]
        assert out.health.fault == "the journal does not answer"
        journal.disk.set()
        await eventually(lambda: journal.highest_seq == 5 and out.health.fault is None)


async def test_dispatcher_does_not_wait_for_a_disk_where_a_crash_erases_nothing() -> None:
    """A verdict that is secured leaves at once, however long the disk takes; its source is told when it is stored."""
    journal = SlowJournal()
    journal.secures = True
    async with an_exit(journal) as out:
        await out.send(1)
        await out.sink.wait_for(1)
        assert (journal.highest_seq, out.health.fault) == (0, None)
        journal.disk.set()
        await out.idle()
        assert (journal.highest_seq, out.acknowledged) == (1, ["e1"])


async def test_dispatcher_stores_before_it_publishes() -> None:
    """What the gate hears must not be decided anew after a crash: the journal comes first where there is time."""
    journal = SlowJournal()
    async with an_exit(journal) as out:
        await out.send(1)
        asyncio.get_running_loop().call_later(0.05, journal.disk.set)
        await out.sink.wait_for(1)
        assert journal.highest_seq == 1


async def test_dispatcher_is_idle_only_once_all_is_stored() -> None:
    """Confirmed by the sink is not enough: an orderly end must leave nothing to a log that goes with the machine."""
    journal = SlowJournal()
    journal.secures = True
    async with an_exit(journal) as out:
        await out.send(1)
        await eventually(lambda: out.acknowledged == ["e1"])
        assert not out.dispatcher.idle
        journal.disk.set()
        await out.idle()


async def test_dispatcher_gives_up_none_that_is_secured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many to store the oldest are not recorded; those in the log of the journal keep their place."""
    monkeypatch.setattr("service.dispatch._UNSTORED", 10)
    journal = SlowJournal()
    async with an_exit(journal) as out:
        journal.secures = True
        for seq in range(1, 6):
            await out.send(seq)
        journal.secures = False
        for seq in range(6, 21):
            await out.send(seq)
        waiting = list(out.dispatcher._unstored)
        assert waiting[:5] == [1, 2, 3, 4, 5]
        assert (len(waiting), waiting[-1]) == (10, 20)


async def test_dispatcher_does_not_store_a_repeated_verdict() -> None:
    """A repeat is published once and changes nothing in the journal."""
    async with an_exit() as out:
        await out.send(1)
        await out.sink.wait_for(1)
        await out.send(1, repeated=True)
        await out.sink.wait_for(2)
        await out.idle()
    assert [answer.repeated for answer in out.sink.published] == [False, True]
    assert out.journal.confirmations == {"recorder": 1}


async def test_a_repeat_is_acknowledged_no_sooner_than_the_first() -> None:
    """Neither stored nor confirmed: were the repeat acknowledged, its source would not send it again after a crash."""
    journal = MemoryJournal()
    journal.failing = True
    async with an_exit(journal) as out:
        out.sink.down = True
        await out.send(1)
        await eventually(lambda: out.sink.attempts > 0)
        await out.send(1, repeated=True)
        await eventually(lambda: not out.dispatcher._queue)
        for _ in range(20):  # all that is about to happen
            await asyncio.sleep(0)
        assert out.acknowledged == []
        journal.failing = False
        await eventually(lambda: out.acknowledged == ["e1", "e1"])
