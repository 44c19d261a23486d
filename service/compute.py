"""Runs the pipeline on threads of its own, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

import structlog

from schemas.messages import ImageRef, ModelRef, Reason
from schemas.settings import ComputeSettings, IntakeSettings
from service.admission import Admission
from service.errors import FrameError
from service.pipeline.types import Frame, Inspection, Prepared
from service.ports import Clock, FrameLoader
from service.text import brief
from service.threads import DaemonThreads, ThreadStuck

if TYPE_CHECKING:  # importing it takes seconds (torch), which only who loads a model must spend
    import torch

    from service.pipeline.pipeline import Pipeline

log = structlog.get_logger(__name__)

T = TypeVar("T")

_WATCH_S = 0.25


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model package that is ready to judge."""

    pipeline: Pipeline
    ref: ModelRef


@dataclass(frozen=True, slots=True)
class Judged:
    """A frame was judged."""

    inspection: Inspection
    model: ModelRef
    load_ms: float

    @property
    def frame(self) -> Frame:
        """Return what was judged."""
        return self.inspection.prepared.frame


@dataclass(frozen=True, slots=True)
class Failed:
    """No judgement was possible.

    frame: there where it could be loaded. load_ms, roi_ms, normalize_ms: of the stages that ran; what failed within
    making the frame ready has the time until then in roi_ms, whichever of the two it was. rejects: whatever the plant
    chose for errors.
    """

    reason: Reason
    detail: str
    model: ModelRef | None = None
    frame: Frame | None = None
    load_ms: float | None = None
    roi_ms: float | None = None
    normalize_ms: float | None = None
    rejects: bool = False


Outcome = Judged | Failed


@dataclass(slots=True)
class Stages:
    """What of a frame is done: written on the threads, read by whoever gives the frame up meanwhile."""

    frame: Frame | None = None
    load_ms: float | None = None
    roi_ms: float | None = None
    normalize_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One frame to be judged.

    decide_by: when its outcome must be there, on `Clock.monotonic`. wanted: asked before each costly step; stops a job
    whose answer is too late. promised: it is not turned away for want of room. is_new: told once the journal was asked;
    a frame is made ready meanwhile, but costs no inference where its event was answered before. done: its stages.
    """

    image: ImageRef | None
    frame_bytes: bytes | None
    model: LoadedModel
    decide_by: float
    wanted: Callable[[], bool]
    is_new: asyncio.Future[bool]
    promised: bool = False
    done: Stages = field(default_factory=Stages)

    @classmethod
    def undated(cls, image: ImageRef | None, frame_bytes: bytes | None, model: LoadedModel) -> Self:
        """Return a job that waits for its turn, however long: nobody needs its outcome by a time."""
        is_new: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        is_new.set_result(True)
        return cls(image, frame_bytes, model, math.inf, wanted=lambda: True, is_new=is_new)

    def failed(self, reason: Reason, why: str) -> Failed:
        """Return that the frame could not be judged, with the stages that are done."""
        done = self.done
        return Failed(reason, why, self.model.ref, done.frame, done.load_ms, done.roi_ms, done.normalize_ms)

    def missed(self) -> Failed:
        """Return that nobody waited for the frame when its turn came."""
        return self.failed(Reason.DEADLINE_MISSED, "nobody waited for it when its turn came")


@dataclass(frozen=True, slots=True)
class _Ready:
    """A frame that waits for the judging thread."""

    prepared: Prepared
    job: Job
    outcome: asyncio.Future[Outcome]


@dataclass(frozen=True, slots=True)
class _Turn:
    """One call of the judging thread: which frames it took, and what became of them."""

    batch: list[_Ready]
    outcomes: asyncio.Future[list[Outcome]]


_HANGING_MAX = 3
"""So many threads left behind mean that the machine hangs, not a frame."""

_TOO_MANY_HANG = "too many threads hang"


class Compute:
    """Loads and prepares frames on several threads and judges them, in micro-batches, on one.

    OpenCV and torch release the GIL, so the event loop runs on meanwhile. A thread that hangs is replaced, and what it
    had in work ends as Failed. Where too many hang, no work is taken until some of them come back: each would cost one
    more thread.

    Args:
        loader: fetches frames.
        admission: who is next.
        settings: how many threads, and after how long one of them hangs.
        max_batch: the largest micro-batch.
    """

    def __init__(
        self,
        loader: FrameLoader,
        *,
        admission: Admission,
        settings: ComputeSettings,
        max_batch: int,
    ) -> None:
        self._loader = loader
        self._admission = admission
        self._stuck_s = settings.stuck_s
        self.max_batch = max_batch
        self.on_trouble: Callable[[str], None] = lambda _: None
        """Told, on the event loop, when a thread had to be replaced or judging failed for no fault that the frame is
        known to have: memory that ran out, a device that is gone."""
        self._preparers = DaemonThreads("prepare", settings.prepare_workers)
        self._judge_thread = DaemonThreads("judge")
        self._given_up: list[DaemonThreads] = []
        # no bound of its own: only so many jobs are let in
        self._ready: deque[_Ready] = deque()

    @classmethod
    def of(
        cls, settings: ComputeSettings, intake: IntakeSettings, loader: FrameLoader, device: torch.device, clock: Clock
    ) -> Self:
        """Return one as wide as settings and device make it."""
        # batching gains nothing on a CPU and makes the first of a batch wait for the last
        max_batch = 1 if device.type == "cpu" else settings.max_batch
        # while one batch is judged the next one is made ready
        admission = Admission(intake, clock=clock, places=settings.prepare_workers + 2 * max_batch - 1)
        return cls(loader, admission=admission, settings=settings, max_batch=max_batch)

    @property
    def in_work(self) -> int:
        """Return how many frames are in work or wait for their turn."""
        return self._admission.in_work

    @property
    def places(self) -> int:
        """Return how many frames are let in at the same time."""
        return self._admission.places

    @property
    def has_room(self) -> bool:
        """Tell whether one more frame would be taken rather than turned away."""
        return self._admission.has_room

    @property
    def stuck(self) -> bool:
        """Tell whether a thread hangs now, or so many were left behind that the machine does."""
        return self.refusing or any(pool.busy_for_s > self._stuck_s for pool in self._pools)

    @property
    def refusing(self) -> bool:
        """Tell whether so many threads were left behind that every frame ends as Failed at once."""
        return bool(self._given_up)

    async def judge(self, job: Job) -> Outcome:
        """Return what the pipeline says about one frame. Never raises on a bad frame."""
        if self.refusing:
            return _refused(job)
        entered = await self._admission.enter(job.decide_by, promised=job.promised)
        if entered is None:
            return Failed(Reason.OVERLOAD, f"no time for it behind {self.in_work} others", job.model.ref)
        try:
            return await self._judge(job)
        except ThreadStuck as exc:
            return Failed(Reason.INTERNAL_ERROR, str(exc), job.model.ref)
        finally:
            self._admission.leave(entered, in_time=job.wanted())

    async def watch(self) -> None:
        """Replace threads that hang, until cancelled."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_WATCH_S)
            asleep_s = time.monotonic() - before - _WATCH_S
            if asleep_s > _WATCH_S:  # the process was frozen, and its threads with it
                self._admission.stood_still(asleep_s)
                for pool in self._pools:
                    pool.forgive(asleep_s)
            replaced = [pool.replace_stuck(self._stuck_s) for pool in self._pools]
            self._given_up = [pool for pool in self._pools if pool.hanging >= _HANGING_MAX]
            if any(replaced):
                self.on_trouble(f"a thread hung for {self._stuck_s:g} s")

    def on_judge_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Return what `work` returns, or raises, on the one thread that may use a model. Raises ThreadStuck."""
        if self._judge_thread in self._given_up:
            raise ThreadStuck(_TOO_MANY_HANG)
        return self._judge_thread.submit(work)

    def close(self) -> None:
        """Let the threads go; a frame in work is finished and forgotten."""
        self._preparers.close()
        self._judge_thread.close()

    @property
    def _pools(self) -> tuple[DaemonThreads, DaemonThreads]:
        return self._preparers, self._judge_thread

    async def _judge(self, job: Job) -> Outcome:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        turn = self._turn()
        prepared = await self._preparers.submit(partial(self._prepare_and_hand_over, job, outcome, turn))
        if prepared is None:
            return await outcome
        is_new = await job.is_new
        if isinstance(prepared, Failed):
            self._look_for_trouble(prepared)
            return prepared
        if not is_new:
            return prepared.job.missed()
        self._hand_over(prepared, turn)
        return await outcome

    def _look_for_trouble(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failed) and outcome.reason is Reason.INTERNAL_ERROR:
            self.on_trouble(outcome.detail)

    def _turn(self) -> _Turn:
        turn = _Turn([], asyncio.get_running_loop().create_future())
        turn.outcomes.add_done_callback(lambda outcomes: self._tell(turn.batch, outcomes))
        return turn

    def _tell(self, batch: Sequence[_Ready], done: asyncio.Future[list[Outcome]]) -> None:
        fault = done.exception()
        if fault is None:
            outcomes = done.result()
        else:
            outcomes = [ready.job.failed(Reason.INTERNAL_ERROR, str(fault)) for ready in batch]
        for ready, outcome in zip(batch, outcomes, strict=True):
            if not ready.outcome.done():
                ready.outcome.set_result(outcome)
            self._look_for_trouble(outcome)

    # from here on: on the threads

    def _prepare_and_hand_over(self, job: Job, outcome: asyncio.Future[Outcome], turn: _Turn) -> Failed | _Ready | None:
        """Make a frame ready; None where it waits for the judging thread already, without a detour by the loop."""
        ready = self._prepare(job, outcome)
        # only looked at: whatever it says later, the loop will see to it
        if isinstance(ready, Failed) or not (job.is_new.done() and job.is_new.result()):
            return ready
        self._hand_over(ready, turn)
        return None

    def _prepare(self, job: Job, outcome: asyncio.Future[Outcome]) -> _Ready | Failed:
        if not job.wanted():
            return job.missed()
        if self.refusing:  # it waited while the others hung
            return _refused(job)
        began = time.perf_counter()
        loaded: float | None = None
        try:
            frame = self._loader.load(job.image, job.frame_bytes, until=job.decide_by)
            loaded = time.perf_counter()
            job.done.frame, job.done.load_ms = frame, (loaded - began) * 1000
            if not job.wanted():
                return job.missed()
            prepared = job.model.pipeline.prepare(frame)
            job.done.roi_ms, job.done.normalize_ms = prepared.times.roi, prepared.times.normalize
            return _Ready(prepared, job, outcome)
        except FrameError as exc:
            failed = job.failed(exc.reason, str(exc))
        except Exception as exc:  # the supervised boundary: a defect ends in a fail-safe verdict
            log.exception("prepare_failed")
            failed = job.failed(Reason.INTERNAL_ERROR, brief(exc))
        spent_ms = (time.perf_counter() - (began if loaded is None else loaded)) * 1000
        return replace(failed, load_ms=spent_ms) if loaded is None else replace(failed, roi_ms=spent_ms)

    def _hand_over(self, ready: _Ready, turn: _Turn) -> None:
        self._ready.append(ready)
        self._judge_thread.call(partial(self._judge_next, turn.batch), turn.outcomes)

    def _judge_next(self, batch: list[_Ready]) -> list[Outcome]:
        """Take into `batch` what waits and judge it; nothing where an earlier turn took all there was."""
        while self._ready and len(batch) < self.max_batch:
            batch.append(self._ready.popleft())
        return _judge_batch(batch)


def _judge_batch(batch: list[_Ready]) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    wanted: dict[int, list[_Ready]] = {}
    for ready in batch:
        if ready.job.wanted():
            # a batch is judged by one pipeline; around an activation it may hold frames of two
            wanted.setdefault(id(ready.job.model), []).append(ready)
        else:
            outcomes[id(ready)] = ready.job.missed()
    for group in wanted.values():
        outcomes.update(zip(map(id, group), _judge_group(group), strict=True))
    return [outcomes[id(ready)] for ready in batch]


def _judge_group(group: list[_Ready]) -> list[Outcome]:
    model = group[0].job.model
    try:
        inspections = model.pipeline.judge([ready.prepared for ready in group])
    except Exception as exc:  # the supervised boundary, as above
        if len(group) == 1:
            log.exception("judge_failed")
            return [group[0].job.failed(Reason.INTERNAL_ERROR, brief(exc))]
        log.warning("batch_failed", frames=len(group), error=brief(exc))
    else:
        return [
            Judged(inspection, model.ref, ready.job.done.load_ms or 0.0)
            for inspection, ready in zip(inspections, group, strict=True)
        ]
    # One bad frame must not take its neighbours along. Not within the block above: the exception holds all that the
    # failed pass had made, and where memory ran out there would be no room for a single frame beside it.
    from service.device import release_memory  # noqa: PLC0415 - torch, as above

    release_memory()
    return [outcome for ready in group for outcome in _judge_group([ready])]


def _refused(job: Job) -> Failed:
    return Failed(Reason.INTERNAL_ERROR, _TOO_MANY_HANG, job.model.ref)
