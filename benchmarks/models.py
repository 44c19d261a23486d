"""A model of rendered canisters that several benchmarks share."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path

import cv2

from adapters.frames import decode_image
from adapters.simulation.renderer import render_canister
from adapters.simulation.scene import REFERENCE_WH
from schemas.recipe import Recipe
from schemas.settings import ComputeSettings
from service.device import compute_device
from service.model.dataset import list_frames
from service.model.registry import ModelRegistry
from service.model.training import TrainingOptions, train

FIRST_SEED = 1_000_000
NAME = "rendered"


@cache
def rendered_model(
    frames: int = 40,
    recipe: Recipe | None = None,
    station_seed: int = 0,
    resolution_wh: tuple[int, int] = REFERENCE_WH,
) -> tuple[Path, str]:
    """Train on rendered OK parts whose seeds no benchmark tests with; return store and name."""
    store = Path(tempfile.mkdtemp(prefix="cangate-bench-models-"))
    atexit.register(shutil.rmtree, store, ignore_errors=True)
    folder = store / ".frames"
    folder.mkdir()
    for number in range(frames):
        part = render_canister(FIRST_SEED + number, station_seed=station_seed, resolution_wh=resolution_wh)
        cv2.imwrite(str(folder / f"{number:04d}.png"), part.bgr)
    trained = train(
        NAME,
        list_frames(folder).frames,
        recipe or Recipe(),
        TrainingOptions(),
        decode=partial(decode_image, max_pixels=64_000_000),
        device=compute_device(ComputeSettings()),
        progress=lambda _stage, _done, _total: None,
    )
    registry = ModelRegistry(store)
    with registry.draft(NAME) as directory:
        trained.write(directory)
        registry.activate(NAME, registry.publish(directory, trained.manifest).name)
    return store, NAME
