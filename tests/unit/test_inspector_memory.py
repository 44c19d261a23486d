"""An event that comes again, and what an earlier run left: nothing is decided twice, and nothing stays unanswered."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from schemas.messages import Decision, Gate, Reason
from schemas.settings import GateSettings, JournalSettings, Settings
from service.errors import JournalError
from tests.support.inspecting import PATIENT, a_line
from tests.support.journals import answered, opened, run_beside
from tests.support.line import arrival
from tests.support.waiting import eventually


async def test_inspector_repeats_the_first_verdict_byte_for_byte() -> None:
    """The same event id again gets the same bytes and costs no inference."""
    async with a_line() as line:
        first = await line.ask(arrival("same", trigger_id=7))
        again = await line.ask(arrival("same", trigger_id=8))
    assert again.verdict_json == first.verdict_json
    assert (first.repeated, again.repeated) == (False, True)
    assert (first.asker.trigger_id, again.asker.trigger_id) == (7, 8)
    assert line.pipeline.judged == 1


async def test_inspector_repeats_from_the_journal_after_a_restart() -> None:
    """What another process answered is repeated, and numbering goes on where it ended."""
    async with a_line() as line:
        first = await line.ask(arrival("same"))
        await line.journal.store([(first, arrival("same"))])
        async with a_line(journal=line.journal) as restarted:
            await restarted.inspector.take_up_numbering()
            await restarted.inspector.recover()
            again = await restarted.ask(arrival("same"))
            assert again.verdict_json == first.verdict_json
            assert restarted.pipeline.judged == 0
            assert (await restarted.ask(arrival("new"))).verdict.seq == 2


@pytest.mark.parametrize(("due_in_s", "gate"), [(60, Gate.PASS), (-1, None)])
async def test_a_repetition_does_not_renew_the_deadline(due_in_s: float, gate: Gate | None) -> None:
    """A part passes by when it was first asked for: its id may come again, with another part in front of the gate."""
    async with a_line() as line:
        first = await line.ask(arrival("same"))
        await line.journal.store([(first, arrival("same"))])
        row = line.journal.rows["same"]
        row.entry = replace(row.entry, deadline_monotonic=time.monotonic() + due_in_s)
        async with a_line(journal=line.journal) as restarted:
            await restarted.inspector.recover()
            again = await restarted.ask(arrival("same"))
    assert again.verdict_json == first.verdict_json
    assert again.gate_at(time.monotonic()) is gate


async def test_a_repetition_that_is_due_sooner_lets_nothing_pass_later() -> None:
    """Whoever asks again may have less time than the first: a PASS would come when their part has gone."""
    async with a_line() as line:
        first = await line.ask(arrival("same"))
        await line.journal.store([(first, arrival("same"))])
        async with a_line(journal=line.journal) as restarted:
            await restarted.inspector.recover()
            again = await restarted.ask(arrival("same", deadline_ms=100, age_ms=5000))
    assert again.verdict_json == first.verdict_json
    assert (first.gate_at(time.monotonic()), again.gate_at(time.monotonic())) == (Gate.PASS, None)


async def test_inspector_judges_nothing_that_only_the_journal_knows() -> None:
    """Too long ago for memory: the frame is made ready while the journal is asked, and costs no inference."""
    async with a_line() as line:
        first = await line.ask(arrival("same"))
        await line.journal.store([(first, arrival("same"))])
        async with a_line(journal=line.journal) as restarted:  # and none that recovers
            assert (await restarted.ask(arrival("same"))).verdict_json == first.verdict_json
            await eventually(lambda: restarted.compute.in_work == 0)
            assert (restarted.loader.loads, restarted.pipeline.judged) == (1, 0)


async def test_inspector_forgets_the_oldest_of_earlier_runs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a source is likely to ask for again was answered last."""
    monkeypatch.setattr("service.answer_cache._REMEMBERED", 1)
    monkeypatch.setattr("service.answer_cache.EARLIER", 3)
    async with a_line() as line:
        for number in range(3):
            answer = await line.ask(arrival(f"old{number}"))
            await line.journal.store([(answer, arrival(f"old{number}"))])
        async with a_line(journal=line.journal) as restarted:
            await restarted.inspector.take_up_numbering()
            await restarted.inspector.recover()
            for number in range(2):
                await restarted.ask(arrival(f"new{number}"))
            line.journal.failing = True
            verdict = (await restarted.ask(arrival("old2"))).verdict
    assert (verdict.reason, verdict.gate) == (Reason.INTERNAL_ERROR, Gate.REJECT)


async def test_inspector_rejects_what_it_answered_and_nobody_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that was away too long to catch up: the event is not decided anew, which might end otherwise."""
    monkeypatch.setattr("service.answer_cache._REMEMBERED", 3)
    async with a_line(Settings(deadline=PATIENT, gate=GateSettings(on_error=Gate.PASS))) as line:
        line.stored = False
        assert (await line.ask(arrival("same"))).verdict.gate is Gate.PASS
        for number in range(5):
            await line.ask(arrival(f"e{number}"))
        loads = line.loader.loads
        verdict = (await line.ask(arrival("same"))).verdict
        assert (verdict.reason, verdict.gate) == (Reason.INTERNAL_ERROR, Gate.REJECT)
        assert line.loader.loads == loads


async def test_inspector_knows_an_event_of_an_earlier_run_before_it_loads_its_frame() -> None:
    """A broker that hands everything over once more after a restart costs no frame and no inference."""
    async with a_line() as line:
        first = await line.ask(arrival("same"))
        await line.journal.store([(first, arrival("same"))])
        async with a_line(journal=line.journal) as restarted:
            await restarted.inspector.recover()
            assert (await restarted.ask(arrival("same"))).verdict_json == first.verdict_json
            assert restarted.loader.loads == 0
            line.journal.failing = True
            silent = await restarted.ask(arrival("same again"))
            assert silent.verdict.decision is Decision.OK  # never seen: judged although the journal fails


async def test_inspector_does_not_contradict_a_verdict_that_the_journal_cannot_read() -> None:
    """What an earlier run answered is not judged anew, which might end otherwise: it is an error that rejects."""
    async with a_line() as line:
        first = await line.ask(arrival("same"))
        await line.journal.store([(first, arrival("same"))])
        async with a_line(journal=line.journal) as restarted:
            await restarted.inspector.recover()
            line.journal.failing = True
            verdict = (await restarted.ask(arrival("same"))).verdict
            assert (verdict.reason, verdict.gate) == (Reason.INTERNAL_ERROR, Gate.REJECT)
            assert restarted.loader.loads == 0


@pytest.mark.parametrize("readable", [True, False])
async def test_inspector_does_not_contradict_a_verdict_of_long_ago(
    readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More answers than are remembered, and a full disk: the journal is read, or it is an error that rejects."""
    monkeypatch.setattr("service.answer_cache._REMEMBERED", 3)
    async with a_line(Settings(deadline=PATIENT, gate=GateSettings(on_error=Gate.PASS))) as line:
        first = await line.ask(arrival("same"))
        await line.journal.store([(first, arrival("same"))])
        for number in range(5):
            await line.ask(arrival(f"e{number}"))
        loads = line.loader.loads
        line.journal.failing = True
        if readable:
            line.journal.failing_reads = False
        again = await line.ask(arrival("same"))
        assert line.loader.loads == loads
    if readable:
        assert again.verdict_json == first.verdict_json
        assert again.repeated
        # nobody knows by when the gate had to be told
        assert (first.gate_at(time.monotonic()), again.gate_at(time.monotonic())) == (Gate.PASS, None)
    else:
        assert (again.verdict.reason, again.verdict.gate) == (Reason.INTERNAL_ERROR, Gate.REJECT)


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize(
    ("damage", "reason"), [("verdict = x'7b22'", Reason.INTERNAL_ERROR), ("event = x'7b22'", Reason.FRAME_MISSING)]
)
async def test_answer_that_cannot_be_read_any_more_is_not_contradicted(
    tmp_path: Path, damage: str, reason: Reason, *, remembered: bool
) -> None:
    """Rotten bytes in the record of a rejected part: who asks again hears the verdict, or an error that rejects."""
    path = tmp_path / "journal.sqlite"
    async with opened(path) as journal:
        await journal.store([answered("same", 1)])
    run_beside(JournalSettings(url=f"sqlite:///{path}"), f"UPDATE events SET {damage}")
    async with (
        opened(path) as journal,
        a_line(Settings(deadline=PATIENT, gate=GateSettings(on_error=Gate.PASS)), journal=journal) as line,
    ):
        if remembered:
            await line.inspector.recover()
        verdict = (await line.ask(arrival("same"))).verdict
        assert (verdict.reason, verdict.gate) == (reason, Gate.REJECT)
        await eventually(lambda: line.compute.in_work == 0)
        assert line.pipeline.judged == 0


async def test_pass_of_a_damaged_record_is_told_too_late_to_open_a_gate(tmp_path: Path) -> None:
    """What is left of it is the verdict; by when the gate had to be told nobody knows any more."""
    path = tmp_path / "journal.sqlite"
    async with a_line() as line:
        first = await line.ask(arrival("same"))
    async with opened(path) as journal:
        await journal.store([(first, arrival("same"))])
    run_beside(JournalSettings(url=f"sqlite:///{path}"), "UPDATE events SET event = x'7b22'")
    async with opened(path) as journal, a_line(journal=journal) as line:
        again = await line.ask(arrival("same"))
    assert again.verdict_json == first.verdict_json
    assert (first.gate_at(time.monotonic()), again.gate_at(time.monotonic())) == (Gate.PASS, None)


async def test_inspector_knows_how_old_an_event_is_after_a_restart_of_the_machine() -> None:
    """Its deadline counts as long past; what it took, as the wall clock says, is no made-up day."""
    async with a_line() as line:
        open_event = arrival("open")
        await line.journal.accept(open_event, open_event.received_at + timedelta(hours=1))
        row = line.journal.rows["open"]
        row.entry = replace(row.entry, deadline_monotonic=None)
        (left,) = await line.inspector.recover()
        verdict = (await line.ask(left)).verdict
    assert verdict.reason is Reason.DEADLINE_MISSED
    assert verdict.latency_ms < 60_000


async def test_inspector_starts_without_a_journal_that_can_be_read() -> None:
    """What was left open cannot be answered then, and is later; what comes can, and is not answered twice."""
    async with a_line() as line:
        await line.journal.accept(arrival("old"), arrival("old").received_at + timedelta(hours=1))
        line.journal.last_seq = _forty  # type: ignore[method-assign] # the mark beside the journal knows
        await line.inspector.take_up_numbering()
        line.journal.failing = True
        with pytest.raises(JournalError):
            await line.inspector.recover()
        assert line.health.fault is not None
        assert (await line.ask(arrival())).verdict.seq == 41
        line.journal.failing = False
        await line.journal.accept(arrival(), arrival().received_at + timedelta(hours=1))
        assert [left.event.event_id for left in await line.inspector.recover()] == ["old"]


async def _forty() -> int:
    return 40


async def test_inspector_lets_a_twin_wait_for_the_one_in_work() -> None:
    """An event that comes again while it is in work is answered by the same verdict."""
    async with a_line() as line:
        line.pipeline.hold()
        first = asyncio.create_task(line.inspector.inspect(arrival("same", deadline_ms=60_000)))
        await asyncio.sleep(0)
        second = asyncio.create_task(line.inspector.inspect(arrival("same", deadline_ms=60_000)))
        await asyncio.sleep(0)
        line.pipeline.release()
        await asyncio.gather(first, second)
    assert len({answer.verdict_json for answer in line.answers}) == 1
    assert line.pipeline.judged == 1


async def test_inspector_answers_what_the_last_run_left_open() -> None:
    """An event that was accepted before a crash is answered at start; expired, it is a missed deadline."""
    async with a_line() as line:
        old = arrival("old", deadline_ms=50, age_ms=60_000, trigger_id=5)
        await line.journal.accept(old, old.received_at - timedelta(seconds=59))
        (left_open,) = await line.inspector.recover()
        await line.inspector.inspect(left_open)
        (answer,) = line.answers
    assert (answer.verdict.event_id, answer.verdict.trigger_id) == ("old", 5)
    assert answer.verdict.reason is Reason.DEADLINE_MISSED


async def test_inspector_answers_what_was_left_open_with_its_correlation_data() -> None:
    """Whoever asked the run that crashed finds the answer of this one."""
    async with a_line() as line:
        old = replace(arrival("old"), correlation_data=b"\x00\xff")
        await line.journal.accept(old, old.received_at + timedelta(seconds=60))
        (left_open,) = await line.inspector.recover()
        answer = await line.ask(left_open)
    assert (answer.verdict.event_id, answer.asker.correlation_data) == ("old", b"\x00\xff")
    assert answer.deadline_monotonic == pytest.approx(old.received_monotonic + 60)
