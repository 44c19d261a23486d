"""The way of a verdict out: made safe, handed to every outbox in the order of seq, acknowledged to its source."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import structlog

from service.deadline import Margin
from service.errors import JournalConflict, JournalError
from service.journal_health import JournalHealth
from service.outbox import Outbox
from service.ports import Answer, Arrival, Clock, Journal
from service.tasks import together

log = structlog.get_logger(__name__)

_PATIENCE_S = 0.25
"""How long a verdict waits to be stored before it is published, where its deadline allows that.

What is published before it is stored may be decided again after a crash, and differently.
"""

_IMPATIENCE_S = 0.01
"""The same where there is no time, or the journal is failing already: the gate must not wait for a slow disk."""

_STORE_DELAY_S = 0.004
"""How long a verdict that is safe already is on its way before it is stored."""

_BATCH = 256
_UNSTORED = 10_000
_RETRY_S = 1.0
_STALLED_S = 1.0


@dataclass(slots=True, eq=False)
class _Outgoing:
    """A verdict on its way out.

    since: when it was dispatched. secured: a crash does not erase it. stored: True once the journal has it, False where
    it never will.
    """

    answer: Answer
    arrival: Arrival
    since: float
    secured: bool = False
    stored: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Dispatcher:
    """Makes each verdict safe, hands it to every outbox, and tells its source when it is stored or confirmed.

    What the journal cannot store is kept in memory, a bounded number of verdicts, and stored when it can be again.
    """

    def __init__(
        self, journal: Journal, outboxes: Sequence[Outbox], *, clock: Clock, margin: Margin, health: JournalHealth
    ) -> None:
        self._journal = journal
        self._outboxes = outboxes
        self._clock = clock
        self._margin = margin
        self._queue: deque[_Outgoing] = deque()
        self._news = asyncio.Event()
        self._unstored: dict[int, _Outgoing] = {}  # by seq, in that order
        self._to_store = asyncio.Event()
        self._acknowledging: dict[asyncio.Task[None], str] = {}  # with the source of the event
        self._health = health

    @property
    def idle(self) -> bool:
        """Tell whether every verdict was stored and confirmed, by what works of journal and sinks."""
        working = {box.sink.name: box for box in self._outboxes if box.sink.fault is None}
        can_be_safe = self._health.fault is None or any(source in working for source in self._acknowledging.values())
        waiting = any(box.waiting for box in working.values())
        storing = self._health.fault is None and self._unstored
        return not (self._queue or waiting or storing or (can_be_safe and self._acknowledging))

    @property
    def stalled(self) -> bool:
        """Tell whether a verdict has waited longer to be handed on than anything here should take."""
        return bool(self._queue) and self._clock.monotonic() - self._queue[0].since > _STALLED_S

    def dispatch(self, answer: Answer, arrival: Arrival) -> asyncio.Future[bool]:
        """Send `answer` on its way; call in the order of seq. Returns whether it is stored, False: it never will be."""
        # a picture need not wait with its verdict
        one = _Outgoing(answer, replace(arrival, frame_bytes=None), self._clock.monotonic())
        self._queue.append(one)
        if answer.repeated:
            first = self._unstored.get(answer.verdict.seq)
            if first is None:
                one.stored.set_result(True)
            else:
                # acknowledged no sooner than the first one could be
                one.stored, one.secured = first.stored, first.secured
        else:
            one.secured = self._journal.secure(answer, one.arrival)
            self._unstored[answer.verdict.seq] = one
            if len(self._unstored) > _UNSTORED:
                # one that is secured is stored by the next run, and keeps its place there until it is
                lost = next(each for each in self._unstored.values() if not each.secured)
                del self._unstored[lost.answer.verdict.seq]
                log.error("verdict_not_recorded", seq=lost.answer.verdict.seq, event_id=lost.answer.verdict.event_id)
                _settle(lost.stored, is_so=False)
            # the interpreter is the verdict's own while it leaves
            asyncio.get_running_loop().call_later(_STORE_DELAY_S if one.secured else 0, self._to_store.set)
        self._news.set()
        return one.stored

    async def run(self) -> None:
        """Dispatch until cancelled."""
        await together(("store verdicts", self._store), ("hand verdicts on", self._hand_on))

    async def _hand_on(self) -> None:
        while True:
            while not self._queue:
                self._news.clear()
                await self._news.wait()
            one = self._queue[0]
            if not one.secured:
                await self._stored_or_urgent(one)
            confirmed = {box.sink.name: box.put(one.answer, stored=one.stored) for box in self._outboxes}
            self._queue.popleft()
            task = asyncio.create_task(
                _acknowledge(one, confirmed.get(one.arrival.source)), name=f"answered {one.answer.verdict.seq}"
            )
            self._acknowledging[task] = one.arrival.source
            task.add_done_callback(self._acknowledging.pop)

    async def _stored_or_urgent(self, one: _Outgoing) -> None:
        """Wait until the verdict is stored, or until it, or one behind it, must leave."""
        while not one.stored.done():
            self._news.clear()
            patience_s = _PATIENCE_S if self._health.fault is None else _IMPATIENCE_S
            urgent_at = min(
                max(
                    waiting.since + _IMPATIENCE_S,
                    min(waiting.since + patience_s, waiting.answer.deadline_monotonic - self._margin.seconds),
                )
                for waiting in self._queue
            )
            left_s = urgent_at - self._clock.monotonic()
            if left_s <= 0:
                if patience_s == _PATIENCE_S and one.since + _PATIENCE_S <= self._clock.monotonic():
                    self._health.fault = "the journal does not answer"
                return
            news = asyncio.create_task(self._news.wait())
            either: set[asyncio.Future[Any]] = {one.stored, news}
            await asyncio.wait(either, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()

    async def _store(self) -> None:
        """Store verdicts, what comes together in one commit; what cannot be stored now is tried again."""
        while True:
            while not self._unstored:
                self._to_store.clear()
                await self._to_store.wait()
            batch = list(islice(self._unstored.values(), _BATCH))
            if not await self._store_batch(batch):
                await asyncio.sleep(_RETRY_S)
            for one in batch:
                if one.stored.done():
                    self._unstored.pop(one.answer.verdict.seq, None)

    async def _store_batch(self, batch: Sequence[_Outgoing]) -> bool:
        try:
            await self._journal.store([(one.answer, one.arrival) for one in batch])
        except JournalConflict as exc:
            if len(batch) > 1:
                return all([await self._store_batch([one]) for one in batch])
            log.error("verdict_conflicts", seq=batch[0].answer.verdict.seq, error=str(exc))
            _settle(batch[0].stored, is_so=False)
        except JournalError as exc:
            if self._health.fault != str(exc):  # told once, not once a second
                log.error("journal_store_failed", seq=batch[0].answer.verdict.seq, error=str(exc))
            self._health.fault = str(exc)
            self._news.set()
            return False
        else:
            self._health.fault = None
            for one in batch:
                _settle(one.stored, is_so=True)
        return True


async def _acknowledge(one: _Outgoing, confirmed: asyncio.Future[bool] | None) -> None:
    """Tell the source once the verdict outlives a crash: stored, or confirmed by the transport the event came by."""
    ways = {one.stored} if confirmed is None else {one.stored, confirmed}
    while ways:
        done, ways = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if any(way.result() for way in done):
            one.arrival.answered()
            return


def _settle(future: asyncio.Future[bool], *, is_so: bool) -> None:
    if not future.done():
        future.set_result(is_so)
