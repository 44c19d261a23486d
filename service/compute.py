"""Runs the pipeline on threads of its own, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from schemas.messages import ImageRef, ModelRef, Reason
from service.errors import FrameError
from service.pipeline.types import Frame, Inspection, Prepared
from service.ports import FrameLoader

if TYPE_CHECKING:  # importing it takes seconds (torch), which only who loads a model must spend
    from service.pipeline.pipeline import Pipeline

log = structlog.get_logger(__name__)


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


@dataclass(frozen=True, slots=True)
class Failed:
    """No judgement was possible; `frame` and `load_ms` are there where the frame could be loaded."""

    reason: Reason
    detail: str
    model: ModelRef | None = None
    frame: Frame | None = None
    load_ms: float | None = None


Outcome = Judged | Failed


@dataclass(frozen=True, slots=True)
class Job:
    """One frame to be judged.

    wanted: asked before each costly step; stops a job whose answer is too late. is_new: told once the journal was
    asked; a frame is made ready meanwhile, but costs no inference where its event was answered before.
    """

    image: ImageRef | None
    frame_bytes: bytes | None
    model: LoadedModel
    wanted: Callable[[], bool]
    is_new: Awaitable[bool]


@dataclass(frozen=True, slots=True)
class _Ready:
    prepared: Prepared
    job: Job
    load_ms: float
    outcome: asyncio.Future[Outcome]


class Compute:
    """Loads and prepares frames on several threads and judges them, in micro-batches, on one.

    OpenCV and torch release the GIL, so the event loop runs on meanwhile.
    """

    def __init__(self, loader: FrameLoader, *, prepare_workers: int, max_batch: int) -> None:
        self._loader = loader
        self._max_batch = max_batch
        self._preparers = ThreadPoolExecutor(prepare_workers, thread_name_prefix="prepare")
        self._judge_thread = ThreadPoolExecutor(1, thread_name_prefix="judge")
        # no bound of its own: the inspector admits only as many jobs as `intake.capacity`
        self._ready: asyncio.Queue[_Ready] = asyncio.Queue()
        self._judging_since: float | None = None

    @property
    def judging_for_s(self) -> float:
        """Return how long the batch in work has taken so far, 0.0 where there is none."""
        since = self._judging_since
        return 0.0 if since is None else time.monotonic() - since

    async def judge(self, job: Job) -> Outcome:
        """Return what the pipeline says about one frame. Never raises on a bad frame."""
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._preparers, self._prepare, job)
        is_new = await job.is_new
        if isinstance(prepared, Failed):
            return prepared
        load_ms, ready = prepared
        if not is_new:
            return _abandoned(job, ready.frame, load_ms)
        outcome: asyncio.Future[Outcome] = loop.create_future()
        self._ready.put_nowait(_Ready(ready, job, load_ms, outcome))
        return await outcome

    async def run(self) -> None:
        """Judge what is ready until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._ready.get()]
            while len(batch) < self._max_batch and not self._ready.empty():
                batch.append(self._ready.get_nowait())
            self._judging_since = time.monotonic()
            try:
                outcomes = await loop.run_in_executor(self._judge_thread, _judge_batch, batch)
            finally:
                self._judging_since = None
            for ready, outcome in zip(batch, outcomes, strict=True):
                if not ready.outcome.done():
                    ready.outcome.set_result(outcome)

    def close(self) -> None:
        """Let the threads go; a frame in work is finished and forgotten."""
        self._preparers.shutdown(wait=False, cancel_futures=True)
        self._judge_thread.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, job: Job) -> tuple[float, Prepared] | Failed:
        if not job.wanted():
            return _abandoned(job)
        began = time.perf_counter()
        frame: Frame | None = None
        load_ms: float | None = None
        try:
            frame = self._loader.load(job.image, job.frame_bytes)
            load_ms = (time.perf_counter() - began) * 1000
            if not job.wanted():
                return _abandoned(job, frame, load_ms)
            return load_ms, job.model.pipeline.prepare(frame)
        except FrameError as exc:
            return Failed(exc.reason, str(exc), job.model.ref, frame, load_ms)
        except Exception as exc:  # the supervised boundary: a defect ends in a fail-safe verdict
            log.exception("prepare_failed")
            return Failed(Reason.INTERNAL_ERROR, _one_line(exc), job.model.ref, frame, load_ms)


def _judge_batch(batch: list[_Ready]) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    wanted: dict[int, list[_Ready]] = {}
    for ready in batch:
        if ready.job.wanted():
            # a batch is judged by one pipeline; around an activation it may hold frames of two
            wanted.setdefault(id(ready.job.model), []).append(ready)
        else:
            outcomes[id(ready)] = _abandoned(ready.job, ready.prepared.frame, ready.load_ms)
    for group in wanted.values():
        outcomes.update(zip(map(id, group), _judge_group(group), strict=True))
    return [outcomes[id(ready)] for ready in batch]


def _judge_group(group: list[_Ready]) -> list[Outcome]:
    model = group[0].job.model
    try:
        inspections = model.pipeline.judge([ready.prepared for ready in group])
    except Exception as exc:  # the supervised boundary, as above
        if len(group) > 1:  # one bad frame must not take its neighbours along
            return [outcome for ready in group for outcome in _judge_group([ready])]
        log.exception("judge_failed")
        only = group[0]
        return [Failed(Reason.INTERNAL_ERROR, _one_line(exc), model.ref, only.prepared.frame, only.load_ms)]
    return [Judged(inspection, model.ref, ready.load_ms) for inspection, ready in zip(inspections, group, strict=True)]


def _abandoned(job: Job, frame: Frame | None = None, load_ms: float | None = None) -> Failed:
    return Failed(Reason.DEADLINE_MISSED, "nobody waited for it when its turn came", job.model.ref, frame, load_ms)


def _one_line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:200]
