"""What the compute threads do when something under them breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest

from schemas.messages import Reason
from schemas.settings import ComputeSettings, IntakeSettings
from service.admission import Admission
from service.compute import Compute, Failed, Job, Judged, Outcome
from service.pipeline.types import Inspection, Prepared
from tests.support.line import CLOCK, OneFrame, ScriptedPipeline
from tests.support.waiting import eventually


class Hall:
    def __init__(self, pipeline: ScriptedPipeline, *, stuck_s: float = 20.0) -> None:
        self.pipeline = pipeline
        self.loader = OneFrame()
        self.troubles: list[str] = []
        admission = Admission(IntakeSettings(capacity=100), clock=CLOCK, places=20)
        self.compute = Compute(self.loader, admission=admission, settings=ComputeSettings(stuck_s=stuck_s), max_batch=4)
        self.compute.on_trouble = self.troubles.append

    def has_prepared(self, frames: int) -> bool:
        return self.loader.loads == frames and self.compute._preparers.busy_for_s == 0

    async def judge(self, is_new: asyncio.Future[bool] | None = None) -> Outcome:
        if is_new is None:
            is_new = asyncio.get_running_loop().create_future()
            is_new.set_result(True)
        job = Job(None, b"", self.pipeline.loaded, CLOCK.monotonic() + 60, wanted=lambda: True, is_new=is_new)
        return await self.compute.judge(job)


@asynccontextmanager
async def a_hall(pipeline: ScriptedPipeline, *, stuck_s: float = 20.0) -> AsyncIterator[Hall]:
    hall = Hall(pipeline, stuck_s=stuck_s)
    watching = asyncio.create_task(hall.compute.watch())
    try:
        yield hall
    finally:
        pipeline.release()
        watching.cancel()
        hall.compute.close()


async def test_compute_replaces_a_judging_thread_that_hangs() -> None:
    """The batch in it ends as an error, the station says that it hangs, and the next frame is judged."""
    async with a_hall(ScriptedPipeline(), stuck_s=0.3) as hall:
        hall.pipeline.hold()
        hanging = asyncio.create_task(hall.judge())
        await eventually(lambda: hall.compute.stuck)
        outcome = await hanging
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.INTERNAL_ERROR
        assert "a thread hung for 0.3 s" in hall.troubles
        hall.pipeline.release()
        assert isinstance(await hall.judge(), Judged)
        assert not hall.compute.stuck
        assert hall.compute.in_work == 0


class Breaking(ScriptedPipeline):
    """Fails in its first batch as a GPU does: for the whole batch, then for one frame of it."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def judge(self, prepared: Sequence[Prepared]) -> list[Inspection]:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().judge(prepared)


@pytest.mark.parametrize(("failures", "lost"), [(1, 0), (2, 1), (3, 2)])
async def test_compute_judges_one_by_one_what_does_not_fit_together(failures: int, lost: int) -> None:
    """Memory that runs out over a batch costs the batch nothing where its frames fit alone."""
    async with a_hall(Breaking(failures)) as hall:
        hall.pipeline.hold()
        first = asyncio.create_task(hall.judge())
        await asyncio.sleep(0)
        others = [asyncio.create_task(hall.judge()) for _ in range(3)]
        await eventually(lambda: hall.compute.in_work == 4)
        hall.pipeline.release()
        outcomes = await asyncio.gather(first, *others)
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        # a frame that was alone in its batch has no second try
        assert lost <= len(failed) <= failures
        assert all("out of memory" in outcome.detail for outcome in failed)
        assert len(hall.troubles) == len(failed)
        assert isinstance(await hall.judge(), Judged)


async def test_compute_judges_nothing_that_was_answered_before() -> None:
    """The journal is asked while the frame is made ready; a known event costs no inference, whichever comes first."""
    async with a_hall(ScriptedPipeline()) as hall:
        for is_new in (True, False):
            for told_first in (True, False):
                asked: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                if told_first:
                    asked.set_result(is_new)
                loads = hall.loader.loads
                outcome = asyncio.create_task(hall.judge(asked))
                if not told_first:
                    await eventually(partial(hall.has_prepared, loads + 1))
                    assert not outcome.done()
                    asked.set_result(is_new)
                assert isinstance(await outcome, Judged if is_new else Failed)
        assert hall.compute.in_work == 0
