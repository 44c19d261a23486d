"""One model on one set of frames, judged in a process of its own: accuracy, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from schemas.base import Value
from schemas.messages import Decision
from schemas.recipe import Recipe, RoiMethod
from schemas.settings import ComputeSettings
from service.errors import FrameError
from service.evaluation.evaluator import Evaluator, Galleries
from service.evaluation.fresh_process import peak_memory_bytes
from service.evaluation.metrics import EvaluatedFrame, Evaluation, Label
from service.evaluation.truth import MaskFolder
from service.model.dataset import Decode, FrameFile
from service.model.package import read_package
from service.pipeline.pipeline import Pipeline
from service.pipeline.types import StageProgress

if TYPE_CHECKING:
    import torch

FrameKey = tuple[Label, str]
"""A frame of a trial: its label and its name."""


class Cost(Value):
    """What a model takes, where it was judged."""

    device: str
    threads: int
    input_side: int = Field(description="side of the embedder's input, px")
    bank_size: int = Field(description="vectors of the memory bank")
    weights_bytes: int = Field(description="of the embedder")
    frame_ms: float | None = Field(description="median of all stages together, over the judged frames")
    peak_memory_bytes: int | None = Field(
        description="most resident memory above that of the imported libraries; frames and figures included"
    )
    peak_process_bytes: int | None = Field(description="most resident memory of the whole process")
    peak_gpu_bytes: int | None = Field(description="most memory allocated on the GPU; null without one")


@dataclass(frozen=True, slots=True)
class Trial:
    """All that a fresh process is told: which package, made by which recipe, and the frames to judge."""

    package: Path
    recipe: Recipe
    frames: Mapping[Label, Sequence[FrameFile]]
    masks: MaskFolder | None
    decode: Decode
    compute: ComputeSettings


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What an evaluation gives, and the cost."""

    evaluation: Evaluation
    frames: tuple[EvaluatedFrame, ...]
    galleries: Galleries
    cost: Cost


def run_trial(trial: Trial, progress: StageProgress) -> TrialResult:
    """Judge every frame; the memory is the model's own where the process is fresh. Raises PackageError, UsageError."""
    import torch  # noqa: PLC0415 - it takes seconds that whoever plans a trial need not spend

    _import_libraries(trial.recipe)
    libraries = peak_memory_bytes()
    evaluator, pipeline, device = _evaluator(trial)
    for label, files in trial.frames.items():
        evaluator.judge_all(files, label, partial(progress, label.value))
    frames = tuple(evaluator.frames)
    process = peak_memory_bytes()
    cost = Cost(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        input_side=pipeline.embedder.input_side,
        bank_size=len(pipeline.bank),
        weights_bytes=pipeline.embedder.weights_bytes,
        frame_ms=median_frame_ms(frames),
        peak_memory_bytes=None if process is None or libraries is None else process - libraries,
        peak_process_bytes=process,
        peak_gpu_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )
    return TrialResult(evaluator.summary(), frames, evaluator.galleries, cost)


def draw_evidence(trial: Trial, wanted: Sequence[FrameKey], progress: StageProgress) -> dict[FrameKey, bytes]:
    """Return the picture of each wanted frame, as a JPEG file; a frame that cannot be judged has none."""
    evaluator, _, _ = _evaluator(trial)
    files = {(label, file.name): file for label, members in trial.frames.items() for file in members}
    pictures: dict[FrameKey, bytes] = {}
    for done, key in enumerate(wanted, 1):
        with suppress(FrameError):
            pictures[key] = evaluator.evidence(files[key], key[0])
        progress("pictures", done, len(wanted))
    return pictures


def median_frame_ms(frames: Sequence[EvaluatedFrame]) -> float | None:
    """Return the median time of a judged frame, all stages together; None where none was judged."""
    times = [frame.stages_ms.total() for frame in frames if frame.decision is not Decision.ERROR]
    return float(np.median(times)) if times else None


def _evaluator(trial: Trial) -> tuple[Evaluator, Pipeline, torch.device]:
    from service.device import compute_device  # noqa: PLC0415 - as above

    device = compute_device(trial.compute)
    package = read_package(trial.package)
    pipeline = package.build_pipeline(device)
    return Evaluator(package, pipeline, decode=trial.decode, masks=trial.masks), pipeline, device


def _import_libraries(recipe: Recipe) -> None:
    """Import what the pipeline of `recipe` imports when it is built, so that no library is charged to the model."""
    for part in ("embed", "memory_bank", "roi"):
        import_module(f"service.pipeline.{part}")
    if recipe.embed.embedder.startswith("timm:"):
        import_module("service.pipeline.embed.timm_backbone")
    if recipe.roi.method is RoiMethod.SAM:
        import_module("service.pipeline.roi.sam")
