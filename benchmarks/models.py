"""Models that several benchmarks share."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np

from adapters.frames import decode_image
from adapters.simulation.renderer import render_canister
from adapters.simulation.scene import REFERENCE_WH
from schemas.recipe import EmbedRecipe, MemoryRecipe, NormalizeRecipe, Recipe, RoiMethod, RoiRecipe
from schemas.settings import ComputeSettings
from service.device import compute_device
from service.model.dataset import Decode, FrameFile, list_frames
from service.model.registry import ModelRegistry
from service.model.training import TrainedModel, TrainingOptions, train
from service.pipeline.types import BgrImage

FIRST_SEED = 1_000_000
NAME = "rendered"
DECODE = Decode(partial(decode_image, max_pixels=64_000_000))


@cache
def rendered_model(
    frames: int = 40,
    recipe: Recipe | None = None,
    station_seed: int = 0,
    resolution_wh: tuple[int, int] = REFERENCE_WH,
) -> tuple[Path, str]:
    """Train on rendered OK parts whose seeds no benchmark tests with; return store and name."""
    pictures = [
        render_canister(FIRST_SEED + number, station_seed=station_seed, resolution_wh=resolution_wh).bgr
        for number in range(frames)
    ]
    return model_of(pictures, recipe or Recipe())


@cache
def quick_model() -> tuple[Path, str]:
    """Train one that judges a `quick_frame` in a few milliseconds, for benchmarks of everything but the pipeline."""
    recipe = Recipe(
        roi=RoiRecipe(method=RoiMethod.NONE),
        normalize=NormalizeRecipe(side=128),
        embed=EmbedRecipe(embedder="filters"),
        memory=MemoryRecipe(coreset_frac=0.05, coreset_min=1),
    )
    return model_of([quick_frame(number) for number in range(10)], recipe)


def quick_frame(number: int) -> BgrImage:
    """Return (120, 160, 3) uint8: brushed metal and nothing else."""
    rng = np.random.default_rng(number)
    brushed = 128 + rng.normal(0, 8, (120, 1, 1)) + rng.normal(0, 2, (120, 160, 1))
    return np.clip(np.repeat(brushed, 3, axis=2), 0, 255).astype(np.uint8)


def model_of(pictures: Sequence[BgrImage], recipe: Recipe) -> tuple[Path, str]:
    """Train one on sound pictures; return its store, which is gone with the process, and its name."""
    store = Path(tempfile.mkdtemp(prefix="cangate-bench-models-"))
    atexit.register(shutil.rmtree, store, ignore_errors=True)
    folder = store / ".frames"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number:04d}.png"), picture)
    registry = ModelRegistry(store)
    registry.activate(NAME, trained_on(list_frames(folder).frames, recipe).publish(registry).name)
    return store, NAME


def trained_on(frames: Sequence[FrameFile], recipe: Recipe, *, mixed: bool = False) -> TrainedModel:
    """Return the model that `cangate train` makes of these frames."""
    return train(
        NAME,
        frames,
        recipe,
        TrainingOptions(mixed=mixed),
        decode=DECODE,
        device=compute_device(ComputeSettings()),
        progress=lambda _stage, _done, _total: None,
    )
