"""How quick a model is on this computer: its stages one part at a time, and how many parts a second at full load."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import cv2
import torch
from pydantic import Field

from schemas.base import UtcDatetime, Value
from schemas.messages import ModelRef, StagesMs
from schemas.recipe import Recipe
from schemas.settings import ComputeSettings, DeadlineSettings, IntakeSettings, LogSettings
from service.compute import Compute, LoadedModel
from service.deadline import Margin
from service.device import compute_device
from service.evaluation.fresh_process import peak_memory_bytes
from service.evaluation.load import Frames, FramesUsed, Line, Load, RefusedFrame, Spread, both_loads
from service.logs import configure_logging
from service.model.dataset import FrameFile
from service.model.package import read_package
from service.pipeline.types import StageProgress
from service.ports import Clock, FrameLoader

STAGES = tuple(StagesMs.model_fields)
"""The stages of a verdict's `stages_ms`, in their order."""


class Computer(Value):
    """What judged, and how wide."""

    cpu: str
    cores: int
    device: str = Field(description="name of the GPU, or cpu")
    torch_threads: int
    opencv_threads: int
    workers: int = Field(description="threads that load, cut out and normalise frames; one more judges")
    max_batch: int = Field(description="frames that are judged together at most")


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
    frames = Frames()
    frames.read(trial.files, trial.max_bytes, partial(progress, "read"))
    compute = Compute.of(trial.compute, IntakeSettings(capacity=sys.maxsize), trial.loader, device, trial.clock)
    line = Line(compute, LoadedModel(pipeline, package.ref), frames)
    try:
        alone, together = asyncio.run(both_loads(line, trial.seconds, compute.places, progress))
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


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
