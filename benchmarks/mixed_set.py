"""Damaged frames among the OK ones that a model learns from: what they cost, and what `--mixed` brings back.

    python -m benchmarks.mixed_set [--train 60] [--damaged 0 1 3] [--test 100] [--station 0]

Trains on rendered canisters of one station, the last so many of them damaged, with the rarest patches kept and dropped
(`cangate train --mixed`), and judges frames that no training saw, half of them damaged.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np

from adapters.simulation.damage import random_damage
from adapters.simulation.renderer import render_canister
from benchmarks.accuracy_rendered import auroc
from benchmarks.models import trained_on
from schemas.recipe import Recipe
from schemas.settings import ComputeSettings
from service.device import compute_device
from service.errors import FrameError
from service.model.dataset import list_frames
from service.model.training import TrainedModel
from service.pipeline.embed import build_embedder
from service.pipeline.memory_bank import MemoryBank
from service.pipeline.normalize import normalize
from service.pipeline.patch_scores import Rim, patch_scores
from service.pipeline.roi import build_roi_finder
from service.pipeline.scoring import image_score
from service.pipeline.types import BgrImage, PatchGrid

FIRST_TRAIN, FIRST_INTRUDER, FIRST_OK, FIRST_DAMAGED = 1_000_000, 2_000_000, 3_000_000, 4_000_000


def rendered(seed: int, station: int, *, damaged: bool) -> BgrImage:
    """Return a frame."""
    damage = random_damage(np.random.default_rng([seed, 3])) if damaged else None
    return render_canister(seed, damage=damage, station_seed=station).bgr


def trained_on_pictures(frames: list[BgrImage], recipe: Recipe, *, mixed: bool) -> TrainedModel:
    """Return the model of these frames, which are written for it."""
    with tempfile.TemporaryDirectory(prefix="cangate-bench-") as directory:
        for number, frame in enumerate(frames):
            cv2.imwrite(str(Path(directory, f"{number:05d}.png")), frame)
        return trained_on(list_frames(Path(directory)).frames, recipe, mixed=mixed)


def embedded(frames: list[BgrImage], recipe: Recipe) -> list[PatchGrid]:
    """Return the patches of each frame in which a canister is found."""
    device = compute_device(ComputeSettings())
    finder, embedder = build_roi_finder(recipe.roi, device), build_embedder(recipe.embed, device)
    grids = []
    for frame in frames:
        try:
            grids += embedder.embed([normalize(frame, finder.find(frame), recipe.normalize)])
        except FrameError as exc:
            print(f"left out: {exc}")
    return grids


def main() -> None:
    """Print one line a training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=60, help="frames to train on, damaged ones included")
    parser.add_argument("--damaged", type=int, nargs="+", default=[0, 1, 3], help="how many of them are damaged")
    parser.add_argument("--test", type=int, default=100, help="frames to judge, half of them damaged")
    parser.add_argument("--station", type=int, default=0, help="seed of the rendered scene")
    arguments = parser.parse_args()
    recipe, station, half = Recipe(), arguments.station, arguments.test // 2
    clean = [rendered(FIRST_TRAIN + index, station, damaged=False) for index in range(arguments.train)]
    intruders = [rendered(FIRST_INTRUDER + index, station, damaged=True) for index in range(max(arguments.damaged))]
    ok = embedded([rendered(FIRST_OK + index, station, damaged=False) for index in range(half)], recipe)
    bad = embedded([rendered(FIRST_DAMAGED + index, station, damaged=True) for index in range(half)], recipe)
    print(f"{arguments.train} training frames, {len(ok)} OK and {len(bad)} damaged frames judged")
    print(f"{'damaged':>8} {'':10}{'AUROC':>8}{'tau':>8}{'false rejects':>15}{'recall':>8}")
    for count in arguments.damaged:
        for mixed in (False, True):
            frames = clean[: arguments.train - count] + intruders[:count]
            trained = trained_on_pictures(frames, recipe, mixed=mixed)
            bank, tau = MemoryBank(trained.vectors), trained.manifest.tau

            def score(grid: PatchGrid, bank: MemoryBank = bank, rim: Rim = trained.manifest.rim) -> float:
                scores = patch_scores(bank.distances(grid.vectors), grid.inside, rim, recipe.score.neighbourhood)
                return image_score(scores, recipe.score.statistic)

            good, damaged = (np.array([score(grid) for grid in judged]) for judged in (ok, bad))
            print(
                f"{count:8} {'--mixed' if mixed else '':10}{auroc(good, damaged):8.3f}{tau:8.3f}"
                f"{np.mean(good >= tau):15.3f}{np.mean(damaged >= tau):8.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
