"""The way of a verdict to one sink."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from schemas.messages import Gate
from service.deadline import Margin
from service.errors import SinkRefused, SinkUnavailable
from service.outbox import Outbox
from service.ports import Answer
from tests.support.line import CLOCK, RecordingSink, arrival
from tests.support.memory_journal import MemoryJournal, SlowJournal
from tests.support.verdicts import failed_answer
from tests.support.waiting import eventually, loop_turns
from tests.support.way_out import an_exit, seqs, stored


async def test_outbox_delivers_in_order_after_the_sink_comes_back() -> None:
    """While a sink is away verdicts wait; then they go out in the order of seq, each once."""
    async with an_exit() as out:
        out.sink.down = True
        for seq in range(1, 6):
            await out.send(seq)
        await eventually(lambda: out.sink.attempts > 0)
        out.sink.down = False
        await out.send(6)
        await out.sink.wait_for(6)
        await out.idle()
    assert seqs(out) == [1, 2, 3, 4, 5, 6]
    assert out.journal.confirmations == {"recorder": 6}


class StubbornSink(RecordingSink):
    """Takes each verdict only after so many tries, and knows of nothing that is wrong with itself."""

    def __init__(self, tries: int) -> None:
        super().__init__()
        self.tries = self.left = tries

    async def publish(self, answer: Answer) -> None:
        if self.left:
            self.left -= 1
            raise SinkUnavailable("no acknowledgement")
        self.left = self.tries
        await super().publish(answer)


async def test_outbox_tries_for_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a weekend, too: pauses grow up to a bound, and how often it has failed is no number that overflows."""
    monkeypatch.setattr("service.outbox._RETRY_S", (0.0, 0.0))
    async with an_exit(sink=StubbornSink(1100)) as out:
        await out.send(1)
        await out.sink.wait_for(1)


async def test_outbox_tries_again_soon_after_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it had to wait before: a broker that was away for a day may only hiccup now."""
    monkeypatch.setattr("service.outbox._RETRY_S", (1e-9, 3600.0))
    async with an_exit(sink=StubbornSink(25)) as out:
        for seq in (1, 2):
            await out.send(seq)
            await out.sink.wait_for(seq)


class FlappingSink(RecordingSink):
    """Fails at once at the first verdict, and at the second one as soon as it is told to; once each."""

    def __init__(self) -> None:
        super().__init__()
        self.fail = asyncio.Event()
        self.tried: set[int] = set()

    async def publish(self, answer: Answer) -> None:
        seq = answer.verdict.seq
        if seq <= 2 and seq not in self.tried:
            self.tried.add(seq)
            if seq == 2:
                await self.fail.wait()
            raise SinkUnavailable("connection lost")
        await super().publish(answer)


async def test_outbox_lets_nothing_past_what_may_still_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on its way beside a verdict that failed is waited for before anything is tried again."""
    monkeypatch.setattr("service.outbox._RETRY_S", (0.0, 0.0))
    sink = FlappingSink()
    async with an_exit(sink=sink) as out:
        for seq in (1, 2):
            await out.send(seq)
        await eventually(lambda: sink.tried == {1, 2})
        await out.send(3)
        await eventually(lambda: out.acknowledged == ["e1", "e2", "e3"])
        await loop_turns(100)
        sink.fail.set()
        await sink.wait_for(3)
    assert seqs(out) == [1, 2, 3]


async def test_outbox_leaves_to_the_journal_what_is_stored() -> None:
    """A sink that is away for long fills no memory with what the journal has, and nothing is given up."""
    journal = MemoryJournal()
    journal.secures = True
    async with an_exit(journal) as out:
        out.sink.down = True
        with capture_logs() as logs:
            for seq in range(1, 2501):
                await out.send(seq)
                if seq % 100 == 0:
                    await eventually(lambda: not out.dispatcher._unstored)
        assert len(out.outbox._unstored) < 500
        out.sink.down = False
        await out.sink.wait_for(2500)
        await out.idle()
    assert seqs(out) == list(range(1, 2501))
    assert not [entry for entry in logs if entry["event"] == "verdict_given_up"]


async def test_outbox_loses_nothing_that_is_stored_late() -> None:
    """A verdict that spills while it is not stored yet still comes in its turn."""
    journal = SlowJournal()
    async with an_exit(journal) as out:
        out.sink.down = True
        for seq in range(1, 1101):
            await out.send(seq)
        await eventually(lambda: out.outbox._spilled == 1100)
        out.sink.down = False
        await out.sink.wait_for(1100)
        journal.disk.set()
        await out.idle()
    assert seqs(out) == list(range(1, 1101))


class PickySink(RecordingSink):
    """Refuses one verdict, whoever asks how often."""

    refused = 0

    async def publish(self, answer: Answer) -> None:
        if answer.verdict.seq == 2:
            self.refused += 1
            raise SinkRefused("Not authorized")
        await super().publish(answer)


async def test_outbox_passes_over_what_is_refused() -> None:
    """It is offered once; those behind it wait for nobody, and whoever asked is told that it is stored, not heard."""
    sink = PickySink()
    async with an_exit(sink=sink) as out:
        out.journal.failing = True
        for seq in (1, 2, 3):
            await out.send(seq)
        await out.sink.wait_for(2)
        await eventually(lambda: out.acknowledged == ["e1", "e3"])
        out.journal.failing = False
        await eventually(lambda: out.acknowledged == ["e1", "e3", "e2"])
        await out.idle()
    assert (seqs(out), sink.refused) == ([1, 3], 1)


class SlowNotes(MemoryJournal):
    """Finishes noting what a sink has confirmed when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()

    async def confirm(self, sink: str, seq: int) -> None:
        await self.may.wait()
        await super().confirm(sink, seq)


async def test_outbox_delivers_though_confirmations_are_noted_late() -> None:
    """The next verdict does not wait for the record of the one before; what was confirmed meanwhile is noted next."""
    journal = SlowNotes()
    async with an_exit(journal) as out:
        for seq in (1, 2, 3):
            await out.send(seq)
            await out.sink.wait_for(seq)
        assert (seqs(out), journal.confirmations) == ([1, 2, 3], {})
        journal.may.set()
        await eventually(lambda: journal.confirmations == {"recorder": 3})


async def test_outbox_takes_up_what_the_last_run_left_unconfirmed() -> None:
    """Verdicts that a crash kept from the sink go out first, in order; their PASS has its way before it like any."""
    journal = MemoryJournal()
    async with an_exit(journal) as out:
        await out.send(1)
        await out.sink.wait_for(1)
        await out.idle()
        out.sink.down = True
        for seq in (2, 3):
            await out.send(seq)
        await eventually(lambda: journal.highest_seq == 3)
    async with an_exit(journal) as restarted:
        await restarted.send(4)
        await restarted.sink.wait_for(3)
        await restarted.idle()
    assert seqs(restarted) == [2, 3, 4]
    assert [answer.transit_s for answer in restarted.sink.published[:2]] == [0.0125, 0.0125]
    assert journal.confirmations == {"recorder": 4}


async def test_outbox_takes_up_what_a_sink_missed_from_its_first_run_on() -> None:
    """A station's first run may crash, too, before its broker was ever there."""
    journal = MemoryJournal()
    async with an_exit(journal) as out:
        out.sink.down = True
        await out.send(1)
        await eventually(lambda: journal.highest_seq == 1)
    async with an_exit(journal) as restarted:
        await restarted.sink.wait_for(1)
    assert seqs(restarted) == [1]


async def test_outbox_gives_correlation_data_with_what_it_takes_from_the_journal() -> None:
    """A verdict that a later run delivers is found by whoever asked for it, as one that was said at once."""
    journal = MemoryJournal()
    await journal.confirm("recorder", 0)
    for seq, asked in enumerate([b"\x00\xff", None], start=1):
        event = replace(arrival(f"e{seq}"), correlation_data=asked)
        await journal.store([(failed_answer(event, seq), event)])
    async with an_exit(journal) as restarted:
        answers = await restarted.sink.wait_for(2)
    assert [answer.asker.correlation_data for answer in answers] == [b"\x00\xff", None]


async def test_outbox_shows_what_is_new_where_there_is_no_journal() -> None:
    """A page that was away for long gets everything that memory holds, and goes on."""
    sink = RecordingSink()
    outbox = Outbox(sink, journal=None, clock=CLOCK)
    await outbox.recover(0)
    sink.down = True
    running = asyncio.create_task(outbox.run())
    stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    stored.set_result(True)
    for seq in range(1, 1501):
        outbox.put(failed_answer(arrival(f"e{seq}"), seq, left_s=60), stored=stored)
    sink.down = False
    await sink.wait_for(1500)
    running.cancel()
    assert [answer.verdict.seq for answer in sink.published] == list(range(1, 1501))


async def test_outbox_of_a_new_sink_does_not_repeat_history() -> None:
    """A sink that was never heard of starts with what is new."""
    journal = MemoryJournal()
    async with an_exit(journal) as out:
        await out.send(1)
        await out.sink.wait_for(1)
        await out.idle()
    journal.confirmations.clear()
    async with an_exit(journal) as out:
        await out.send(2)
        await out.sink.wait_for(1)
    assert seqs(out) == [2]


async def test_outbox_spills_to_the_journal_and_returns() -> None:
    """However long a sink is away, memory holds a bounded number; the rest comes back from the journal in order."""
    async with an_exit() as out:
        out.sink.down = True
        for seq in range(1, 1501):
            await out.send(seq)
        await eventually(lambda: out.journal.highest_seq == 1500)
        assert out.outbox.waiting <= 1100
        out.sink.down = False
        await out.sink.wait_for(1500)
        await out.idle()
    assert seqs(out) == list(range(1, 1501))


class DefectiveSink(RecordingSink):
    """Fails by a defect at one verdict, so often."""

    def __init__(self, defect: BaseException, seq: int, times: int) -> None:
        super().__init__()
        self.defect, self.seq, self.times = defect, seq, times

    async def publish(self, answer: Answer) -> None:
        if answer.verdict.seq == self.seq and self.times:
            self.times -= 1
            raise self.defect
        await super().publish(answer)


@pytest.mark.parametrize("defect", [ValueError("zip() argument 2 is shorter"), asyncio.CancelledError()])
async def test_outbox_survives_a_defect_of_its_sink(defect: BaseException) -> None:
    """The verdict at which it fails is passed over where others are behind it; nothing is kept back or out of order."""
    sink = DefectiveSink(defect, 3, 1000)
    async with an_exit(sink=sink) as out:
        with capture_logs() as logs:
            for seq in range(1, 301):
                await out.send(seq)
            await sink.wait_for(299)
            await out.idle()
    assert seqs(out) == [1, 2, *range(4, 301)]
    assert out.journal.confirmations == {"recorder": 300}
    assert [entry["seq"] for entry in logs if entry["event"] == "publish_crashed"] == [3]


class LateDefect(RecordingSink):
    """Fails at the first verdict only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fail = asyncio.Event()
        self.tries = 0

    async def publish(self, answer: Answer) -> None:
        if answer.verdict.seq == 1:
            self.tries += 1
            await self.fail.wait()
            raise ValueError("a defect")
        await super().publish(answer)


async def test_a_verdict_is_not_tried_again_behind_one_that_is_out() -> None:
    """Tags would go back to a part that has long passed."""
    sink = LateDefect()
    async with an_exit(sink=sink) as out:
        await out.send(1)
        await out.send(2)
        await sink.wait_for(1)
        await eventually(lambda: out.outbox._highest == 2)
        sink.fail.set()
        await out.idle()
    assert (seqs(out), sink.tries) == ([2], 1)
    assert out.journal.confirmations == {"recorder": 2}


@pytest.mark.parametrize("times", [1, 1000])
async def test_a_verdict_alone_is_tried_again_after_a_defect(times: int) -> None:
    """A stray cancellation costs no gate command; what fails every time is passed over."""
    sink = DefectiveSink(asyncio.CancelledError(), 1, times)
    async with an_exit(sink=sink) as out:
        await out.send(1)
        await eventually(lambda: sink.times < times and not out.outbox.waiting)
        await out.send(2)
        await sink.wait_for(2 if times == 1 else 1)
        await out.idle()
    assert seqs(out) == ([1, 2] if times == 1 else [2])
    assert sink.times == (0 if times == 1 else 998)  # the gate commands behind it must not wait for a third try


async def test_repeats_do_not_pile_up_before_a_sink_that_is_away() -> None:
    """Only so many wait, whoever asks again asks once more; what is new goes out as soon as it is back."""
    async with an_exit() as out:
        await out.send(1)
        await out.sink.wait_for(1)
        out.sink.down = True
        for _ in range(2000):
            await out.send(1, repeated=True)
        await out.send(2)
        await eventually(lambda: out.sink.attempts > 1)
        assert out.outbox.waiting < 600
        out.sink.down = False
        await eventually(lambda: 2 in seqs(out))
    assert not out.outbox._unstored, "what is new had its place in memory"


async def test_outbox_delivers_what_lies_behind_damaged_records() -> None:
    """A whole page of them, and one on a page of others: each costs that verdict alone."""
    journal = MemoryJournal()
    await stored(journal, *range(1, 2501))
    await journal.confirm("recorder", 0)
    journal.rotten = {*range(1, 1001), 1500}
    async with an_exit(journal) as out:
        await out.sink.wait_for(1499)
        await out.send(2501)
        await eventually(lambda: journal.confirmations == {"recorder": 2501})
    assert seqs(out) == [*range(1001, 1500), *range(1501, 2502)]


@pytest.mark.parametrize(
    ("left_s", "replayed", "gate"),
    [(60.0, False, Gate.PASS), (-1.0, False, None), (None, False, None), (60.0, True, None)],
)
async def test_outbox_lets_nothing_pass_that_an_earlier_run_left_too_long(
    left_s: float | None, gate: Gate | None, *, replayed: bool
) -> None:
    """A PASS leaves before it was due, by this start of the machine, and never on a part that was only replayed."""
    journal = MemoryJournal()
    event = arrival(replayed=replayed)
    answer = failed_answer(event, 1)
    passed = answer.verdict.model_copy(update={"gate": Gate.PASS})
    await journal.store([(replace(answer, verdict=passed, verdict_json=passed.to_json()), event)])
    await journal.confirm("recorder", 0)
    row = journal.rows["e1"]
    row.entry = replace(row.entry, deadline_monotonic=None if left_s is None else CLOCK.monotonic() + left_s)
    async with an_exit(journal) as out:
        (left,) = await out.sink.wait_for(1)
    assert left.gate_at(CLOCK.monotonic()) is gate


async def test_outbox_leaves_in_the_journal_what_is_too_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that comes back after a year gets the last verdicts: no gate and no screen waits for the others."""
    monkeypatch.setattr("service.outbox._REDELIVERED", 3)
    journal = MemoryJournal()
    await stored(journal, *range(1, 9))
    await journal.confirm("recorder", 1)
    async with an_exit(journal) as out:
        await out.sink.wait_for(3)
        await eventually(lambda: journal.confirmations == {"recorder": 8})
    assert seqs(out) == [6, 7, 8]


class NotingMargin(Margin):
    """Notes how often there was something to learn."""

    def __init__(self) -> None:
        super().__init__("auto", clock=CLOCK)
        self.learned = 0

    def observe(self, *, waited_s: float, transit_s: float) -> None:  # noqa: ARG002 - as the parent's
        self.learned += 1


async def test_margin_learns_from_what_left_at_once_and_from_nothing_else() -> None:
    """What waited for a sink that was away, what is only repeated, or what an earlier run decided tells nothing."""
    sink, margin = RecordingSink(), NotingMargin()
    outbox = Outbox(sink, journal=None, clock=CLOCK, margin=margin)
    await outbox.recover(0)
    running = asyncio.create_task(outbox.run())
    is_stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    is_stored.set_result(True)
    new, waits, repeated, earlier = (
        replace(failed_answer(arrival(f"e{seq}"), seq, left_s=60), decided_monotonic=CLOCK.monotonic())
        for seq in range(1, 5)
    )
    outbox.put(new, stored=is_stored)
    await sink.wait_for(1)
    sink.down = True
    outbox.put(waits, stored=is_stored)
    await eventually(lambda: sink.attempts == 2)
    sink.down = False
    await sink.wait_for(2)
    outbox.put(replace(repeated, repeated=True), stored=is_stored)
    outbox.put(replace(earlier, decided_monotonic=None), stored=is_stored)
    await sink.wait_for(4)
    await eventually(lambda: not outbox.waiting)
    running.cancel()
    assert margin.learned == 1
