"""What the compute threads do when something under them breaks."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest

from schemas.messages import ImageRef, Reason
from schemas.settings import ComputeSettings, IntakeSettings
from service import compute
from service.admission import Admission
from service.compute import Compute, Failed, Job, Judged, Outcome
from service.errors import FrameMissing, RoiNotFound
from service.pipeline.types import Frame, Inspection, Prepared
from service.threads import ThreadStuck
from tests.support.line import CLOCK, OneFrame, ScriptedPipeline
from tests.support.waiting import eventually


class Hall:
    def __init__(self, pipeline: ScriptedPipeline, *, stuck_s: float, loader: OneFrame | None) -> None:
        self.pipeline = pipeline
        self.loader = loader or OneFrame()
        self.troubles: list[str] = []
        admission = Admission(IntakeSettings(capacity=100), clock=CLOCK, places=20)
        self.compute = Compute(self.loader, admission=admission, settings=ComputeSettings(stuck_s=stuck_s), max_batch=4)
        self.compute.on_trouble = self.troubles.append

    def has_prepared(self, frames: int) -> bool:
        return self.loader.loads == frames and self.compute._preparers.busy_for_s == 0

    async def judge(
        self, is_new: asyncio.Future[bool] | None = None, wanted: Callable[[], bool] = lambda: True
    ) -> Outcome:
        if is_new is None:
            is_new = asyncio.get_running_loop().create_future()
            is_new.set_result(True)
        job = Job(None, b"", self.pipeline.loaded, CLOCK.monotonic() + 60, wanted=wanted, is_new=is_new)
        return await self.compute.judge(job)


@asynccontextmanager
async def a_hall(
    pipeline: ScriptedPipeline, *, stuck_s: float = 20.0, loader: OneFrame | None = None
) -> AsyncIterator[Hall]:
    hall = Hall(pipeline, stuck_s=stuck_s, loader=loader)
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


async def test_compute_takes_no_thread_for_hung_after_the_process_stood_still() -> None:
    """A paused virtual machine: the part may be late, and its thread goes on."""
    async with a_hall(ScriptedPipeline(), stuck_s=1.0) as hall:
        hall.pipeline.hold()
        judging = asyncio.create_task(hall.judge())
        await eventually(lambda: hall.pipeline.waiting)
        time.sleep(2.0)  # noqa: ASYNC251 - this is what stands still
        await eventually(lambda: hall.compute._judge_thread.busy_for_s < 1.0)  # it is forgiven, or was replaced
        hall.pipeline.release()
        assert isinstance(await judging, Judged)
        assert hall.compute.in_work == 0


class HungDrive(OneFrame):
    """Frames lie on a network drive that hangs until `back`."""

    def __init__(self) -> None:
        super().__init__()
        self.back = threading.Event()

    def load(self, image: ImageRef | None, frame_bytes: bytes | None, *, until: float) -> Frame:
        frame = super().load(image, frame_bytes, until=until)
        assert self.back.wait(60)
        return frame


async def test_compute_takes_no_work_while_too_many_threads_hang() -> None:
    """A few are replaced; then frames are refused at once, those that wait too, until the drive is back."""
    drive = HungDrive()
    async with a_hall(ScriptedPipeline(), stuck_s=0.1, loader=drive) as hall:
        outcomes = await asyncio.gather(*(hall.judge() for _ in range(40)))
        assert all(isinstance(outcome, Failed) for outcome in outcomes)
        assert (hall.compute.refusing, hall.compute.stuck, hall.compute.in_work) == (True, True, 0)
        # two that hang, two in their place, and perhaps two more before it is seen that these hang as well
        assert 3 <= drive.loads <= 6
        loads = drive.loads
        refused = await hall.judge()
        assert isinstance(refused, Failed)
        assert (refused.reason, refused.detail) == (Reason.INTERNAL_ERROR, "too many threads hang")
        assert drive.loads == loads
        assert await hall.compute.on_judge_thread(lambda: "free") == "free"
        drive.back.set()
        await eventually(lambda: not hall.compute.refusing)
        assert isinstance(await hall.judge(), Judged)


async def test_compute_proves_no_model_while_too_many_judging_threads_hang() -> None:
    """Each proof would cost one more thread."""
    async with a_hall(ScriptedPipeline(), stuck_s=0.1) as hall:
        hall.pipeline.hold()
        while not hall.compute.refusing:
            assert isinstance(await hall.judge(), Failed)
        with pytest.raises(ThreadStuck):
            await hall.compute.on_judge_thread(lambda: None)
        hall.pipeline.release()
        await eventually(lambda: not hall.compute.refusing)
        assert isinstance(await hall.judge(), Judged)


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


class Layer:
    """What a network computes on the way, as large as the device's memory."""


class Hungry(ScriptedPipeline):
    """Has room for the layer of one frame, not for that of a batch; looks what is still there at each try."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[weakref.ref[Layer]] = []
        self.alive: list[int] = []

    def judge(self, prepared: Sequence[Prepared]) -> list[Inspection]:
        self.alive.append(sum(layer() is not None for layer in self.layers))
        layer = Layer()
        self.layers.append(weakref.ref(layer))
        if len(prepared) > 1:
            raise MemoryError("no room for the next layer")
        return super().judge(prepared)


def test_compute_holds_nothing_of_a_batch_that_failed_while_its_frames_are_tried() -> None:
    """A traceback keeps the locals of the failed pass: beside them one frame would not fit either."""
    pipeline = Hungry()
    asked: asyncio.Future[bool] = asyncio.Future(loop=asyncio.new_event_loop())
    job = Job(None, b"", pipeline.loaded, CLOCK.monotonic() + 60, wanted=lambda: True, is_new=asked)
    frame = pipeline.prepare(OneFrame().load(None, b"", until=0.0))
    group = [compute._Ready(frame, job, asyncio.Future(loop=asked.get_loop())) for _ in range(3)]
    gc.disable()
    try:
        outcomes = compute._judge_group(group)
    finally:
        gc.enable()
        asked.get_loop().close()
    assert all(isinstance(outcome, Judged) for outcome in outcomes)
    assert pipeline.alive == [0, 0, 0, 0]


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


class Blind(ScriptedPipeline):
    """Looks for `took_s`, and finds nothing or breaks."""

    def __init__(self, error: Exception, took_s: float = 0.02) -> None:
        super().__init__()
        self.failure = error
        self.took_s = took_s

    def prepare(self, frame: Frame) -> Prepared:  # noqa: ARG002 - the pipeline's signature
        time.sleep(self.took_s)
        raise self.failure


@pytest.mark.parametrize("error", [RoiNotFound("blank"), ValueError("a defect")])
async def test_compute_says_how_long_it_looked_for_an_roi_that_is_not_there(error: Exception) -> None:
    """A stage that ran has its time, though it ended in nothing; those behind it did not run."""
    async with a_hall(Blind(error)) as hall:
        outcome = await hall.judge()
    assert isinstance(outcome, Failed)
    assert outcome.load_ms is not None
    assert outcome.roi_ms is not None
    assert outcome.roi_ms >= 20
    assert outcome.normalize_ms is None
    assert outcome.frame is not None


async def test_compute_tells_the_loader_how_long_a_frame_is_waited_for() -> None:
    """A host that is silent holds no thread for longer: other frames want it."""
    async with a_hall(ScriptedPipeline()) as hall:
        before = CLOCK.monotonic()
        assert isinstance(await hall.judge(), Judged)
        assert before + 60 <= hall.loader.until <= CLOCK.monotonic() + 60


async def test_compute_names_only_the_loading_of_a_frame_that_is_not_there() -> None:
    """It was tried; nothing was looked for."""
    async with a_hall(ScriptedPipeline()) as hall:
        hall.loader.error = FrameMissing("gone")
        outcome = await hall.judge()
    assert isinstance(outcome, Failed)
    assert outcome.load_ms is not None
    assert (outcome.roi_ms, outcome.normalize_ms, outcome.frame) == (None, None, None)


async def test_compute_keeps_the_stages_before_judging_failed() -> None:
    """The device is lost, or the thread hung: the frame had been made ready all the same."""
    async with a_hall(Breaking(1)) as hall:
        outcome = await hall.judge()
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.roi_ms, outcome.normalize_ms) == (Reason.INTERNAL_ERROR, 1.0, 1.0)
    async with a_hall(ScriptedPipeline(), stuck_s=0.3) as hall:
        hall.pipeline.hold()
        outcome = await hall.judge()
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.roi_ms, outcome.normalize_ms) == (Reason.INTERNAL_ERROR, 1.0, 1.0)


async def test_compute_keeps_the_stages_of_a_frame_that_nobody_waits_for() -> None:
    """Its deadline passed when it was ready, before its turn to be judged; or it turned out to be known."""
    asked = iter([True, True, False])  # before loading, after it, before judging
    async with a_hall(ScriptedPipeline()) as hall:
        outcome = await hall.judge(wanted=lambda: next(asked, False))
        known: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        known.set_result(False)
        repeated = await hall.judge(known)
        assert hall.pipeline.judged == 0
    for failed in (outcome, repeated):
        assert isinstance(failed, Failed)
        assert (failed.reason, failed.roi_ms, failed.normalize_ms) == (Reason.DEADLINE_MISSED, 1.0, 1.0)
        assert failed.load_ms is not None
        assert failed.frame is not None
