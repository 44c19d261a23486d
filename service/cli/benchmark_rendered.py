"""What `cangate benchmark` measures where it is given nothing: rendered canisters, and a small model of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from adapters.frames import decode_image
from adapters.simulation.damage import random_damage
from adapters.simulation.renderer import fast_png, render_canister
from schemas.settings import Settings
from service.cli.from_settings import device_of
from service.model.dataset import Decode, FrameFile, list_frames
from service.model.package import ModelPackage, read_package
from service.model.registry import ModelRegistry
from service.model.training import TrainingOptions, train
from service.pipeline.types import Progress, StageProgress

NAME = "rendered"
TRAINING_PARTS = 24
SHOWN_PARTS = 24
_TRAINING_SEED = 1_000_000
_DAMAGED_EVERY = 3


def rendered_frames(folder: Path, size_wh: tuple[int, int], progress: Progress) -> tuple[FrameFile, ...]:
    """Render parts, every third one damaged, as PNG files into `folder`."""
    return _rendered(folder, SHOWN_PARTS, 0, _DAMAGED_EVERY, size_wh, progress)


def rendered_model(folder: Path, size_wh: tuple[int, int], settings: Settings, progress: StageProgress) -> ModelPackage:
    """Train a small model below `folder` by the recipe of `settings`.

    Raises TrainingError where that recipe finds no part on rendered canisters.
    """
    files = _rendered(folder / "ok", TRAINING_PARTS, _TRAINING_SEED, 0, size_wh, partial(progress, "render"))
    trained = train(
        NAME,
        files,
        settings.recipe,
        TrainingOptions(workers=settings.compute.prepare_workers),
        decode=Decode(partial(decode_image, max_pixels=size_wh[0] * size_wh[1])),
        device=device_of(settings),
        progress=progress,
    )
    return read_package(trained.publish(ModelRegistry(folder / "models")))


def _rendered(
    folder: Path, parts: int, first_seed: int, damaged_every: int, size_wh: tuple[int, int], progress: Progress
) -> tuple[FrameFile, ...]:
    folder.mkdir(parents=True)
    for number in range(parts):
        seed = first_seed + number
        is_damaged = damaged_every > 0 and number % damaged_every == damaged_every - 1
        damage = random_damage(np.random.default_rng(seed)) if is_damaged else None
        picture = render_canister(seed, damage=damage, resolution_wh=size_wh).bgr
        (folder / f"{number:03d}.png").write_bytes(fast_png(picture))
        progress(number + 1, parts)
    return list_frames(folder).frames
