"""What the journal tells an outbox late: not over what is new, and not past what is still to come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from service.errors import JournalError
from service.ports import Answer, JournalEntry
from tests.support.line import RecordingSink
from tests.support.memory_journal import MemoryJournal
from tests.support.waiting import eventually, loop_turns
from tests.support.way_out import an_exit, seqs, stored


class MuteJournal(MemoryJournal):
    """Cannot tell how far a sink is, or what is stored, until it is `heard`; says so, or hangs."""

    def __init__(self, *, hangs: bool = False) -> None:
        super().__init__()
        self.heard = asyncio.Event()
        self.mute = {"confirmed", "answered"}
        self.hangs = hangs
        self.asked = asyncio.Event()

    async def confirmed(self, sink: str) -> int | None:
        await self._tell("confirmed")
        return await super().confirmed(sink)

    async def answered(self, *, after: int, limit: int) -> tuple[Sequence[JournalEntry], int | None]:
        await self._tell("answered")
        return await super().answered(after=after, limit=limit)

    async def _tell(self, what: str) -> None:
        if what in self.mute and not self.heard.is_set():
            self.asked.set()
            if not self.hangs:
                raise JournalError("the database is locked")
            await self.heard.wait()


@pytest.mark.parametrize("mute", ["confirmed", "answered"])
async def test_outbox_delivers_what_the_journal_could_not_tell_at_start(mute: str) -> None:
    """What is new goes out meanwhile, and is not noted over what the sink still lacks; the next run repeats nothing."""
    journal = MuteJournal()
    journal.mute = {mute}
    await stored(journal, 1, 2, 3)
    await journal.confirm("recorder", 1)
    async with an_exit(journal) as out:
        for seq in (4, 5):
            await out.send(seq)
        await out.sink.wait_for(2)
        await out.idle()
        assert (seqs(out), journal.confirmations) == ([4, 5], {"recorder": 1})
        journal.heard.set()
        await out.sink.wait_for(4)
        await eventually(lambda: journal.confirmations == {"recorder": 5})
    assert seqs(out) == [4, 5, 2, 3]
    async with an_exit(journal) as restarted:
        await restarted.send(6)
        await restarted.sink.wait_for(1)
    assert seqs(restarted) == [6]


@pytest.mark.parametrize("earlier", [0, 2])
async def test_outbox_of_a_new_sink_repeats_no_history_that_is_told_late(earlier: int) -> None:
    """The journal has never heard of the sink, or of any run, as it tells later; what is new is noted as ever."""
    journal = MuteJournal()
    await stored(journal, *range(1, earlier + 1))
    async with an_exit(journal) as out:
        await out.send(earlier + 1)
        await out.sink.wait_for(1)
        journal.heard.set()
        await eventually(lambda: journal.confirmations == {"recorder": earlier + 1})
    assert seqs(out) == [earlier + 1]


async def test_what_is_new_does_not_wait_for_a_journal_that_hangs() -> None:
    """It came while the journal was asked and is stored already; it leaves from memory, before the journal answers."""
    journal = MuteJournal(hangs=True)
    journal.mute = {"answered"}
    await stored(journal, 1, 2)
    await journal.confirm("recorder", 0)
    async with an_exit(journal) as out:
        await journal.asked.wait()
        for seq in (3, 4):
            await out.send(seq)
        await out.sink.wait_for(2)
        journal.heard.set()
        await eventually(lambda: journal.confirmations == {"recorder": 4})
    assert seqs(out) == [3, 4, 1, 2]


async def test_outbox_reads_late_only_what_memory_did_not_hold() -> None:
    """A long outage of the sink, a journal that stored a part and cannot be read when it ends: each goes out once."""
    journal = MuteJournal()
    journal.mute = {"answered"}
    async with an_exit(journal) as out:
        out.sink.down = True
        for seq in range(1, 1401):
            if seq == 1301:
                await eventually(lambda: not out.dispatcher._unstored)
                journal.failing = True
            await out.send(seq)
        await eventually(lambda: out.outbox._spilled == 1400)
        out.sink.down = False
        await eventually(lambda: 1400 in seqs(out))
        assert out.outbox._confirmed == 1000
        journal.failing = False
        journal.heard.set()
        await out.sink.wait_for(1400)
        await eventually(lambda: journal.confirmations == {"recorder": 1400})
    assert sorted(seqs(out)) == list(range(1, 1401))
    assert seqs(out)[:1000] == list(range(1, 1001))


class BusySink(RecordingSink):
    """Takes a moment for each; knows how many of an earlier run were on their way side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.most_late = 0, 0

    async def publish(self, answer: Answer) -> None:
        is_late = answer.verdict.seq <= 300
        self.late += is_late
        self.most_late = max(self.most_late, self.late)
        await loop_turns(10)
        await super().publish(answer)
        self.late -= is_late


async def test_what_comes_late_lets_what_is_new_pass() -> None:
    """One at a time of a long backlog is in the way."""
    journal, sink = MuteJournal(), BusySink()
    await stored(journal, *range(1, 301))
    await journal.confirm("recorder", 0)
    async with an_exit(journal, sink) as out:
        await out.send(301)
        await out.sink.wait_for(1)
        journal.heard.set()
        await out.sink.wait_for(11)
        await out.send(302)
        await out.sink.wait_for(302)
    assert seqs(out).index(302) < 100
    assert [seq for seq in seqs(out) if seq <= 300] == list(range(1, 301))
    assert sink.most_late == 1


class HoldingSink(RecordingSink):
    """Does not confirm one verdict until it may."""

    def __init__(self, seq: int) -> None:
        super().__init__()
        self.seq, self.may = seq, asyncio.Event()
        self.asked = asyncio.Event()

    async def publish(self, answer: Answer) -> None:
        if answer.verdict.seq == self.seq:
            self.asked.set()
            await self.may.wait()
        await super().publish(answer)


async def test_what_comes_late_is_noted_only_as_far_as_it_came() -> None:
    """A crash in the middle of it: the next run delivers the rest, though what is new was confirmed before."""
    journal, sink = MuteJournal(), HoldingSink(3)
    journal.mute = {"answered"}
    await stored(journal, 1, 2, 3)
    await journal.confirm("recorder", 1)
    async with an_exit(journal, sink) as out:
        await out.send(4)
        await sink.wait_for(1)
        journal.heard.set()
        await sink.asked.wait()
        await eventually(lambda: journal.confirmations != {"recorder": 1})
        assert (seqs(out), journal.confirmations) == ([4, 2], {"recorder": 2})
        sink.may.set()
        await eventually(lambda: journal.confirmations == {"recorder": 4})
    assert seqs(out) == [4, 2, 3]


async def test_number_that_was_never_used_holds_up_no_confirmation() -> None:
    """A gap in the numbers is no verdict that waits."""
    async with an_exit() as out:
        for seq in (1, 3, 7):
            await out.send(seq)
        await eventually(lambda: out.journal.confirmations == {"recorder": 7})
    assert seqs(out) == [1, 3, 7]
