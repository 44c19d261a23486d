"""How quick a model is on this computer: its stages one part at a time, and how many parts a second at full load."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

import cv2
import torch
from pydantic import Field

from schemas.base import UtcDatetime, Value
from schemas.messages import ModelRef, Reason, StagesMs
from schemas.recipe import Recipe
from schemas.settings import ComputeSettings, DeadlineSettings, IntakeSettings, LogSettings
from service.compute import Compute, Failed, Job, LoadedModel
from service.deadline import Margin
from service.device import compute_device
from service.errors import EvaluationFailed
from service.evaluation.fresh_process import peak_memory_bytes
from service.logs import configure_logging
from service.model.dataset import FrameFile
from service.model.package import read_package
from service.percentiles import percentile
from service.pipeline.types import Progress, StageProgress
from service.ports import Clock, FrameLoader

STAGES = tuple(StagesMs.model_fields)
"""The stages of a verdict's `stages_ms`, in their order."""

_HELD_BYTES = 512 * 1024 * 1024
"""Encoded frames that are held: some hundred frames of a camera are as good as all of them."""

_WARM_S, _WARM_PARTS = 1.0, 3
"""How long each kind of load is tried before anything counts, and on how many parts at least."""


class Spread(Value):
    """How long something took, ms."""

    median: float
    p95: float
    p99: float
    slowest: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Self:
        """Return the spread of what was measured, which is something."""
        median, p95, p99, slowest = (percentile(milliseconds, percent) or 0.0 for percent in (50, 95, 99, 100))
        return cls(median=median, p95=p95, p99=p99, slowest=slowest)


class Computer(Value):
    """What judged, and how wide."""

    cpu: str
    cores: int
    device: str = Field(description="name of the GPU, or cpu")
    torch_threads: int
    opencv_threads: int
    workers: int = Field(description="threads that load, cut out and normalise frames; one more judges")
    max_batch: int = Field(description="frames that are judged together at most")


class FramesUsed(Value):
    """What was judged, over and over. left_out: pictures that were not read, for their sheer mass."""

    count: int
    left_out: int
    encoded_bytes: int
    sizes_wh: tuple[tuple[int, int], ...]


class RefusedFrame(Value):
    """A frame that cannot be judged; it was tried once."""

    name: str
    reason: Reason
    detail: str


class Load(Value):
    """Parts judged, so many at the same time. whole_ms: of one of them, from its bytes to its boxes."""

    at_a_time: int
    parts: int
    seconds: float
    parts_per_s: float
    whole_ms: Spread


class Speed(Value):
    """What a model takes on a computer.

    stages_ms: one part at a time. in_time_per_s: parts a second that are judged before their deadline less its margin,
    of which 1% may take longer; 0.0, none.
    """

    created_at: UtcDatetime
    model: ModelRef
    recipe: Recipe
    input_side: int = Field(description="side of the embedder's input, px")
    bank_size: int = Field(description="vectors of the memory bank")
    computer: Computer
    frames: FramesUsed
    refused: tuple[RefusedFrame, ...]
    stages_ms: dict[str, Spread]
    one_at_a_time: Load
    full_load: Load
    peak_memory_bytes: int | None = Field(description="most resident memory of the process, encoded frames included")
    peak_gpu_bytes: int | None = Field(description="most memory allocated on the GPU; null without one")
    deadline_ms: int
    margin_ms: float = Field(description="kept of the deadline for storing the verdict and saying it")
    in_time_per_s: float


@dataclass(frozen=True, slots=True)
class SpeedTrial:
    """All that a fresh process is told. seconds: how long is measured; max_bytes: the largest frame that is read."""

    package: Path
    files: Sequence[FrameFile]
    seconds: float
    compute: ComputeSettings
    deadline: DeadlineSettings
    loader: FrameLoader
    max_bytes: int
    clock: Clock


def measure_speed(trial: SpeedTrial, progress: StageProgress) -> Speed:
    """Judge the frames in turn as the service does, half of the time one at a time and half at full load.

    Call in a process of its own: the memory is then that of the model, and logging is set up anew.

    Raises:
        PackageError: the model cannot be used.
        UsageError: the device is not there.
        EvaluationFailed: none of the frames can be judged.
    """
    configure_logging(LogSettings(level="error"))
    device = compute_device(trial.compute)
    package = read_package(trial.package)
    pipeline = package.build_pipeline(device)
    frames = _Frames()
    frames.read(trial.files, trial.max_bytes, partial(progress, "read"))
    compute = Compute.of(trial.compute, IntakeSettings(capacity=sys.maxsize), trial.loader, device, trial.clock)
    line = _Line(compute, LoadedModel(pipeline, package.ref), frames)
    try:
        alone, together = asyncio.run(_both_loads(line, trial.seconds, compute.places, progress))
    finally:
        compute.close()
    one_at_a_time, full_load = alone.as_load(), together.as_load()
    deadline_ms = trial.deadline.default_ms
    margin = Margin(trial.deadline.margin_ms, clock=trial.clock)
    margin_ms = 1000 * margin.seconds * margin.share(deadline_ms)
    return Speed(
        created_at=datetime.now(UTC),
        model=package.ref,
        recipe=pipeline.recipe,
        input_side=pipeline.embedder.input_side,
        bank_size=len(pipeline.bank),
        computer=Computer(
            cpu=_cpu_name(),
            cores=os.cpu_count() or 1,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            torch_threads=torch.get_num_threads(),
            opencv_threads=cv2.getNumThreads(),
            workers=trial.compute.prepare_workers,
            max_batch=compute.max_batch,
        ),
        frames=frames.used(len(trial.files)),
        refused=tuple(frames.refused.values()),
        stages_ms={stage: Spread.of([part.stages_ms[stage] for part in alone.parts]) for stage in STAGES},
        one_at_a_time=one_at_a_time,
        full_load=full_load,
        peak_memory_bytes=peak_memory_bytes(),
        peak_gpu_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        deadline_ms=deadline_ms,
        margin_ms=margin_ms,
        in_time_per_s=in_time_per_s(one_at_a_time, full_load, within_ms=deadline_ms - margin_ms),
    )


def in_time_per_s(one_at_a_time: Load, full_load: Load, *, within_ms: float) -> float:
    """Return how many parts a second are judged within `within_ms` each, but for 1% of them; 0.0, none.

    Where parts are late only at full load, they may follow each other no closer than one takes alone.
    """
    if full_load.whole_ms.p99 <= within_ms:
        return full_load.parts_per_s
    if one_at_a_time.whole_ms.p99 <= within_ms:
        return min(full_load.parts_per_s, 1000 / one_at_a_time.whole_ms.p99)
    return 0.0


@dataclass(frozen=True, slots=True)
class _Encoded:
    name: str
    encoded: bytes


class _Frames:
    """Frames in turn, again and again; one that cannot be judged is named and does not come again."""

    def __init__(self) -> None:
        self.refused: dict[str, RefusedFrame] = {}
        self._turn: deque[_Encoded] = deque()
        self._sizes_wh: set[tuple[int, int]] = set()

    def read(self, files: Sequence[FrameFile], max_bytes: int, progress: Progress) -> None:
        """Read files into memory while there is room, one at least."""
        held = 0
        for done, file in enumerate(files, 1):
            if held > _HELD_BYTES:
                break
            try:
                with file.path.open("rb") as opened:
                    encoded = opened.read(max_bytes + 1)  # one more: the loader refuses it, as it would the whole
            except OSError as exc:
                self._refuse(file.name, Reason.FRAME_MISSING, f"cannot be read: {exc.strerror}")
                continue
            held += len(encoded)
            self._turn.append(_Encoded(file.name, encoded))
            progress(done, len(files))

    def next(self) -> _Encoded:
        """Return whose turn it is. Raises EvaluationFailed where none is left."""
        if not self._turn:
            first = next(iter(self.refused.values()))
            raise EvaluationFailed(
                f"none of {len(self.refused)} frames can be judged; {first.name}: {first.reason}: {first.detail}"
            )
        self._turn.rotate(-1)
        return self._turn[-1]

    def judged(self, size_wh: tuple[int, int]) -> None:
        """Note what size a frame has."""
        self._sizes_wh.add(size_wh)

    def drop(self, frame: _Encoded, failed: Failed) -> None:
        """Take a frame out that could not be judged."""
        if frame in self._turn:  # else it was in work twice
            self._turn.remove(frame)
            self._refuse(frame.name, failed.reason, failed.detail)

    def used(self, files: int) -> FramesUsed:
        """Return what was judged out of so many files."""
        return FramesUsed(
            count=len(self._turn),
            left_out=files - len(self._turn) - len(self.refused),
            encoded_bytes=sum(len(frame.encoded) for frame in self._turn),
            sizes_wh=tuple(sorted(self._sizes_wh)),
        )

    def _refuse(self, name: str, reason: Reason, detail: str) -> None:
        self.refused[name] = RefusedFrame(name=name, reason=reason, detail=detail)


@dataclass(frozen=True, slots=True)
class _Part:
    """stages_ms: by the names in STAGES."""

    stages_ms: dict[str, float]
    whole_ms: float


@dataclass(slots=True)
class _Shift:
    """Parts that were judged, `width` at a time."""

    width: int
    began: float
    ended: float
    parts: list[_Part] = field(default_factory=list)

    def as_load(self) -> Load:
        """Return the figures."""
        seconds = self.ended - self.began
        return Load(
            at_a_time=self.width,
            parts=len(self.parts),
            seconds=seconds,
            parts_per_s=len(self.parts) / seconds,
            whole_ms=Spread.of([part.whole_ms for part in self.parts]),
        )


class _Line:
    """Hands frames to the service's compute as a line would that is always ready for the next part."""

    def __init__(self, compute: Compute, model: LoadedModel, frames: _Frames) -> None:
        self._compute = compute
        self._model = model
        self._frames = frames

    async def work(self, seconds: float, width: int, progress: Progress, *, parts_min: int = 1) -> _Shift:
        """Keep `width` parts in work for so long, and until `parts_min` are judged; progress is told in percent."""
        shift = _Shift(width, began=(now := time.perf_counter()), ended=now)
        told = -1

        async def keep_one_in_work() -> None:
            nonlocal told
            while shift.ended < shift.began + seconds or len(shift.parts) < parts_min:
                part = await self._judge(self._frames.next())
                shift.ended = time.perf_counter()
                if part is not None:
                    shift.parts.append(part)
                percent = min(100, int(100 * (shift.ended - shift.began) / seconds))
                if percent > told:
                    told = percent
                    progress(percent, 100)

        await asyncio.gather(*(keep_one_in_work() for _ in range(width)))
        return shift

    async def _judge(self, frame: _Encoded) -> _Part | None:
        began = time.perf_counter()
        outcome = await self._compute.judge(Job.undated(None, frame.encoded, self._model))
        whole_ms = 1000 * (time.perf_counter() - began)
        if isinstance(outcome, Failed):
            self._frames.drop(frame, outcome)
            return None
        self._frames.judged((outcome.frame.width, outcome.frame.height))
        return _Part({"load": outcome.load_ms, **asdict(outcome.inspection.times)}, whole_ms)


async def _both_loads(line: _Line, seconds: float, places: int, progress: StageProgress) -> tuple[_Shift, _Shift]:
    warm_s = min(_WARM_S, seconds / 4)
    for width in (1, places):
        await line.work(warm_s, width, partial(progress, "warm up"), parts_min=_WARM_PARTS)
    # as in the service: the collector need not look at what was made up to here
    gc.collect()
    gc.freeze()
    alone = await line.work(seconds / 2, 1, partial(progress, "one at a time, %"))
    return alone, await line.work(seconds / 2, places, partial(progress, "full load, %"))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
