"""An inspector to test with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from schemas.settings import DeadlineSettings, Settings
from service.admission import Admission
from service.compute import Compute, LoadedModel
from service.deadline import Margin
from service.errors import FrameError
from service.inspector import Inspector
from service.journal_health import JournalHealth
from service.ports import Answer, Arrival, Clock, Journal
from tests.support.line import CLOCK, OneFrame, ScriptedPipeline
from tests.support.memory_journal import MemoryJournal

PATIENT = DeadlineSettings(default_ms=60_000)
"""No verdict of these tests may depend on how busy the machine is."""


class Line:
    """An inspector with everything around it in memory."""

    def __init__(
        self,
        settings: Settings,
        pipeline: ScriptedPipeline,
        loader: OneFrame,
        clock: Clock,
        journal: Journal | None = None,
    ) -> None:
        self.journal = MemoryJournal()
        self.health = JournalHealth()
        self.pipeline = pipeline
        self.loader = loader
        self.model: LoadedModel | None = pipeline.loaded
        self.answers: list[Answer] = []
        self.stored = True
        admission = Admission(settings.intake, clock=clock, places=4)
        self.compute = Compute(loader, admission=admission, settings=settings.compute, max_batch=4)
        self.inspector = Inspector(
            settings,
            clock=clock,
            journal=journal or self.journal,
            compute=self.compute,
            margin=Margin(25, clock=clock),
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
    settings: Settings | None = None,
    *,
    pipeline: ScriptedPipeline | None = None,
    error: FrameError | None = None,
    clock: Clock = CLOCK,
    journal: Journal | None = None,
) -> AsyncIterator[Line]:
    """Lend a line; journal: of an earlier run, in place of its own."""
    line = Line(settings or Settings(deadline=PATIENT), pipeline or ScriptedPipeline(), OneFrame(error), clock, journal)
    try:
        yield line
    finally:
        line.pipeline.release()
        line.compute.close()
