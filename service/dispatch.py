"""The way of a verdict out: stored, published to every sink in the order of seq, then acknowledged to its source."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from schemas.messages import Verdict
from service.errors import JournalError, SinkUnavailable
from service.ports import Answer, Arrival, Clock, Journal, JournalEntry, VerdictSink

log = structlog.get_logger(__name__)

_STORE_PATIENCE_S = 0.01
"""How long publishing waits for the journal; the gate must not wait for a slow disk."""

_IN_FLIGHT = 64
_IN_MEMORY = 1000
_RETRY_S = (0.05, 2.0)


@dataclass(slots=True)
class _Delivery:
    answer: Answer
    tried: asyncio.Future[bool]


class Outbox:
    """Delivers verdicts to one sink in the order of seq, again and again until they are confirmed.

    What the sink confirmed is noted in the journal, and what it had not confirmed when the last run ended is delivered
    first. While a sink is away only so many verdicts wait in memory; the rest waits in the journal. Whether a gate
    command may still go with a verdict is decided at each try (`Answer.gate_at`).

    Args:
        sink: where to deliver to.
        journal: where confirmations are kept; None for a sink that only shows what is new.
        clock: for deadlines of verdicts that come back from the journal.
    """

    def __init__(self, sink: VerdictSink, *, journal: Journal | None, clock: Clock) -> None:
        self.sink = sink
        self._journal = journal
        self._clock = clock
        self._pending: deque[_Delivery] = deque()
        self._in_flight: dict[asyncio.Task[bool], _Delivery] = {}
        self._work = asyncio.Event()
        self._confirmed = 0  # every verdict up to this seq is confirmed
        self._noted = 0  # the journal knows of it
        self._confirmed_ahead: set[int] = set()
        self._taken = 0  # highest seq that was taken into memory
        self._spilled = 0  # highest seq that waits in the journal alone
        self._failures = 0

    @property
    def waiting(self) -> int:
        """Return how many verdicts are not confirmed yet, those in the journal left out."""
        return len(self._pending) + len(self._in_flight)

    async def recover(self, last_seq: int) -> None:
        """Take up what the last run left unconfirmed; call before the first `put`."""
        known = None if self._journal is None else await self._journal.confirmed(self.sink.name)
        self._confirmed = self._noted = self._taken = last_seq if known is None else known
        self._spilled = last_seq
        self._work.set()

    def put(self, answer: Answer) -> asyncio.Future[bool]:
        """Queue `answer`; the future tells whether the first try was confirmed."""
        tried: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not answer.repeated and (self._spilled > self._taken or len(self._pending) >= _IN_MEMORY):
            self._spilled = answer.verdict.seq
            tried.set_result(False)
        else:
            self._pending.append(_Delivery(answer, tried))
            if not answer.repeated:
                self._taken = answer.verdict.seq
        self._work.set()
        return tried

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            await self._take_from_journal()
            while self._pending and len(self._in_flight) < _IN_FLIGHT:
                delivery = self._pending.popleft()
                task = asyncio.create_task(self._try(delivery), name=f"{self.sink.name} {delivery.answer.verdict.seq}")
                self._in_flight[task] = delivery
                task.add_done_callback(lambda _: self._work.set())
            await asyncio.sleep(0)
            if await self._collect():
                await self._back_off()
                self._work.set()

    async def _try(self, delivery: _Delivery) -> bool:
        try:
            await self.sink.publish(delivery.answer)
        except SinkUnavailable as exc:
            log.warning("publish_failed", sink=self.sink.name, seq=delivery.answer.verdict.seq, error=str(exc))
            return False
        return True

    async def _collect(self) -> bool:
        """Take in finished deliveries; tell whether any must be tried again."""
        if any(task.done() and not task.result() for task in self._in_flight):
            await asyncio.wait(self._in_flight)  # what follows must stay behind what failed
        failed = []
        for task in [task for task in self._in_flight if task.done()]:
            delivery = self._in_flight.pop(task)
            if not delivery.tried.done():
                delivery.tried.set_result(task.result())
            if task.result():
                self._failures = 0
                if not delivery.answer.repeated:
                    self._confirmed_ahead.add(delivery.answer.verdict.seq)
            elif not delivery.answer.repeated:
                failed.append(delivery)
        self._pending.extendleft(sorted(failed, key=lambda delivery: -delivery.answer.verdict.seq))
        await self._note_confirmed()
        return bool(failed)

    async def _note_confirmed(self) -> None:
        while self._confirmed + 1 in self._confirmed_ahead:
            self._confirmed += 1
            self._confirmed_ahead.discard(self._confirmed)
        if self._journal is None or self._confirmed == self._noted:
            return
        try:
            await self._journal.confirm(self.sink.name, self._confirmed)
        except JournalError as exc:
            log.error("journal_confirm_failed", sink=self.sink.name, error=str(exc))
        else:
            self._noted = self._confirmed

    async def _take_from_journal(self) -> None:
        if self._journal is None or self._pending or self._spilled <= self._taken:
            return
        try:
            entries = await self._journal.answered(after=self._taken, limit=_IN_MEMORY)
        except JournalError as exc:
            log.error("journal_read_failed", sink=self.sink.name, error=str(exc))
            return
        for entry in entries:
            answer = self._answer(entry)
            self._pending.append(_Delivery(answer, asyncio.get_running_loop().create_future()))
            # a verdict that could not be stored leaves a gap: nothing will ever confirm it
            self._confirmed_ahead.update(range(self._taken + 1, answer.verdict.seq))
            self._taken = answer.verdict.seq
        if not entries:
            self._confirmed_ahead.update(range(self._taken + 1, self._spilled + 1))
            self._taken = self._spilled

    def _answer(self, entry: JournalEntry) -> Answer:
        assert entry.verdict_json is not None
        left_s = (entry.deadline_at - self._clock.now()).total_seconds()
        verdict = Verdict.model_validate_json(entry.verdict_json)
        # a part replayed before the service went down moves no gate now, whatever the plant allows a running replay
        for_gate = not verdict.replayed
        return Answer(verdict, entry.verdict_json, self._clock.monotonic() + left_s, for_gate=for_gate)

    async def _back_off(self) -> None:
        first, longest = _RETRY_S
        delay = min(longest, first * 2**self._failures)
        self._failures += 1
        give_up = self._clock.monotonic() + delay
        while self._clock.monotonic() < give_up or self.sink.fault is not None:  # noqa: ASYNC110 - a sink has no event
            await asyncio.sleep(0.02)


class Dispatcher:
    """Stores each verdict, hands it to every outbox, and tells its source when it is safe."""

    def __init__(self, journal: Journal, outboxes: Sequence[Outbox]) -> None:
        self._journal = journal
        self._outboxes = outboxes
        self._queue: asyncio.Queue[tuple[Answer, Arrival]] = asyncio.Queue()
        self._acknowledging: set[asyncio.Task[None]] = set()
        self.journal_fault: str | None = None

    @property
    def idle(self) -> bool:
        """Tell whether every verdict was stored and tried at every sink."""
        return self._queue.empty() and not self._acknowledging and not any(box.waiting for box in self._outboxes)

    def dispatch(self, answer: Answer, arrival: Arrival) -> None:
        """Send `answer` on its way; call in the order of seq."""
        self._queue.put_nowait((answer, arrival))

    async def run(self) -> None:
        """Dispatch until cancelled; what comes together is stored in one commit."""
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            new = [answer for answer, _ in batch if not answer.repeated]
            store = asyncio.create_task(self._store(new), name="store")
            await asyncio.wait({store}, timeout=_STORE_PATIENCE_S)
            for answer, arrival in batch:
                tried = {outbox.sink.name: outbox.put(answer) for outbox in self._outboxes}
                task = asyncio.create_task(
                    _acknowledge(arrival, store, tried.get(arrival.source)), name=f"answered {answer.verdict.seq}"
                )
                self._acknowledging.add(task)
                task.add_done_callback(self._acknowledging.discard)

    async def _store(self, answers: Sequence[Answer]) -> bool:
        if not answers:
            return True
        try:
            await self._journal.store(answers)
        except JournalError as exc:
            self.journal_fault = str(exc)
            log.error("journal_store_failed", seqs=[answer.verdict.seq for answer in answers], error=str(exc))
            return False
        self.journal_fault = None
        return True


async def _acknowledge(arrival: Arrival, store: asyncio.Task[bool], tried: asyncio.Future[bool] | None) -> None:
    """Tell the source once the verdict outlives a crash: stored, or confirmed by the transport the event came by."""
    confirmed = tried is not None and await tried
    if await store or confirmed:
        arrival.answered()
