"""The way of a verdict to one sink: in the order of seq, again and again until it is confirmed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from schemas.messages import Verdict
from service.deadline import Margin, deadline_monotonic
from service.errors import JournalError, SinkRefused, SinkUnavailable
from service.ports import Answer, Clock, Journal, JournalEntry, VerdictSink
from service.tasks import Part, together, was_cancelled

log = structlog.get_logger(__name__)

_IN_FLIGHT = 64
_IN_MEMORY = 1000
_REPEATS = 500
"""So many may wait before a repeated answer is not taken any more."""

_RETRY_S = (0.05, 2.0)
_CRASHES = 2
"""So often a sink may fail at a verdict by a defect before it is passed over."""

_READ_TRIES = 3
_READ_PAUSE_S = 0.2

_REDELIVERED = 10_000
"""What a sink that was away for longer has missed stays in the journal: no gate and no screen waits for it."""


@dataclass(slots=True)
class _Delivery:
    """A verdict for one sink.

    confirmed: True once the sink has it; False where it is given up, as what is refused or only a repetition is.
    stored: true once the journal has it; None where it came from there. crashes: how often the sink failed at it in a
    way that it does not know itself.
    """

    answer: Answer
    confirmed: asyncio.Future[bool]
    stored: asyncio.Future[bool] | None = None
    tried: bool = False
    crashes: int = 0
    refused: bool = False

    @property
    def is_stored(self) -> bool:
        """Tell whether the journal has it by now."""
        return self.stored is not None and self.stored.done() and self.stored.result()


class Outbox:
    """Delivers verdicts to one sink in the order of seq.

    What the sink confirmed is noted in the journal, and what it had not confirmed when the last run ended is delivered
    first. While a sink is away only so many verdicts wait in memory; the rest waits in the journal, but for those that
    the journal could not store. Whether a gate command may still go with a verdict is decided at each try
    (`Answer.gate_at`). A verdict that the sink refuses, or fails at twice by a defect, is passed over, and stays in the
    journal: it would be refused again, and the gate commands behind it must not wait for that.

    Args:
        sink: where to deliver to.
        journal: where confirmations are kept; None for a sink that only shows what is new.
        clock: for deadlines of verdicts that come back from the journal.
        margin: learns from how long a gate's sink takes to confirm.
    """

    def __init__(
        self, sink: VerdictSink, *, journal: Journal | None, clock: Clock, margin: Margin | None = None
    ) -> None:
        self.sink = sink
        self._journal = journal
        self._clock = clock
        self._margin = margin
        self._pending: deque[_Delivery] = deque()
        self._in_flight: dict[asyncio.Task[bool], _Delivery] = {}
        self._work = asyncio.Event()
        self._confirmed = 0  # every verdict up to this seq is confirmed
        self._to_note = asyncio.Event()  # the journal does not know of it yet
        self._confirmed_ahead: set[int] = set()
        self._taken = 0  # highest seq that was taken for delivery
        self._spilled = 0  # highest seq that waits outside of `_pending`
        self._unstored: deque[_Delivery] = deque()  # those of them that the journal does not have
        self._failures = 0

    @property
    def waiting(self) -> int:
        """Return how many verdicts are not confirmed and noted yet, those in the journal left out."""
        return len(self._pending) + len(self._in_flight) + len(self._unstored) + self._to_note.is_set()

    async def recover(self, last_seq: int) -> None:
        """Take up what the last run left unconfirmed; call before the first `put`."""
        known = None
        if self._journal is not None:
            try:
                known = await self._journal.confirmed(self.sink.name)
            except JournalError as exc:
                log.error("journal_read_failed", sink=self.sink.name, error=str(exc))
        self._confirmed = last_seq if known is None else max(known, last_seq - _REDELIVERED)
        self._taken = self._confirmed
        self._spilled = last_seq
        self._work.set()

    def put(self, answer: Answer, *, stored: asyncio.Future[bool]) -> asyncio.Future[bool]:
        """Queue `answer`; the future tells that it was confirmed. stored: true once the journal has it."""
        delivery = _Delivery(answer, asyncio.get_running_loop().create_future(), stored)
        if answer.repeated:
            # who asked again asks once more, where it is not answered: what is new must not wait behind them all
            if len(self._pending) < _REPEATS:
                self._pending.append(delivery)
            else:
                delivery.confirmed.set_result(False)
        elif self._spilled > self._taken or len(self._pending) >= _IN_MEMORY:
            self._spilled = answer.verdict.seq
            if not delivery.is_stored or self._journal is None:
                self._keep(delivery)
        else:
            self._pending.append(delivery)
            self._taken = answer.verdict.seq
        self._work.set()
        return delivery.confirmed

    async def run(self) -> None:
        """Deliver until cancelled."""
        parts: list[Part] = [(f"deliver to {self.sink.name}", self._deliver)]
        if self._journal is not None:
            parts.append((f"note for {self.sink.name}", partial(self._note, self._journal)))
        await together(*parts)

    async def _deliver(self) -> None:
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

    def _keep(self, delivery: _Delivery) -> None:
        while self._journal is not None and self._unstored and self._unstored[0].is_stored:
            self._unstored.popleft()
        if len(self._unstored) >= _IN_MEMORY:
            given_up = self._unstored.popleft()
            log.error("verdict_given_up", sink=self.sink.name, seq=given_up.answer.verdict.seq)
            given_up.confirmed.set_result(False)
        self._unstored.append(delivery)

    async def _try(self, delivery: _Delivery) -> bool:
        """Deliver once; tell whether that was all that can be done."""
        first, delivery.tried = not delivery.tried, True
        began = self._clock.monotonic()
        try:
            await self.sink.publish(delivery.answer)
        except SinkRefused:
            delivery.refused = True
            return True
        except SinkUnavailable as exc:
            log.warning("publish_failed", sink=self.sink.name, seq=delivery.answer.verdict.seq, error=str(exc))
            return False
        except (Exception, asyncio.CancelledError) as exc:
            if isinstance(exc, asyncio.CancelledError) and was_cancelled():
                raise
            log.exception("publish_crashed", sink=self.sink.name, seq=delivery.answer.verdict.seq)
            delivery.crashes += 1
            delivery.refused = delivery.crashes >= _CRASHES
            return delivery.refused
        decided = delivery.answer.decided_monotonic
        if first and self._margin is not None and decided is not None and not delivery.answer.repeated:
            self._margin.observe(waited_s=began - decided, transit_s=self._clock.monotonic() - began)
        return True

    async def _collect(self) -> bool:
        """Take in finished deliveries; tell whether any must be tried again."""
        if any(task.done() and not task.result() for task in self._in_flight):
            await asyncio.wait(self._in_flight)  # what follows must stay behind what failed
        failed = []
        done = [task for task in self._in_flight if task.done()]
        out = max(
            (*self._confirmed_ahead, *(self._in_flight[task].answer.verdict.seq for task in done if task.result())),
            default=0,
        )
        for task in done:
            delivery = self._in_flight.pop(task)
            # a defect stops one and not those behind it, which must not be followed by it
            delivery.refused |= delivery.crashes > 0 and delivery.answer.verdict.seq < out
            if task.result() or delivery.refused:
                self._failures = 0
                if not delivery.answer.repeated:
                    self._confirmed_ahead.add(delivery.answer.verdict.seq)
            elif not delivery.answer.repeated:
                failed.append(delivery)
                continue
            if not delivery.confirmed.done():
                delivery.confirmed.set_result(task.result() and not delivery.refused)
        self._pending.extendleft(sorted(failed, key=lambda delivery: -delivery.answer.verdict.seq))
        self._advance()
        return bool(failed)

    def _advance(self) -> None:
        while self._confirmed + 1 in self._confirmed_ahead:
            self._confirmed += 1
            self._confirmed_ahead.discard(self._confirmed)
            if self._journal is not None:
                self._to_note.set()

    async def _note(self, journal: Journal) -> None:
        """Note what is confirmed, beside the deliveries: a verdict does not wait for the record of the one before."""
        while True:
            await self._to_note.wait()
            confirmed = self._confirmed
            try:
                await journal.confirm(self.sink.name, confirmed)
            except JournalError as exc:
                log.error("journal_confirm_failed", sink=self.sink.name, error=str(exc))
            if confirmed == self._confirmed:
                self._to_note.clear()

    async def _take_from_journal(self) -> None:
        """Take the next of those that wait outside of `_pending`, from the journal and from memory, in order."""
        if self._pending or self._spilled <= self._taken:
            return
        until = self._spilled
        # looked at first: one that is stored while the journal is read may be missing there, and gone here by then
        kept = {each.answer.verdict.seq: each for each in self._unstored}
        entries = await self._read(after=self._taken)
        if entries is not None and len(entries) == _IN_MEMORY:
            until = min(until, _seq(entries[-1]))
        loop = asyncio.get_running_loop()
        taken = {_seq(entry): _Delivery(self._answer(entry), loop.create_future()) for entry in entries or ()}
        taken.update({seq: delivery for seq, delivery in kept.items() if seq <= until})
        while self._unstored and self._unstored[0].answer.verdict.seq <= until:
            self._unstored.popleft()
        if entries is not None:
            # what is nowhere was given up, or is a number that was never used: nothing will ever confirm it
            self._confirmed_ahead.update(seq for seq in range(self._taken + 1, until + 1) if seq not in taken)
        self._pending.extend(taken[seq] for seq in sorted(taken) if seq <= until)
        self._taken = until
        self._advance()

    async def _read(self, *, after: int) -> Sequence[JournalEntry] | None:
        """Return stored verdicts; None where the journal cannot be read: they stay unconfirmed for the next run."""
        if self._journal is None:
            return ()
        for _ in range(_READ_TRIES):
            try:
                return await self._journal.answered(after=after, limit=_IN_MEMORY)
            except JournalError as exc:
                log.error("journal_read_failed", sink=self.sink.name, error=str(exc))
                await asyncio.sleep(_READ_PAUSE_S)
        return None

    def _answer(self, entry: JournalEntry) -> Answer:
        assert entry.verdict_json is not None
        verdict = Verdict.model_validate_json(entry.verdict_json)
        # a part replayed before the service went down moves no gate now, whatever the plant allows a running replay
        for_gate = not verdict.replayed
        transit_s = 0.0 if self._margin is None else self._margin.transit_s
        deadline = deadline_monotonic(entry, self._clock)
        return Answer(
            verdict,
            entry.verdict_json,
            deadline,
            entry.correlation_data,
            for_gate=for_gate,
            transit_s=transit_s,
        )

    async def _back_off(self) -> None:
        first, longest = _RETRY_S
        delay = min(longest, first * 2**self._failures)
        self._failures += 1
        give_up = self._clock.monotonic() + delay
        while self._clock.monotonic() < give_up or self.sink.fault is not None:  # noqa: ASYNC110 - a sink has no event
            await asyncio.sleep(0.02)


def _seq(entry: JournalEntry) -> int:
    assert entry.seq is not None
    return entry.seq
