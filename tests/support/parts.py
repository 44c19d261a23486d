"""Small synthetic parts: brushed metal bars on a plain table, quick to draw and to judge."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tomli_w
import torch

from adapters.frames import decode_image
from schemas.recipe import EmbedRecipe, MemoryRecipe, NormalizeRecipe, Recipe, RoiMethod, RoiRecipe
from service.model.dataset import Decode, list_frames
from service.model.registry import ModelRegistry
from service.model.training import TrainedModel, TrainingOptions, train
from service.pipeline.types import BgrImage

WIDTH, HEIGHT = 240, 180


def draw_part(seed: int, *, damaged: bool = False) -> BgrImage:
    """Return (180, 240, 3) uint8: an upright bar of brushed metal; a damaged one has a dark scratch across it."""
    rng = np.random.default_rng(seed)
    picture = np.full((HEIGHT, WIDTH, 3), 205, np.float32) + rng.normal(0, 1.5, (HEIGHT, WIDTH, 1))
    left, top = 90 + int(rng.integers(-8, 9)), 30 + int(rng.integers(-6, 7))
    wide, high = 60, 120
    shade = 95 + 50 * np.cos(np.linspace(-1.4, 1.4, wide))[None, :] + rng.normal(0, 6, (high, 1))
    picture[top : top + high, left : left + wide] = shade[..., None]
    image = np.clip(picture, 0, 255).astype(np.uint8)
    if damaged:
        cv2.line(image, (left + 8, top + 40), (left + 50, top + 80), (15, 15, 20), 7)
    return image


def write_parts(directory: Path, count: int, *, first_seed: int = 0, damaged: bool = False) -> Path:
    """Write `count` parts as part1.png, part2.png ... and return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture = draw_part(first_seed + index, damaged=damaged)
        (directory / f"part{index + 1}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return directory


QUICK = Recipe(
    roi=RoiRecipe(method=RoiMethod.FIXED, polygon=((0.3, 0.1), (0.7, 0.1), (0.7, 0.9), (0.3, 0.9))),
    normalize=NormalizeRecipe(side=160),
    embed=EmbedRecipe(embedder="filters"),
    memory=MemoryRecipe(coreset_frac=0.05, coreset_min=1),
)
"""A recipe that judges a part in milliseconds."""

DEFAULTS = TrainingOptions()


def train_parts(directory: Path, recipe: Recipe = QUICK, *, options: TrainingOptions = DEFAULTS) -> TrainedModel:
    """Train a model called bars on the parts in `directory`."""
    return train(
        "bars",
        list_frames(directory).frames,
        recipe,
        options,
        decode=Decode(partial(decode_image, max_pixels=1_000_000)),
        device=torch.device("cpu"),
        progress=lambda _stage, _done, _total: None,
    )


def write_config(directory: Path) -> Path:
    """Write a configuration with the quick recipe and a store beside it."""
    path = directory / "config.toml"
    document = {
        "model": {"store": str(directory / "models")},
        "recipe": {
            "roi": QUICK.roi.model_dump(mode="json", include={"method", "polygon"}),
            "normalize": {"side": QUICK.normalize.side},
            "embed": {"embedder": QUICK.embed.embedder},
            "memory": QUICK.memory.model_dump(mode="json", include={"coreset_frac", "coreset_min"}),
        },
    }
    path.write_text(tomli_w.dumps(document))
    return path


def small_store(folder: Path) -> Path:
    """Make a store in `folder` with one small, active model named bars; return it."""
    registry = ModelRegistry(folder / "models")
    frames = write_parts(folder / "ok", 10)
    registry.activate("bars", train_parts(frames).publish(registry).name)
    return folder / "models"
