"""The way of a verdict out: made safe, handed on, acknowledged."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from service.ports import Answer, Arrival
from tests.support.clock import HandClock
from tests.support.line import arrival
from tests.support.memory_journal import MemoryJournal, SlowJournal
from tests.support.verdicts import failed_answer
from tests.support.waiting import eventually, loop_turns
from tests.support.way_out import an_exit, seqs


def due(seq: int, at: float) -> tuple[Answer, Arrival]:
    """Return a verdict that the gate must have been told at `at`."""
    event = arrival(f"e{seq}")
    return replace(failed_answer(event, seq), deadline_monotonic=at), event


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
        # at that very moment: whoever waits for it closes the transports then
        await eventually(lambda: out.dispatcher.idle, every_s=0)
        assert out.acknowledged == ["e1"]
        assert out.health.fault == "disk full"


async def test_dispatcher_waits_no_more_for_a_journal_that_says_that_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as it says so: with a hanging one a verdict would have waited longer."""
    monkeypatch.setattr("service.dispatch._PATIENCE_S", 3600.0)
    journal = MemoryJournal()
    journal.failing = True
    async with an_exit(journal) as out:
        await out.send(1)
        await out.sink.wait_for(1)


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


async def test_dispatcher_takes_the_word_of_no_other_transport_than_that_of_the_source() -> None:
    """What a PLC has confirmed does not tell a broker that its camera was heard; what is stored stands for all."""
    journal = MemoryJournal()
    journal.failing = True
    async with an_exit(journal) as out:
        answer, event = due(1, at=0.0)
        event = replace(event, source="another", answered=lambda: out.acknowledged.append("e1"))
        out.dispatcher.dispatch(answer, event)
        await out.sink.wait_for(1)
        await eventually(lambda: not out.outbox.waiting)
        await loop_turns(20)
        assert out.acknowledged == []
        journal.failing = False
        await eventually(lambda: out.acknowledged == ["e1"])


async def test_dispatcher_keeps_no_picture_with_a_verdict() -> None:
    """Ten thousand may wait for a full disk, and a picture may have sixteen megabytes."""
    async with an_exit(SlowJournal()) as out:
        answer, event = due(1, at=0.0)
        out.dispatcher.dispatch(answer, replace(event, frame_bytes=b"a picture"))
        (waiting,) = out.dispatcher._unstored.values()
        assert waiting.arrival == event


async def test_dispatcher_says_that_it_stands_still() -> None:
    """A verdict that is not handed on for a second: the heartbeat must tell the PLC."""
    clock = HandClock()
    async with an_exit(SlowJournal(), clock=clock) as out:
        assert not out.dispatcher.stalled
        out.dispatcher.dispatch(*due(1, at=60.0))
        clock.seconds = 1.0
        assert not out.dispatcher.stalled
        clock.seconds = 1.1
        assert out.dispatcher.stalled


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


async def test_dispatcher_lets_go_what_is_urgent_and_what_is_before_it() -> None:
    """A margin before its deadline a verdict leaves, stored or not; it goes past none whose time is longer."""
    clock = HandClock()
    async with an_exit(SlowJournal(), clock=clock) as out:
        out.dispatcher.dispatch(*due(1, at=60.0))
        out.dispatcher.dispatch(*due(2, at=0.1))
        clock.seconds = 0.07
        await loop_turns(20)
        assert seqs(out) == []
        clock.seconds = 0.08  # the margin of 25 ms has begun
        await out.sink.wait_for(2)
    assert seqs(out) == [1, 2]


async def test_dispatcher_has_a_moment_for_the_disk_however_late_it_is() -> None:
    """What is said before it is stored may be decided again after a crash, and a healthy disk takes milliseconds."""
    journal = SlowJournal()
    async with an_exit(journal, clock=HandClock()) as out:
        out.dispatcher.dispatch(*due(1, at=-60.0))
        await loop_turns(20)
        assert seqs(out) == []
        journal.disk.set()
        await out.sink.wait_for(1)
        assert journal.highest_seq == 1


async def test_dispatcher_tells_whose_number_was_used_before() -> None:
    """Its verdict is never stored, and is not acknowledged for that; those beside it in one commit are."""
    async with an_exit() as out:
        other = arrival("of another run")
        await out.journal.store([(failed_answer(other, 2), other)])
        out.sink.down = True
        stored = [out.dispatcher.dispatch(*due(seq, at=0.0)) for seq in (1, 2, 3)]
        assert await asyncio.gather(*stored) == [True, False, True]
        assert (out.journal.highest_seq, out.journal.rows["e2"].seq) == (3, None)


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
        await loop_turns(20)
        assert out.acknowledged == []
        journal.failing = False
        await eventually(lambda: out.acknowledged == ["e1", "e1"])
