"""The heart: one event in, exactly one verdict out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from schemas.messages import REPLAY_PREFIX, Decision, Gate, Reason, Verdict
from schemas.settings import DeadlineSettings, GateSettings, IntakeSettings, OnReplayed, Settings
from service.admission import Admission
from service.compute import Compute, LoadedModel
from service.deadline import Margin
from service.errors import FrameCorrupt, FrameError, FrameMissing, FrameRefused, JournalError, RoiNotFound
from service.inspector import Inspector
from service.journal_health import JournalHealth
from service.ports import Answer, Arrival, Refusal
from tests.support.line import CLOCK, MODEL, OneFrame, ScriptedPipeline, arrival
from tests.support.memory_journal import MemoryJournal
from tests.support.waiting import eventually

PATIENT = DeadlineSettings(default_ms=60_000)
"""No verdict of these tests may depend on how busy the machine is."""


class Line:
    """An inspector with everything around it in memory."""

    def __init__(self, settings: Settings, pipeline: ScriptedPipeline, loader: OneFrame) -> None:
        self.journal = MemoryJournal()
        self.health = JournalHealth()
        self.pipeline = pipeline
        self.loader = loader
        self.model: LoadedModel | None = pipeline.loaded
        self.answers: list[Answer] = []
        self.stored = True
        admission = Admission(settings.intake, clock=CLOCK, places=4)
        self.compute = Compute(loader, admission=admission, settings=settings.compute, max_batch=4)
        self.inspector = Inspector(
            settings,
            clock=CLOCK,
            journal=self.journal,
            compute=self.compute,
            margin=Margin(25, clock=CLOCK),
            health=self.health,
            model=lambda: self.model,
            dispatch=self._dispatch,
        )

    def _dispatch(self, answer: Answer, arrival: Arrival) -> asyncio.Future[bool]:
        self.answers.append(answer)
        arrival.answered()
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        stored.set_result(self.stored)
        return stored

    async def ask(self, event: Arrival) -> Answer:
        await self.inspector.inspect(event)
        return self.answers[-1]


@asynccontextmanager
async def a_line(
    settings: Settings | None = None, *, pipeline: ScriptedPipeline | None = None, error: FrameError | None = None
) -> AsyncIterator[Line]:
    line = Line(settings or Settings(deadline=PATIENT), pipeline or ScriptedPipeline(), OneFrame(error))
    try:
        yield line
    finally:
        line.pipeline.release()
        line.compute.close()


@pytest.mark.parametrize(
    ("score", "decision", "gate", "reason"),
    [
        (0.999, Decision.OK, Gate.PASS, Reason.SCORE_BELOW_THRESHOLD),
        (1.0, Decision.DAMAGED, Gate.REJECT, Reason.SCORE_AT_OR_ABOVE_THRESHOLD),
        (1.5, Decision.DAMAGED, Gate.REJECT, Reason.SCORE_AT_OR_ABOVE_THRESHOLD),
    ],
)
async def test_inspector_judges_by_the_threshold(score: float, decision: Decision, gate: Gate, reason: Reason) -> None:
    """At the threshold itself a part is already damaged."""
    async with a_line(pipeline=ScriptedPipeline(score=score, threshold=1.0)) as line:
        verdict = (await line.ask(arrival(trigger_id=9))).verdict
    assert (verdict.decision, verdict.gate, verdict.reason) == (decision, gate, reason)
    assert (verdict.score, verdict.threshold, verdict.model) == (score, 1.0, MODEL)
    assert (verdict.event_id, verdict.part_id, verdict.trigger_id, verdict.seq) == ("e1", "P-e1", 9, 1)
    assert verdict.image is not None
    assert (verdict.image.width, verdict.image.height) == (60, 40)
    assert all(value is not None for _, value in verdict.stages_ms)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FrameMissing("gone"), Reason.FRAME_MISSING),
        (FrameCorrupt("half a file"), Reason.FRAME_CORRUPT),
        (FrameRefused("outside"), Reason.FRAME_REFUSED),
        (RoiNotFound("blank"), Reason.ROI_NOT_FOUND),
    ],
)
async def test_inspector_answers_a_bad_frame_with_its_reason(error: FrameError, reason: Reason) -> None:
    """A frame that cannot be judged is an ERROR that rejects, and the next good one is judged."""
    async with a_line(error=error) as line:
        verdict = (await line.ask(arrival("bad"))).verdict
        assert (verdict.decision, verdict.gate, verdict.reason) == (Decision.ERROR, Gate.REJECT, reason)
        assert (verdict.score, verdict.boxes) == (None, ())
        line.loader.error = None
        assert (await line.ask(arrival("good"))).verdict.decision is Decision.OK


async def test_inspector_passes_errors_where_the_plant_chose_so() -> None:
    """`gate.on_error = "PASS"` lets parts pass that could not be judged."""
    settings = Settings(gate=GateSettings(on_error=Gate.PASS), deadline=PATIENT)
    async with a_line(settings, error=FrameMissing("gone")) as line:
        assert (await line.ask(arrival())).verdict.gate is Gate.PASS


async def test_inspector_answers_a_defect_with_internal_error() -> None:
    """An unexpected exception in the pipeline ends in a verdict, not in silence."""
    async with a_line(pipeline=ScriptedPipeline(error=RuntimeError("CUDA error"))) as line:
        verdict = (await line.ask(arrival())).verdict
        assert verdict.reason is Reason.INTERNAL_ERROR
        ran = {name for name, value in verdict.stages_ms if value is not None}
        assert ran == {"load", "roi", "normalize"}
        assert (verdict.stages_ms.roi, verdict.stages_ms.normalize) == (1.0, 1.0)


async def test_inspector_without_a_model_says_so() -> None:
    """Without a model every event is answered `model_unavailable` without loading its frame."""
    async with a_line() as line:
        line.model = None
        assert (await line.ask(arrival())).verdict.reason is Reason.MODEL_UNAVAILABLE
        assert line.loader.loads == 0


async def test_inspector_refuses_what_the_adapter_refused() -> None:
    """An event that was no valid ImageReady is answered with the adapter's reason and not looked at."""
    async with a_line() as line:
        refused = arrival(refusal=Refusal(Reason.FRAME_REFUSED, "deadline_ms: not a number"))
        assert (await line.ask(refused)).verdict.reason is Reason.FRAME_REFUSED
        assert line.loader.loads == 0


async def test_inspector_answers_an_expired_event_without_inference() -> None:
    """A deadline that lies in the past on receipt is missed at once."""
    async with a_line() as line:
        verdict = (await line.ask(arrival(deadline_ms=100, age_ms=5000))).verdict
        assert (verdict.reason, verdict.gate) == (Reason.DEADLINE_MISSED, Gate.REJECT)
        assert line.loader.loads == 0


async def test_inspector_decides_before_the_deadline_when_work_takes_too_long() -> None:
    """The deadline wins over a slow inspection; its result is recorded as late and goes nowhere."""
    async with a_line(pipeline=ScriptedPipeline(score=9.0)) as line:
        line.pipeline.hold()
        asked = asyncio.create_task(line.ask(arrival(deadline_ms=1000)))
        await eventually(lambda: line.pipeline.waiting)
        answer = await asked
        assert answer.verdict.reason is Reason.DEADLINE_MISSED
        assert CLOCK.monotonic() <= answer.deadline_monotonic + 0.5
        ran = {name for name, value in answer.verdict.stages_ms if value is not None}
        assert ran == {"load", "roi", "normalize"}
        assert (answer.verdict.model, answer.verdict.image is not None) == (MODEL, True)
        line.pipeline.release()
        await eventually(lambda: line.journal.rows["e1"].late is not None)
    late = line.journal.rows["e1"].late
    assert late is not None
    assert b'"late":true' in late
    assert b'"decision":"DAMAGED"' in late
    assert len(line.answers) == 1


async def test_inspector_does_not_take_a_result_that_was_found_after_the_deadline() -> None:
    """A process that was frozen finds result and deadline side by side: the part has passed, the gate must reject."""
    async with a_line() as line:
        line.pipeline.hold()
        asked = asyncio.create_task(line.ask(arrival(deadline_ms=1000)))
        await eventually(lambda: line.pipeline.waiting)
        line.pipeline.release()
        time.sleep(1.2)  # noqa: ASYNC251 - this is the freeze
        verdict = (await asked).verdict
        assert (verdict.reason, verdict.gate) == (Reason.DEADLINE_MISSED, Gate.REJECT)
        await eventually(lambda: line.journal.rows["e1"].late is not None)


async def test_inspector_repeats_the_first_verdict_byte_for_byte() -> None:
    """The same event id again gets the same bytes and costs no inference."""
    async with a_line() as line:
        first = await line.ask(arrival("same"))
        again = await line.ask(arrival("same"))
    assert again.verdict_json == first.verdict_json
    assert (first.repeated, again.repeated) == (False, True)
    assert line.pipeline.judged == 1


async def test_inspector_repeats_from_the_journal_after_a_restart() -> None:
    """What another process answered is repeated, and numbering goes on where it ended."""
    async with a_line() as line:
        first = await line.ask(arrival("same"))
        await line.journal.store([(first, arrival("same"))])
        async with a_line() as restarted:
            restarted.inspector._journal = line.journal
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
        async with a_line() as restarted:
            restarted.inspector._journal = line.journal
            await restarted.inspector.recover()
            again = await restarted.ask(arrival("same"))
    assert again.verdict_json == first.verdict_json
    assert again.gate_at(time.monotonic()) is gate


async def test_inspector_rejects_what_it_answered_and_nobody_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that was away too long to catch up: the event is not decided anew, which might end otherwise."""
    monkeypatch.setattr("service.answer_book._REMEMBERED", 3)
    async with a_line() as line:
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
        async with a_line() as restarted:
            restarted.inspector._journal = line.journal
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
        async with a_line() as restarted:
            restarted.inspector._journal = line.journal
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
    monkeypatch.setattr("service.answer_book._REMEMBERED", 3)
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
    assert (answer.verdict.event_id, answer.correlation_data) == ("old", b"\x00\xff")


async def test_inspector_refuses_more_than_it_can_hold() -> None:
    """One event above the capacity is answered `overload` at once; there is room again when work is done."""
    settings = Settings(intake=IntakeSettings(capacity=2), deadline=PATIENT)
    async with a_line(settings) as line:
        line.pipeline.hold()
        held = [asyncio.create_task(line.inspector.inspect(arrival(f"held{number}"))) for number in range(2)]
        await eventually(lambda: line.compute.in_work == 2)
        assert not line.inspector.has_room
        assert (await line.ask(arrival("third"))).verdict.reason is Reason.OVERLOAD
        line.pipeline.release()
        await asyncio.gather(*held)
        assert (await line.ask(arrival("fourth"))).verdict.decision is Decision.OK


async def test_inspector_goes_on_without_its_journal() -> None:
    """A journal that fails costs no verdict; the fault is there to be seen until it is gone."""
    async with a_line() as line:
        line.journal.failing = True
        assert (await line.ask(arrival("e1"))).verdict.decision is Decision.OK
        assert line.health.fault == "disk full"
        assert (await line.ask(arrival("e1"))).repeated
        line.journal.failing = False
        await line.ask(arrival("e2"))
        assert line.health.fault is None


async def test_inspector_numbers_verdicts_without_gaps() -> None:
    """`seq` rises by one for each new verdict, in the order in which they leave."""
    async with a_line(Settings(intake=IntakeSettings(capacity=100), deadline=PATIENT)) as line:
        await asyncio.gather(*(line.inspector.inspect(arrival(f"e{number}")) for number in range(50)))
    assert [answer.verdict.seq for answer in line.answers] == list(range(1, 51))


class KeepingRecorder:
    """Takes what the inspector offers."""

    def __init__(self) -> None:
        self.offered: asyncio.Queue[tuple[Arrival, Verdict, bytes | None]] = asyncio.Queue()

    def offer(self, arrival: Arrival, verdict: Verdict, encoded: bytes | None) -> None:
        self.offered.put_nowait((arrival, verdict, encoded))


@pytest.mark.parametrize("on_replayed", list(OnReplayed))
@pytest.mark.parametrize("event_id", ["e1", f"{REPLAY_PREFIX}7-1/e1"])
async def test_inspector_keeps_replayed_parts_from_the_gate(event_id: str, on_replayed: OnReplayed) -> None:
    """They are judged and marked, whichever way they came; a gate hears of them only where the plant says so."""
    settings = Settings(deadline=PATIENT, gate=GateSettings(on_replayed=on_replayed))
    async with a_line(settings) as line:
        for _ in range(2):  # the second is only repeated
            answer = await line.ask(arrival(event_id))
            assert answer.verdict.decision is Decision.OK
            assert answer.verdict.replayed is (event_id != "e1")
            assert answer.for_gate is (event_id == "e1" or on_replayed is OnReplayed.ACT)
            assert answer.gate_at(CLOCK.monotonic()) is (Gate.PASS if answer.for_gate else None)


async def test_inspector_offers_a_late_part_with_its_frame() -> None:
    """A part that missed its deadline is recorded when its frame is there, with the verdict that was given."""
    recorder = KeepingRecorder()
    async with a_line(pipeline=ScriptedPipeline()) as line:
        line.inspector._recorder = recorder
        line.pipeline.hold()
        answer = await line.ask(arrival("late", deadline_ms=50))
        assert answer.verdict.reason is Reason.DEADLINE_MISSED
        assert recorder.offered.empty()
        line.pipeline.release()
        async with asyncio.timeout(20):
            offered, verdict, encoded = await recorder.offered.get()
        assert (offered.event.event_id, verdict, encoded) == ("late", answer.verdict, OneFrame.ENCODED)


async def test_inspector_offers_what_it_never_looked_at() -> None:
    """Without a frame: whoever records it may fetch one."""
    recorder = KeepingRecorder()
    async with a_line() as line:
        line.inspector._recorder = recorder
        line.model = None
        answer = await line.ask(arrival("unseen"))
        async with asyncio.timeout(20):
            assert (await recorder.offered.get())[1:] == (answer.verdict, None)
