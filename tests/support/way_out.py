"""A dispatcher with one outbox, and what went through them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.deadline import Margin
from service.dispatch import Dispatcher
from service.journal_health import JournalHealth
from service.outbox import Outbox
from service.ports import Clock, Journal, VerdictSink
from tests.support.line import CLOCK, RecordingSink, arrival
from tests.support.memory_journal import MemoryJournal
from tests.support.verdicts import failed_answer
from tests.support.waiting import eventually


@asynccontextmanager
async def delivering(sink: VerdictSink, journal: Journal | None = None) -> AsyncIterator[Outbox]:
    """Run the way of verdicts to a sink, as the service has it."""
    outbox = Outbox(sink, journal=journal, clock=CLOCK)
    await outbox.recover(0)
    task = asyncio.create_task(outbox.run())
    try:
        yield outbox
    finally:
        task.cancel()
        await asyncio.wait([task])


class Out:
    """A dispatcher with one sink."""

    def __init__(self, journal: MemoryJournal, sink: RecordingSink, clock: Clock) -> None:
        self.journal = journal
        self.sink = sink
        margin = Margin(25, clock=clock)
        self.outbox = Outbox(self.sink, journal=journal, clock=clock, margin=margin)
        self.health = JournalHealth()
        self.dispatcher = Dispatcher(journal, [self.outbox], clock=clock, margin=margin, health=self.health)
        self.acknowledged: list[str] = []

    async def send(self, seq: int, *, repeated: bool = False) -> None:
        name = f"e{seq}"
        event = arrival(name, answered=lambda: self.acknowledged.append(name))
        if not self.journal.failing:
            await self.journal.accept(event, event.received_at)
        self.dispatcher.dispatch(failed_answer(event, seq, left_s=60, repeated=repeated), event)

    async def idle(self) -> None:
        await eventually(lambda: self.dispatcher.idle)


@asynccontextmanager
async def an_exit(
    journal: MemoryJournal | None = None, sink: RecordingSink | None = None, *, clock: Clock = CLOCK
) -> AsyncIterator[Out]:
    out = Out(journal or MemoryJournal(), sink or RecordingSink(), clock)
    failing, out.journal.failing = out.journal.failing, False
    await out.outbox.recover(await out.journal.last_seq())
    out.journal.failing = failing
    tasks = [asyncio.create_task(out.outbox.run()), asyncio.create_task(out.dispatcher.run())]
    try:
        yield out
    finally:
        for task in tasks:
            task.cancel()


def seqs(out: Out) -> list[int]:
    return [answer.verdict.seq for answer in out.sink.published]


async def stored(journal: MemoryJournal, *numbers: int) -> None:
    """Have verdicts in the journal, as an earlier run left them."""
    for seq in numbers:
        event = arrival(f"e{seq}")
        await journal.store([(failed_answer(event, seq), event)])
