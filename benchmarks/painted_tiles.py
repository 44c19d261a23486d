"""A development set for the starter: sound magnetic tiles of the training folder, some with damage painted on.

    python -m benchmarks.painted_tiles FOLDER [--embedder starter] [--weights FILE] [--side 320] [--rim 0.5]
        [--neighbourhood 3] [--every 1]

FOLDER holds train_ok and index.csv, as for benchmarks.magnetic_tile; its test folders are not read. Half of the tiles
are the bank; each photo of the others is judged as it is and once with each kind of damage, which other code paints
than that of the training. Printed is the image AUROC by the maximum and by the 99th percentile of the patch scores,
over all and for each kind. The damage is faint on purpose: a set that is solved chooses nothing.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.accuracy_rendered import auroc
from schemas.recipe import EmbedRecipe, Recipe, ScoreRecipe, ScoreStatistic
from service.pipeline.embed import Embedder, build_embedder
from service.pipeline.memory_bank import MemoryBank, build_memory_bank
from service.pipeline.normalize import normalize
from service.pipeline.patch_scores import Rim, patch_scores, rim_of
from service.pipeline.scoring import image_score
from service.pipeline.types import FloatArray, PatchGrid, Roi

FOLDS = 4
STATISTICS = (ScoreStatistic.MAX, ScoreStatistic.P99)
SPLIT_SEED = 3

Rng = np.random.Generator
Painter = Callable[[FloatArray, Rng], np.ndarray]


def blowhole(grey: FloatArray, rng: Rng) -> np.ndarray:
    """Paint a dark pit with a faint bright rim."""
    shape, radius = np.zeros_like(grey), rng.uniform(2.5, 7)
    cv2.ellipse(shape, (_place(grey, rng), (2 * radius, 2 * radius * rng.uniform(0.5, 1)), rng.uniform(0, 180)), 1, -1)
    pit = cv2.GaussianBlur(shape, (0, 0), 1.0)
    core = (pit > 0.3).astype(np.uint8)
    rim = cv2.GaussianBlur((cv2.dilate(core, np.ones((3, 3), np.uint8)) - core).astype(np.float32), (0, 0), 0.7)
    return np.asarray(grey * (1 - rng.uniform(0.2, 0.6) * pit) + rng.uniform(0, 20) * rim)


def crack(grey: FloatArray, rng: Rng) -> np.ndarray:
    """Paint a thin dark line that wanders."""
    shape = np.zeros_like(grey)
    steps = int(rng.integers(8, 22))
    path = _walk(rng, _place(grey, rng), steps, step_px=4, turn=0.5)
    cv2.polylines(shape, [path], False, 1, int(rng.integers(1, 3)), cv2.LINE_AA, 3)
    line = np.minimum(1.6 * np.asarray(cv2.GaussianBlur(shape, (0, 0), 0.7)), 1)
    return np.asarray(grey * (1 - rng.uniform(0.15, 0.5) * line))


def chip(grey: FloatArray, rng: Rng) -> np.ndarray:
    """Paint a broken-out piece: another brightness, another texture, a sharp edge."""
    (x, y), corners = _place(grey, rng), int(rng.integers(6, 12))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(6, 22) * rng.uniform(0.4, 1.2, corners)
    shape = np.zeros(grey.shape, np.uint8)
    cv2.fillPoly(
        shape, [np.asarray(np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1), np.int32)], 1
    )
    texture = np.asarray(cv2.GaussianBlur(rng.normal(0, 1, grey.shape), (0, 0), rng.uniform(1, 3)))
    inner = np.asarray(cv2.GaussianBlur(grey, (0, 0), 15)) * rng.uniform(0.6, 1.3)
    inner = inner + texture / texture.std() * rng.uniform(3, 14)
    alpha = np.asarray(cv2.GaussianBlur(shape.astype(np.float32), (0, 0), 0.8))
    return np.asarray(grey * (1 - alpha) + inner * alpha)


def fray(grey: FloatArray, rng: Rng) -> np.ndarray:
    """Paint a tuft of short strokes, all lighter or all darker."""
    (x, y), shape = _place(grey, rng), np.zeros_like(grey)
    for _ in range(int(rng.integers(15, 40))):
        start = (x + rng.normal(0, 14), y + rng.normal(0, 9))
        cv2.polylines(shape, [_walk(rng, start, 3, step_px=3, turn=0.6)], False, 1, 1, cv2.LINE_AA, 3)
    strokes = np.minimum(1.4 * np.asarray(cv2.GaussianBlur(shape, (0, 0), 0.6)), 1)
    return np.asarray(grey * (1 + rng.choice([-0.35, 0.35]) * rng.uniform(0.5, 1) * strokes))


def uneven(grey: FloatArray, rng: Rng) -> np.ndarray:
    """Grind a large area differently: smoother, or across."""
    height, width = grey.shape
    shape = np.zeros_like(grey)
    cv2.ellipse(shape, (_place(grey, rng), tuple(rng.uniform(60, 140, 2).tolist()), rng.uniform(0, 180)), 1, -1)
    alpha = np.asarray(cv2.GaussianBlur(shape, (0, 0), rng.uniform(3, 9)))
    low = np.asarray(cv2.GaussianBlur(grey, (0, 0), 6))
    fine = grey - low
    if rng.random() < 0.5:
        other = np.asarray(cv2.rotate(cv2.resize(fine, (height, width)), cv2.ROTATE_90_CLOCKWISE))
    else:
        other = np.asarray(cv2.GaussianBlur(fine, (0, 0), 1.5))
    ground = low * rng.uniform(0.85, 1.2) + np.roll(other, 7, axis=0) * rng.uniform(0.8, 1.6)
    return np.asarray(grey * (1 - alpha) + ground * alpha)


PAINTERS: dict[str, Painter] = {
    "blowhole": blowhole,
    "crack": crack,
    "chip": chip,
    "fray": fray,
    "uneven": uneven,
}


def _place(grey: FloatArray, rng: Rng) -> tuple[float, float]:
    height, width = grey.shape
    x, y = (rng.uniform(min(20, side / 3), max(side - 20, 2 * side / 3)) for side in (width, height))
    return float(x), float(y)


def _walk(rng: Rng, start_xy: tuple[float, float], steps: int, *, step_px: float, turn: float) -> np.ndarray:
    """Return a path in eighths of a pixel that turns at random."""
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, turn, steps))
    moves = step_px * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    path = np.array(start_xy) + np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    return np.asarray(8 * path, np.int32)


def photos(folder: Path) -> tuple[list[FloatArray], list[FloatArray]]:
    """Return the photos of half of the tiles for the bank, and those of the others, (H, W) float32, 0..255."""
    with (folder / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train_ok"]
    tiles = sorted({row["group"] for row in rows})
    np.random.default_rng(SPLIT_SEED).shuffle(tiles)
    of_bank = set(tiles[: len(tiles) // 2])
    halves: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for row in rows:
        grey = cv2.imread(str(folder / "train_ok" / f"{row['name']}.jpg"), cv2.IMREAD_GRAYSCALE)
        assert grey is not None, row["name"]
        halves[row["group"] not in of_bank].append(np.asarray(grey, np.float32))
    return halves


def grid_of(embedder: Embedder, grey: np.ndarray) -> PatchGrid:
    """Return the patches of a whole photo."""
    bgr = np.asarray(cv2.cvtColor(np.clip(grey, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR), np.uint8)
    height, width = grey.shape
    roi = normalize(bgr, Roi(np.ones((height, width), bool), (0, 0, width, height), "none"), Recipe().normalize)
    return embedder.embed([roi])[0]


def bank_of(grids: Sequence[PatchGrid]) -> MemoryBank:
    """Return the bank of some photos, as a training makes it."""
    return build_memory_bank(np.concatenate([grid.vectors for grid in grids]), Recipe().memory)


def rim_of_photos(grids: Sequence[PatchGrid], strength: float) -> Rim:
    """Return what evens out the rim, from photos held back in FOLDS folds."""
    distances: list[FloatArray] = []
    for held in np.array_split(np.arange(len(grids)), FOLDS):
        others = bank_of([grid for index, grid in enumerate(grids) if index not in held])
        distances += [others.distances(grids[index].vectors) for index in held]
    return rim_of(distances, [grid.inside for grid in grids], strength)


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--embedder", default="starter")
    parser.add_argument("--weights", default="", help="of `cangate pretrain`; without: those that ship")
    parser.add_argument("--side", type=int, help="of the embedder's input, px")
    parser.add_argument("--rim", type=float, default=ScoreRecipe().rim_evenness, help="score.rim_evenness")
    parser.add_argument("--neighbourhood", type=int, default=ScoreRecipe().neighbourhood, help="score.neighbourhood")
    parser.add_argument("--every", type=int, default=1, help="judge only every so many photos")
    arguments = parser.parse_args()
    recipe = EmbedRecipe(embedder=arguments.embedder, weights=arguments.weights, input_side=arguments.side)
    embedder = build_embedder(recipe, torch.device("cpu"))
    for_bank, others = photos(arguments.folder)
    grids = [grid_of(embedder, grey) for grey in for_bank]
    bank, rim = bank_of(grids), rim_of_photos(grids, arguments.rim)

    def scores(grey: np.ndarray) -> tuple[float, ...]:
        grid = grid_of(embedder, grey)
        patches = patch_scores(bank.distances(grid.vectors), grid.inside, rim, arguments.neighbourhood)
        return tuple(image_score(patches, statistic) for statistic in STATISTICS)

    rng = np.random.default_rng(SPLIT_SEED)
    judged = others[:: arguments.every]
    sound = np.array([scores(grey) for grey in judged])
    damaged = {name: np.array([scores(paint(grey, rng)) for grey in judged]) for name, paint in PAINTERS.items()}
    print(f"{len(for_bank)} photos for the bank; {len(judged)} judged, sound and with each kind of damage")
    for column, statistic in enumerate(STATISTICS):
        seen = sound[:, column]
        kinds = ", ".join(f"{name} {auroc(seen, scores[:, column]):.3f}" for name, scores in damaged.items())
        everything = np.concatenate([scores[:, column] for scores in damaged.values()])
        print(f"{statistic}: all {auroc(seen, everything):.3f}, {kinds}")


if __name__ == "__main__":
    main()
