"""The way of a verdict to one sink: in the order of seq, again and again until it is confirmed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import structlog

from schemas.messages import Verdict
from service.deadline import Margin, deadline_monotonic
from service.errors import JournalError, SinkRefused, SinkUnavailable
from service.ports import Answer, Asker, Clock, Journal, JournalEntry, VerdictSink
from service.tasks import NamedTask, together, was_cancelled

log = structlog.get_logger(__name__)

_IN_FLIGHT = 64
_IN_MEMORY = 1000
_REPEATS = 500
"""So many may wait before a repeated answer is not taken any more."""

_RETRY_S = (0.05, 2.0)
_CRASHES = 2
"""So often a sink may fail at a verdict by a defect before it is passed over."""

_PATIENCE_S = 0.5
"""How long what is new waits for what the journal holds; where that cannot be read by then, it goes ahead."""

_READ_PAUSE_S = 0.05
_CATCH_UP_S = 0.5

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
    def seq(self) -> int:
        """Return the number of the verdict."""
        return self.answer.verdict.seq

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

    What the journal cannot tell in its turn comes late, as soon as it can, one by one while nothing new waits:
    out of order, but not lost. Until then the sink counts as confirmed only up to there.

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
        self._highest = 0  # highest seq that the sink has
        self._taken = 0  # highest seq that was taken for delivery
        self._spilled = 0  # highest seq that waits outside of `_pending`
        self._unstored: deque[_Delivery] = deque()  # those of them that the journal does not have, or is read for
        self._reading = False  # those that spill meanwhile may have to go ahead
        self._unread: deque[range] = deque()  # what was passed over because the journal could not tell it
        self._begun = True  # where the first of them begins is known
        self._late: deque[_Delivery] = deque()  # what was read of them since
        self._pause_s = _RETRY_S[0]  # before what failed is tried again

    @property
    def waiting(self) -> int:
        """Return how many verdicts are not confirmed and noted yet, those in the journal left out."""
        return len(self._pending) + len(self._in_flight) + len(self._unstored) + self._to_note.is_set()

    async def recover(self, last_seq: int) -> None:
        """Take up what the last run left unconfirmed; call before the first `put`."""
        self._confirmed = self._taken = self._spilled = last_seq
        if self._journal is not None:
            try:
                self._confirmed = self._taken = await self._begin(self._journal, last_seq)
            except JournalError as exc:
                log.error("journal_read_failed", sink=self.sink.name, error=str(exc))
                self._confirmed, self._begun = 0, False
                self._unread.append(range(1, last_seq + 1))
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
            if self._reading or not delivery.is_stored or self._journal is None:
                self._keep(delivery)
        else:
            self._pending.append(delivery)
            self._taken = answer.verdict.seq
        self._work.set()
        return delivery.confirmed

    async def run(self) -> None:
        """Deliver until cancelled."""
        tasks: list[NamedTask] = [(f"deliver to {self.sink.name}", self._deliver)]
        if self._journal is not None:
            tasks.append((f"note for {self.sink.name}", partial(self._note, self._journal)))
            tasks.append((f"catch up for {self.sink.name}", partial(self._catch_up, self._journal)))
        await together(*tasks)

    async def _deliver(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while not self._pending and self._spilled > self._taken:
                await self._take_spilled()
            while self._pending and len(self._in_flight) < _IN_FLIGHT:
                delivery = self._pending.popleft()
                task = asyncio.create_task(self._try(delivery), name=f"{self.sink.name} {delivery.seq}")
                self._in_flight[task] = delivery
                task.add_done_callback(lambda _: self._work.set())
            await asyncio.sleep(0)
            if await self._collect():
                await self._back_off()
                self._work.set()
            elif self._late and not self._pending and self._is_first(self._late[0]):
                self._pending.append(self._late.popleft())
                self._work.set()

    def _is_first(self, late: _Delivery) -> bool:
        """Tell whether those before it are out; of those that come late, one at a time is on its way."""
        return all(late.seq < each.seq for each in self._in_flight.values())

    def _keep(self, delivery: _Delivery) -> None:
        while not self._reading and self._journal is not None and self._unstored and self._unstored[0].is_stored:
            self._unstored.popleft()
        if len(self._unstored) >= _IN_MEMORY:
            given_up = self._unstored.popleft()
            if not given_up.is_stored:
                log.error("verdict_given_up", sink=self.sink.name, seq=given_up.seq)
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
            log.warning("publish_failed", sink=self.sink.name, seq=delivery.seq, error=str(exc))
            return False
        except (Exception, asyncio.CancelledError) as exc:  # a defect of a sink must not stop the verdicts behind it
            if isinstance(exc, asyncio.CancelledError) and was_cancelled():
                raise
            log.exception("publish_crashed", sink=self.sink.name, seq=delivery.seq)
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
        out = (self._in_flight[task].seq for task in done if task.result())
        self._highest = max((self._highest, *out))
        for task in done:
            delivery = self._in_flight.pop(task)
            # a defect stops one and not those behind it, which must not be followed by it
            delivery.refused |= delivery.crashes > 0 and delivery.seq < self._highest
            if task.result() or delivery.refused:
                self._pause_s = _RETRY_S[0]
            elif not delivery.answer.repeated:
                failed.append(delivery)
                continue
            if not delivery.confirmed.done():
                delivery.confirmed.set_result(task.result() and not delivery.refused)
        self._pending.extendleft(sorted(failed, key=lambda delivery: -delivery.seq))
        self._advance()
        return bool(failed)

    def _advance(self) -> None:
        """Find up to where nothing waits: what is neither here nor unread was confirmed, given up, or never used."""
        first = min(self._taken + 1, self._unread[0].start) if self._unread else self._taken + 1
        queues = (self._pending, self._late)
        waiting = [each.seq for each in self._in_flight.values() if not each.answer.repeated]
        waiting += (next((each.seq for each in queue if not each.answer.repeated), first) for queue in queues)
        confirmed = min(first, *waiting) - 1
        if confirmed > self._confirmed:
            self._confirmed = confirmed
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

    async def _take_spilled(self) -> None:
        """Take the next of those that wait outside of `_pending`, from the journal and from memory, in order."""
        until = self._spilled
        # looked at first: one that is stored while the journal is read may be missing there, and gone here by then
        kept = {each.seq: each for each in self._unstored}
        page = await self._read(after=self._taken)
        if page is None:
            # what is new goes ahead with what memory holds
            until, kept = self._spilled, {each.seq: each for each in self._unstored}
            self._unread.extend(_gaps(self._taken, until, kept))
        else:
            entries, read = page
            until = until if read is None else min(until, read)
            kept = self._deliveries(entries, until) | kept
        while self._unstored and self._unstored[0].seq <= until:
            self._unstored.popleft()
        self._pending.extend(kept[seq] for seq in sorted(kept) if seq <= until)
        self._taken = until
        self._advance()

    async def _read(self, *, after: int) -> tuple[Sequence[JournalEntry], int | None] | None:
        """Return the next page of stored verdicts; None where it cannot be read while the gate waits."""
        if self._journal is None:
            return (), None
        self._reading, error = True, "the journal does not answer"
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    try:
                        return await self._journal.answered(after=after, limit=_IN_MEMORY)
                    except JournalError as exc:
                        error = str(exc)
                        await asyncio.sleep(_READ_PAUSE_S)
        except TimeoutError:
            log.error("journal_read_failed", sink=self.sink.name, error=error)
            return None
        finally:
            self._reading = False

    async def _begin(self, journal: Journal, last_seq: int) -> int:
        """Return up to which seq the sink needs nothing more of earlier runs. Raises JournalError."""
        confirmed = await journal.confirmed(self.sink.name)
        if confirmed is None:  # noted now, since what it does not get before a crash is its to get after it
            self._confirmed = last_seq
            self._to_note.set()
            return last_seq
        return max(confirmed, last_seq - _REDELIVERED)

    async def _catch_up(self, journal: Journal) -> None:
        """Read what could not be read in its turn, beside the deliveries."""
        while True:
            if self._unread and not self._late:
                try:
                    await self._read_late(journal)
                except JournalError as exc:
                    log.debug("journal_read_failed", sink=self.sink.name, error=str(exc))
            await asyncio.sleep(_CATCH_UP_S)

    async def _read_late(self, journal: Journal) -> None:
        if not self._begun:
            end = self._unread[0].stop
            self._unread[0] = range(await self._begin(journal, end - 1) + 1, end)
            self._begun = True
        unread = self._unread[0]
        entries, read = await journal.answered(after=unread.start - 1, limit=_IN_MEMORY)
        until = unread.stop - 1 if read is None else min(unread.stop - 1, read)
        self._late.extend(self._deliveries(entries, until).values())
        if until + 1 < unread.stop:
            self._unread[0] = range(until + 1, unread.stop)
        else:
            self._unread.popleft()
        self._advance()
        self._work.set()

    def _deliveries(self, entries: Iterable[JournalEntry], until: int) -> dict[int, _Delivery]:
        loop = asyncio.get_running_loop()
        deliveries = (_Delivery(self._answer(entry), loop.create_future()) for entry in entries)
        return {delivery.seq: delivery for delivery in deliveries if delivery.seq <= until}

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
            Asker.of(entry),
            for_gate=for_gate,
            transit_s=transit_s,
        )

    async def _back_off(self) -> None:
        give_up = self._clock.monotonic() + self._pause_s
        self._pause_s = min(_RETRY_S[1], 2 * self._pause_s)
        while self._clock.monotonic() < give_up or self.sink.fault is not None:  # noqa: ASYNC110 - a sink has no event
            await asyncio.sleep(0.02)


def _gaps(after: int, until: int, known: Iterable[int]) -> list[range]:
    """Return the numbers above `after`, up to `until`, that are not `known`."""
    edges = [after, *sorted(known), until + 1]
    return [range(low + 1, high) for low, high in pairwise(edges) if high - low > 1]
