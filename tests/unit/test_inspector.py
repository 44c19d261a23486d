"""The heart: one event in, exactly one verdict out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime

import pytest

from schemas.messages import Decision, Gate, Reason, Verdict
from schemas.settings import GateSettings, IntakeOrder, IntakeSettings, OnReplayed, Settings
from service.errors import FrameCorrupt, FrameError, FrameMissing, FrameRefused, RoiNotFound
from service.pipeline.types import Frame, Inspection
from service.ports import Arrival, JournalEntry, Refusal
from tests.support.clock import HandClock, TurnedClock
from tests.support.inspecting import PATIENT, a_line
from tests.support.line import CLOCK, MODEL, OneFrame, ScriptedPipeline, arrival
from tests.support.memory_journal import MemoryJournal
from tests.support.waiting import eventually, loop_turns

_ALLOWED_S = PATIENT.default_ms / 1000


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
        answer = await line.ask(arrival(trigger_id=9))
    verdict = answer.verdict
    assert answer.transit_s == 0.0125  # of a margin of 25 ms
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
        expired = arrival(deadline_ms=100, age_ms=5000)
        answer = await line.ask(expired)
        assert (answer.verdict.reason, answer.verdict.gate) == (Reason.DEADLINE_MISSED, Gate.REJECT)
        assert line.loader.loads == 0
        # the margin learns from what an answer waits, and this one has waited since it came
        assert answer.decided_monotonic is not None
        assert answer.decided_monotonic >= expired.received_monotonic


async def test_expired_event_takes_no_place_from_one_that_can_be_judged() -> None:
    """After an outage a broker hands hundreds of them over: none pushes a part out that waits for its turn."""
    settings = Settings(intake=IntakeSettings(capacity=5, order=IntakeOrder.NEWEST), deadline=PATIENT)
    async with a_line(settings) as line:
        line.pipeline.hold()
        held = [asyncio.create_task(line.inspector.inspect(arrival(f"held{number}"))) for number in range(5)]
        await eventually(lambda: line.compute.in_work == 5)
        expired = await line.ask(arrival("expired", deadline_ms=100, age_ms=5000))
        assert expired.verdict.reason is Reason.DEADLINE_MISSED
        line.pipeline.release()
        await asyncio.gather(*held)
    assert [answer.verdict.decision for answer in line.answers[1:]] == [Decision.OK] * 5


async def test_inspector_decides_before_the_deadline_when_work_takes_too_long() -> None:
    """The deadline wins over a slow inspection; its result is recorded as late and goes nowhere."""
    clock = TurnedClock()
    async with a_line(pipeline=ScriptedPipeline(score=9.0), clock=clock) as line:
        line.pipeline.hold()
        asked = asyncio.create_task(line.ask(arrival()))
        await eventually(lambda: line.pipeline.waiting)
        clock.turn(_ALLOWED_S - 0.01)  # the margin of 25 ms has begun
        answer = await asked
        assert answer.verdict.reason is Reason.DEADLINE_MISSED
        ran = {name for name, value in answer.verdict.stages_ms if value is not None}
        assert ran == {"load", "roi", "normalize"}
        assert (answer.verdict.model, answer.verdict.image is not None) == (MODEL, True)
        # not when the timer rang: what it is late by, the margin must make up for
        assert answer.decided_monotonic == pytest.approx(answer.deadline_monotonic - 0.025)
        line.pipeline.release()
        await eventually(lambda: line.journal.rows["e1"].late is not None)
    late = line.journal.rows["e1"].late
    assert late is not None
    assert b'"late":true' in late
    assert b'"decision":"DAMAGED"' in late
    assert len(line.answers) == 1


async def test_inspector_does_not_take_a_result_that_was_found_after_the_deadline() -> None:
    """A process that was frozen finds result and deadline side by side: the part has passed, the gate must reject."""
    clock = HandClock()
    clock.seconds = CLOCK.monotonic()
    async with a_line(clock=clock) as line:
        line.pipeline.hold()
        asked = asyncio.create_task(line.ask(arrival()))
        await eventually(lambda: line.pipeline.waiting)
        clock.seconds += _ALLOWED_S  # the timers of the loop do not ring: the result is seen first
        line.pipeline.release()
        verdict = (await asked).verdict
        assert (verdict.reason, verdict.gate) == (Reason.DEADLINE_MISSED, Gate.REJECT)
        await eventually(lambda: line.journal.rows["e1"].late is not None)


async def test_inspector_spares_what_is_too_late_the_inference() -> None:
    """A part whose time went while it stood behind a slow one: the next ones need the judging thread."""
    clock = TurnedClock()
    async with a_line(clock=clock) as line:
        line.pipeline.hold()
        asked = [asyncio.create_task(line.ask(arrival("slow")))]
        await eventually(lambda: line.pipeline.waiting)
        asked.append(asyncio.create_task(line.ask(arrival("behind it"))))
        await eventually(lambda: line.loader.loads == 2)
        clock.turn(_ALLOWED_S)
        await asyncio.gather(*asked)
        line.pipeline.release()
        await eventually(lambda: line.compute.in_work == 0)
    assert [answer.verdict.reason for answer in line.answers] == [Reason.DEADLINE_MISSED] * 2
    assert line.pipeline.judged == 1


async def test_inspector_refuses_more_than_it_can_hold() -> None:
    """One event above the capacity is answered `overload` at once; there is room again when work is done."""
    settings = Settings(intake=IntakeSettings(capacity=2), deadline=PATIENT)
    async with a_line(settings) as line:
        line.pipeline.hold()
        held = [asyncio.create_task(line.inspector.inspect(arrival(f"held{number}"))) for number in range(2)]
        await eventually(lambda: line.compute.in_work == 2)
        assert not line.inspector.has_room
        assert (await line.ask(arrival("third"))).verdict.reason is Reason.OVERLOAD
        promised = asyncio.create_task(
            line.ask(replace(arrival("its trigger came while Ready was shown"), promised=True))
        )
        await eventually(lambda: line.compute.in_work == 3)
        line.pipeline.release()
        await asyncio.gather(*held)
        assert (await promised).verdict.decision is Decision.OK
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


async def test_inspector_answers_a_defect_of_its_journal() -> None:
    """Whatever it raises: the event ends in a verdict that rejects, and not in a task that died."""
    async with a_line(journal=DefectiveJournal()) as line:
        verdict = (await line.ask(arrival())).verdict
    assert (verdict.reason, verdict.gate) == (Reason.INTERNAL_ERROR, Gate.REJECT)


class DefectiveJournal(MemoryJournal):
    """Fails in a way that no journal should."""

    async def accept(self, arrival: Arrival, deadline_at: datetime) -> JournalEntry | None:  # noqa: ARG002 - the port's
        raise KeyError("a defect")


class HangingJournal(MemoryJournal):
    """Takes note of nothing and says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def accept(self, arrival: Arrival, deadline_at: datetime) -> JournalEntry | None:  # noqa: ARG002 - the port's
        self.asked += 1
        never: asyncio.Future[JournalEntry | None] = asyncio.get_running_loop().create_future()
        return await never


async def test_inspector_gives_a_journal_that_hangs_half_the_time_there_is() -> None:
    """It may know the event, and an answer that the gate was given; known to hang, it holds up nobody any more."""
    clock, journal = TurnedClock(), HangingJournal()
    async with a_line(clock=clock, journal=journal) as line:
        first = asyncio.create_task(line.ask(arrival("first")))
        await eventually(lambda: journal.asked == 1)
        clock.turn(0.4 * _ALLOWED_S)
        await eventually(lambda: line.loader.loads == 1)
        await loop_turns(20)
        assert not first.done()
        clock.turn(0.1 * _ALLOWED_S)
        assert (await first).verdict.decision is Decision.OK
        assert line.health.fault is not None
        async with asyncio.timeout(20):
            assert (await line.ask(arrival("second", deadline_ms=3_600_000))).verdict.decision is Decision.OK


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
@pytest.mark.parametrize("replayed", [False, True])
async def test_inspector_keeps_replayed_parts_from_the_gate(*, replayed: bool, on_replayed: OnReplayed) -> None:
    """They are judged and marked, whichever way they came; a gate hears of them only where the plant says so."""
    settings = Settings(deadline=PATIENT, gate=GateSettings(on_replayed=on_replayed))
    async with a_line(settings) as line:
        for _ in range(2):  # the second is only repeated
            answer = await line.ask(arrival(replayed=replayed))
            assert answer.verdict.decision is Decision.OK
            assert answer.verdict.replayed is replayed
            assert answer.for_gate is (not replayed or on_replayed is OnReplayed.ACT)
            assert answer.gate_at(CLOCK.monotonic()) is (Gate.PASS if answer.for_gate else None)


async def test_inspector_offers_a_late_part_with_its_frame() -> None:
    """A part that missed its deadline is recorded when its frame is there, with the verdict that was given."""
    recorder = KeepingRecorder()
    clock = TurnedClock()
    async with a_line(clock=clock) as line:
        line.inspector._recorder = recorder
        line.pipeline.hold()
        asked = asyncio.create_task(line.ask(arrival("late")))
        await eventually(lambda: line.pipeline.waiting)
        clock.turn(_ALLOWED_S)
        answer = await asked
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


class KeepingPictures:
    """Takes what there is to be seen of a part."""

    def __init__(self) -> None:
        self.offered: list[tuple[str, bool, bool]] = []

    def offer(self, verdict: Verdict, inspection: Inspection | None, frame: Frame | None) -> None:
        self.offered.append((verdict.event_id, inspection is not None, frame is not None))


async def test_inspector_offers_what_is_to_be_seen_before_it_ends() -> None:
    """The last parts, too: boxes and heatmap of what was judged, the frame of what could not be, or nothing."""
    pictures = KeepingPictures()
    async with a_line() as line:
        line.inspector._pictures = pictures
        await line.ask(arrival("judged"))
        line.pipeline.error = RuntimeError("a defect")
        await line.ask(arrival("failed"))
        line.model = None
        await line.ask(arrival("unseen"))
        line.inspector.keep_now()
    assert pictures.offered == [("judged", True, True), ("failed", False, True), ("unseen", False, False)]
