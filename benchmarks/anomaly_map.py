"""From patch distances to score and boxes, beside anomalib's map generator, in one run: CPU time of one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.anomaly_map [--patches 32] [--image 256]

A grid of distances with three spots of damage is drawn at the size of the image: by anomalib's PatchCore, where it is
installed, and by the service's `smoothed` at the same size and blur, everything inside. `score and boxes` is what the
service does with every frame after the distances: statistic, map at 4 px a patch, boxes.
"""

from __future__ import annotations

import argparse
import importlib.util
import timeit
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch

from benchmarks.distance import best_ms
from schemas.recipe import BoxRecipe, ScoreStatistic
from service.pipeline.boxes import find_boxes, smoothed
from service.pipeline.scoring import anomaly_map, image_score
from service.pipeline.types import DamageBox, FloatArray, Mask, NormalizedRoi

SIGMA_PX = 4
"""anomalib's default, pixels of the image."""

BLOCK = 50
"""Calls in one measurement of what takes microseconds."""

PATCH_TAU = 0.5

RIVAL = "anomalib's map"


def damaged_distances(side: int) -> FloatArray:
    """Return the distances (side * side,) of a part with three spots of damage."""
    grid = np.random.default_rng(0).uniform(0.05, 0.3, (side, side)).astype(np.float32)
    for row, column, extent in ((0.2, 0.3, 3), (0.6, 0.7, 2), (0.85, 0.15, 1)):
        y, x = round(row * side), round(column * side)
        grid[y : y + extent, x : x + extent] = 0.8
    return grid.ravel()


def score_and_boxes(distances: FloatArray, inside: Mask, roi: NormalizedRoi) -> tuple[float, tuple[DamageBox, ...]]:
    """Return what the service says once it has the distances."""
    grid = anomaly_map(distances, inside)
    boxes = find_boxes(grid, inside, roi, (roi.bgr.shape[1], roi.bgr.shape[0]), PATCH_TAU, BoxRecipe())
    return image_score(distances, ScoreStatistic.MAX), boxes


def anomalib_generator(side: int, image: int) -> Callable[[FloatArray], FloatArray]:
    """Return anomalib's map of (side * side,) distances: (image, image) float32."""
    from anomalib.models.image.patchcore.anomaly_map import AnomalyMapGenerator  # noqa: PLC0415 - optional

    generator = AnomalyMapGenerator(sigma=SIGMA_PX)

    def draw(distances: FloatArray) -> FloatArray:
        scores = torch.from_numpy(distances.reshape(1, 1, side, side))
        with torch.no_grad():
            return np.asarray(generator(scores, (image, image))[0, 0].numpy(), np.float32)

    return draw


def main() -> None:
    """Print times, ratios and the difference of the maps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=32, help="rows and columns of the grid")
    parser.add_argument("--image", type=int, default=256, help="side of the drawn map, a multiple of --patches")
    arguments = parser.parse_args()
    side, image = arguments.patches, arguments.image
    if image % side:
        parser.error(f"--image {image} is no multiple of --patches {side}")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    distances, inside, cell_px = damaged_distances(side), np.ones((side, side), bool), image // side
    round_part = np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]) < 0.95
    roi = NormalizedRoi(np.zeros((640, 640, 3), np.uint8), np.ones((640, 640), bool), (0.0, 0.0), 1.0)

    def draw(distances: FloatArray) -> FloatArray:
        return smoothed(distances.reshape(side, side), inside, cell_px, SIGMA_PX / cell_px)

    def many(work: Callable[[], object]) -> Callable[[], object]:
        return lambda: timeit.timeit(work, number=BLOCK)

    calls: dict[str, Callable[[], object]] = {
        "map": many(lambda: draw(distances)),
        "score and boxes": many(lambda: score_and_boxes(distances, inside, roi)),
        "score and boxes, round": many(lambda: score_and_boxes(distances[round_part.ravel()], round_part, roi)),
    }
    rival = anomalib_generator(side, image) if importlib.util.find_spec("anomalib") else None
    if rival is not None:
        calls[RIVAL] = partial(rival, distances)
    else:
        print("anomalib is not installed here: left out")
    times = {name: ms / (1 if name == RIVAL else BLOCK) for name, ms in best_ms(calls).items()}
    print(f"{side} x {side} patches, map {image} x {image}, sigma {SIGMA_PX} px")
    _, boxes = score_and_boxes(distances, inside, roi)
    print(f"{len(boxes)} boxes")
    for name, milliseconds in times.items():
        ratio = f"{times[RIVAL] / milliseconds:8.1f} times" if RIVAL in times else ""
        print(f"  {name:24}{milliseconds:9.3f} ms{ratio}")
    if rival is not None:
        print(f"  largest difference of the maps {np.abs(draw(distances) - rival(distances)).max():.1e}")


if __name__ == "__main__":
    main()
