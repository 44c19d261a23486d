"""A small model for drills: rendered canisters at a size that is judged in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from adapters.frames import decode_image
from adapters.simulation.damage import random_damage
from adapters.simulation.renderer import render_canister
from schemas.recipe import EmbedRecipe, MemoryRecipe, NormalizeRecipe, Recipe, RoiMethod, RoiRecipe
from schemas.settings import ComputeSettings
from service.device import compute_device
from service.model.dataset import Decode, list_frames
from service.model.registry import ModelRegistry
from service.model.training import TrainingOptions, train

_NAME = "drill"
_SIZE = (320, 240)
_OK_FRAMES = 12
_SHOWN = 12
_RECIPE = Recipe(
    roi=RoiRecipe(method=RoiMethod.FIXED, polygon=((0.3, 0.1), (0.7, 0.1), (0.7, 0.9), (0.3, 0.9))),
    normalize=NormalizeRecipe(side=160),
    embed=EmbedRecipe(embedder="filters"),
    memory=MemoryRecipe(coreset_frac=0.05, coreset_min=1),
)


@dataclass(frozen=True, slots=True)
class DrillModel:
    """Where model and frames lie. uris: frames to show, every third of a damaged part."""

    store: Path
    name: str
    frames: Path
    uris: tuple[str, ...]


def drill_model(folder: Path) -> DrillModel:
    """Render frames below `folder`, train on some of them and return the model; takes some seconds."""
    ok, frames = folder / "ok", folder / "frames"
    for directory in (ok, frames):
        directory.mkdir(parents=True)
    for number in range(_OK_FRAMES):
        _write(ok / f"{number}.png", render_canister(1_000_000 + number).bgr)
    shown = []
    for number in range(_SHOWN):
        damage = random_damage(np.random.default_rng(number)) if number % 3 == 2 else None
        shown.append(frames / f"{number}.png")
        _write(shown[-1], render_canister(number, damage=damage).bgr)
    trained = train(
        _NAME,
        list_frames(ok).frames,
        _RECIPE,
        TrainingOptions(),
        decode=Decode(partial(decode_image, max_pixels=1_000_000)),
        device=compute_device(ComputeSettings()),
        progress=lambda _stage, _done, _total: None,
    )
    registry = ModelRegistry(folder / "models")
    registry.activate(_NAME, trained.publish(registry).name)
    return DrillModel(folder / "models", _NAME, frames, tuple(path.as_uri() for path in shown))


def _write(path: Path, bgr: np.ndarray) -> None:
    cv2.imwrite(str(path), cv2.resize(bgr, _SIZE, interpolation=cv2.INTER_AREA))
