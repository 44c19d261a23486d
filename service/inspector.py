"""One image-ready event in, one verdict out: idempotency, deadline and the fail-safe rule."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial

import structlog
from pydantic import ValidationError

from schemas.messages import Reason, Verdict
from schemas.settings import OnReplayed, Settings
from service.answer_cache import EARLIER, AnswerCache, CachedAnswer, Earlier
from service.compute import Compute, Failed, Job, Judged, LoadedModel, Outcome
from service.deadline import Deadline, Margin, deadline_monotonic, long_ago
from service.errors import JournalDamaged, JournalError
from service.journal_health import JournalHealth
from service.ports import Answer, Arrival, Asker, Clock, Journal, JournalEntry, PictureSink, Recorder
from service.verdicts import make_verdict

log = structlog.get_logger(__name__)

_HEAD_START_S = 0.001
"""How long the frame alone has the interpreter, before the journal is asked."""

_JOURNAL_PATIENCE_S = 0.5
"""How long an event that has no time left waits for the journal; one that has time spends up to half of it, the
first one: from then on the journal is known to fail."""

_JOURNAL_IMPATIENCE_S = 0.05
"""The same for each event while the journal is known to fail: the gate goes on without it."""

_EARLIER_PATIENCE_S = 5.0
"""How long an event that an earlier run answered waits for that answer: no gate waits for it."""

_RECORD_DELAY_S = 0.05
"""Drawing a picture and writing to the log take the interpreter; not just when the verdict is on its way out."""


class Inspector:
    """Answers every event exactly once.

    The first of {verdict, deadline} decides; a result that comes later is recorded and goes nowhere. An event id that
    was answered before gets the same bytes again and costs no inference.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        journal: Journal,
        compute: Compute,
        margin: Margin,
        health: JournalHealth,
        model: Callable[[], LoadedModel | None],
        dispatch: Callable[[Answer, Arrival], asyncio.Future[bool]],
        pictures: PictureSink | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._journal = journal
        self._compute = compute
        self._margin = margin
        self._health = health
        self._model = model
        self._dispatch = dispatch
        self._pictures = pictures
        self._recorder = recorder
        self._seq = 0
        self._answers = AnswerCache()
        self._late: set[asyncio.Task[None]] = set()
        self._to_keep: deque[Callable[[], None]] = deque()

    @property
    def has_room(self) -> bool:
        """Tell whether one more event would be inspected rather than refused."""
        return self._compute.has_room

    @property
    def last_seq(self) -> int:
        """Return the number of the last verdict."""
        return self._seq

    async def take_up_numbering(self) -> None:
        """Go on with the numbers of the last run.

        Raises:
            JournalError: the journal cannot say where it ended.
            UsageError: another process goes on with them.
        """
        self._seq = await self._journal.last_seq()

    async def recover(self) -> Sequence[Arrival]:
        """Note what earlier runs answered; return the events that are unanswered and not in work, to be inspected.

        Raises:
            JournalError: the journal cannot say; to be tried again.
        """
        try:
            self._answers.take_up(reversed(await self._journal.answered_ids(EARLIER)))
            open_events = await self._journal.unanswered()
        except JournalError as exc:
            self._health.fault = str(exc)
            raise
        return [
            _arrival(entry, self._clock) for entry in open_events if self._answers.find(entry.event.event_id) is None
        ]

    async def inspect(self, arrival: Arrival) -> None:
        """Answer `arrival`: with a new verdict, or with the one that its event id got before. Never raises."""
        known = self._answers.find(arrival.event.event_id)
        if known is not None:
            self._dispatch(_repeat(await asyncio.shield(known.answer), arrival), arrival)
            return
        cached = self._answers.begin(arrival.event.event_id)
        began = self._clock.monotonic()
        deadline = Deadline.of(arrival, self._settings.deadline, self._margin)
        work: asyncio.Task[Outcome] | None = None
        try:
            outcome, work = await self._outcome(arrival, deadline, cached)
        except JournalDamaged as exc:
            outcome = await self._what_is_left(arrival, deadline, exc)
        except Exception as exc:  # the supervised boundary: a defect ends in a fail-safe verdict
            log.exception("inspection_failed", event_id=arrival.event.event_id)
            outcome = Failed(Reason.INTERNAL_ERROR, type(exc).__name__)
        # no await from here to dispatch: verdicts leave in the order of their seq
        if isinstance(outcome, Answer):
            cached.write(outcome, self._dispatch(outcome, arrival))
            return
        self._seq += 1
        verdict = self._verdict(outcome, arrival, self._seq)
        now = self._clock.monotonic()
        missed = isinstance(outcome, Failed) and outcome.reason is Reason.DEADLINE_MISSED
        answer = Answer(
            verdict,
            verdict.to_json(),
            deadline.monotonic,
            Asker.of(arrival),
            for_gate=self._is_for_gate(verdict),
            transit_s=deadline.transit_s,
            # a timer that rings late is part of what the margin must make up for
            decided_monotonic=max(began, deadline.decide_by) if missed else now,
        )
        cached.write(answer, self._dispatch(answer, arrival))
        self._to_keep.append(partial(self._keep, arrival, verdict, outcome, work))
        asyncio.get_running_loop().call_later(_RECORD_DELAY_S, self._keep_one)

    async def _outcome(
        self, arrival: Arrival, deadline: Deadline, cached: CachedAnswer
    ) -> tuple[Outcome | Answer, asyncio.Task[Outcome] | None]:
        """Return what became of a new event, or the answer that an earlier run gave; and the inspection, if any."""
        said = await self._said_earlier(arrival, deadline)
        if said is not None:
            return said, None
        is_new: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        begun = self._begin(arrival, deadline, is_new)
        await asyncio.sleep(_HEAD_START_S)  # the frame is made ready while the journal is asked, and first of all
        known = None
        try:
            known, _ = await self._accept(arrival, deadline, self._patience_s(deadline))
        except JournalDamaged:
            is_new.set_result(False)
            raise
        finally:
            if not is_new.done():
                is_new.set_result(known is None or known.verdict_json is None)
        answer = self._known(known, arrival, deadline)
        if answer is not None:
            return answer, None
        if isinstance(begun, Failed):
            return begun, None
        job, work = begun
        return await self._in_time(job, work, arrival, deadline, cached), work

    async def _said_earlier(self, arrival: Arrival, deadline: Deadline) -> Failed | Answer | None:
        """Return what was answered long ago, or that nobody knows it any more; None where that may have been nothing.

        Never decided anew: the gate may have been told otherwise.
        """
        earlier = self._answers.earlier(arrival.event.event_id)
        if earlier is None:
            return None
        if earlier is Earlier.LOST:
            return Failed(Reason.INTERNAL_ERROR, "answered before, but that could not be noted", rejects=True)
        known, asked = await self._accept(arrival, deadline, _EARLIER_PATIENCE_S)
        if asked:
            return self._known(known, arrival, deadline)
        said = await self._find(arrival)
        if said is None:
            return Failed(Reason.INTERNAL_ERROR, "answered before, but the journal cannot say how", rejects=True)
        # when it was due is not known: too long ago to pass
        return self._again(said, arrival, long_ago(self._clock), deadline.transit_s)

    async def _what_is_left(self, arrival: Arrival, deadline: Deadline, damaged: JournalDamaged) -> Failed | Answer:
        """Return what can still be read of an earlier answer, else an error that rejects, as that may have done."""
        said = await self._find(arrival)
        with suppress(JournalDamaged):
            if said is not None:
                return self._again(said, arrival, long_ago(self._clock), deadline.transit_s)
        log.error("earlier_answer_unreadable", event_id=arrival.event.event_id, error=str(damaged))
        return Failed(Reason.INTERNAL_ERROR, str(damaged), rejects=True)

    async def _accept(
        self, arrival: Arrival, deadline: Deadline, patience_s: float
    ) -> tuple[JournalEntry | None, bool]:
        """Note an event; return what was known of it, and whether the journal could be asked. Raises JournalDamaged."""
        try:
            async with asyncio.timeout(patience_s):
                known = await self._journal.accept(arrival, deadline.at)
        except JournalDamaged:
            raise
        except (JournalError, TimeoutError) as exc:
            # the gate goes on without its journal; idempotency then rests on what is remembered here
            self._health.fault = str(exc) or "the journal does not answer"
            log.error("journal_accept_failed", event_id=arrival.event.event_id, error=self._health.fault)
            return None, False
        self._health.fault = None
        return known, True

    def _patience_s(self, deadline: Deadline) -> float:
        """Return how long the journal is waited for by an event that may be new."""
        left_s = deadline.decide_by - self._clock.monotonic()
        patience_s = left_s / 2 if left_s > 0 else _JOURNAL_PATIENCE_S
        return patience_s if self._health.fault is None else min(patience_s, _JOURNAL_IMPATIENCE_S)

    async def _find(self, arrival: Arrival) -> bytes | None:
        """Return the verdict on an event of which a failing journal took no note; it may be able to read."""
        try:
            async with asyncio.timeout(_JOURNAL_PATIENCE_S):
                return await self._journal.find(arrival.event.event_id)
        except (JournalError, TimeoutError):
            return None

    def _begin(
        self, arrival: Arrival, deadline: Deadline, is_new: asyncio.Future[bool]
    ) -> Failed | tuple[Job, asyncio.Task[Outcome]]:
        """Start the inspection, or say why there can be none."""
        if arrival.refusal is not None:
            return Failed(arrival.refusal.reason, arrival.refusal.detail)
        if self._clock.monotonic() >= deadline.decide_by:
            return Failed(Reason.DEADLINE_MISSED, "the deadline had passed when the event came")
        model = self._model()
        if model is None:
            return Failed(Reason.MODEL_UNAVAILABLE, "no model is loaded, or the station is paused")
        job = Job(
            arrival.image,
            arrival.frame_bytes,
            model,
            deadline.decide_by,
            wanted=lambda: self._clock.monotonic() < deadline.decide_by,
            is_new=is_new,
            promised=arrival.promised,
        )
        return job, asyncio.create_task(self._compute.judge(job), name=f"judge {arrival.event.event_id}")

    async def _in_time(
        self, job: Job, work: asyncio.Task[Outcome], arrival: Arrival, deadline: Deadline, cached: CachedAnswer
    ) -> Outcome:
        """Return what comes first: the outcome of `work`, or a missed deadline."""
        done, _ = await asyncio.wait({work}, timeout=deadline.decide_by - self._clock.monotonic())
        # both may have come: the process was frozen, or the event loop held up
        if done and self._clock.monotonic() <= deadline.decide_by:
            return work.result()
        late = asyncio.create_task(self._record_late(work, arrival, cached, self._clock.now()))
        self._late.add(late)
        late.add_done_callback(self._late.discard)
        return job.failed(Reason.DEADLINE_MISSED, "the inspection took too long")

    async def _record_late(
        self, work: asyncio.Task[Outcome], arrival: Arrival, cached: CachedAnswer, missed_at: datetime
    ) -> None:
        outcome = await work
        if isinstance(outcome, Judged):
            verdict = self._verdict(outcome, arrival, (await cached.answer).verdict.seq, late=True)
            log.warning(
                "late_result",
                event_id=verdict.event_id,
                decision=verdict.decision,
                late_ms=round((verdict.decided_at - missed_at).total_seconds() * 1000, 1),
            )
            try:
                await self._journal.store_late(verdict.event_id, verdict.to_json())
            except JournalError as exc:
                log.error("journal_late_failed", event_id=verdict.event_id, error=str(exc))

    def _verdict(self, outcome: Outcome, arrival: Arrival, seq: int, *, late: bool = False) -> Verdict:
        return make_verdict(
            outcome,
            arrival,
            station=self._settings.station.id,
            seq=seq,
            gate_on_error=self._settings.gate.on_error,
            decided_at=self._clock.now(),
            latency_ms=self._age_s(arrival) * 1000,
            late=late,
        )

    def _age_s(self, arrival: Arrival) -> float:
        if arrival.age_known:
            return self._clock.monotonic() - arrival.received_monotonic
        return (self._clock.now() - arrival.received_at).total_seconds()

    def _known(self, entry: JournalEntry | None, arrival: Arrival, deadline: Deadline) -> Answer | None:
        """Return what the journal has, for who asks now. The part was due when it was first asked for."""
        if entry is None or entry.verdict_json is None:
            return None
        due = min(deadline.monotonic, deadline_monotonic(entry, self._clock))
        return self._again(entry.verdict_json, arrival, due, deadline.transit_s)

    def _again(self, verdict_json: bytes, arrival: Arrival, due: float, transit_s: float) -> Answer:
        try:
            verdict = Verdict.model_validate_json(verdict_json)
        except ValidationError as exc:
            raise JournalDamaged("the verdict that was given is damaged") from exc
        asker, for_gate = Asker.of(arrival), self._is_for_gate(verdict)
        return Answer(verdict, verdict_json, due, asker, repeated=True, for_gate=for_gate, transit_s=transit_s)

    def _is_for_gate(self, verdict: Verdict) -> bool:
        return not verdict.replayed or self._settings.gate.on_replayed is OnReplayed.ACT

    def keep_now(self) -> None:
        """Log, picture and record what would be a moment later: nothing comes after it."""
        while self._to_keep:
            self._keep_one()

    def _keep_one(self) -> None:
        if self._to_keep:
            self._to_keep.popleft()()

    def _keep(self, arrival: Arrival, verdict: Verdict, outcome: Outcome, work: asyncio.Task[Outcome] | None) -> None:
        """Log the part, and hand it to those who keep pictures and recordings."""
        _log_part(verdict, outcome)
        if self._pictures is not None:
            self._pictures.offer(verdict, outcome.inspection if isinstance(outcome, Judged) else None, outcome.frame)
        recorder = self._recorder
        if recorder is None:
            return
        if work is None:
            recorder.offer(arrival, verdict, None)
        else:  # a part that missed its deadline is recorded when its frame is there
            work.add_done_callback(lambda done: recorder.offer(arrival, verdict, _encoded(done)))


def _encoded(work: asyncio.Task[Outcome]) -> bytes | None:
    frame = None if work.cancelled() or work.exception() is not None else work.result().frame
    return None if frame is None else frame.encoded


def _repeat(answer: Answer, arrival: Arrival) -> Answer:
    return replace(answer, asker=Asker.of(arrival), repeated=True)


def _arrival(entry: JournalEntry, clock: Clock) -> Arrival:
    allowed_s = (entry.deadline_at - entry.received_at).total_seconds()
    log.warning("recovered", event_id=entry.event.event_id)
    return Arrival(
        event=entry.event,
        image=entry.image,
        received_at=entry.received_at,
        received_monotonic=deadline_monotonic(entry, clock) - allowed_s,
        source=entry.source,
        correlation_data=entry.correlation_data,
        age_known=entry.deadline_monotonic is not None,
    )


def _log_part(verdict: Verdict, outcome: Outcome) -> None:
    log.info(
        "part",
        event_id=verdict.event_id,
        part_id=verdict.part_id,
        trigger_id=verdict.trigger_id,
        seq=verdict.seq,
        decision=verdict.decision,
        gate=verdict.gate,
        reason=verdict.reason,
        detail=outcome.detail if isinstance(outcome, Failed) else None,
        score=verdict.score,
        boxes=len(verdict.boxes),
        latency_ms=verdict.latency_ms,
    )
