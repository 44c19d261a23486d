"""Writes a contact sheet of rendered frames, and prints the time each took.

    python benchmarks/render_samples.py SHEET.png [--style station] [--count 8] [--first-seed 0] [--ok]

The upper half of the seeds are OK parts, the lower half carry random damage, boxed; `--ok` leaves the damage out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from adapters.simulation.damage import random_damage
from adapters.simulation.renderer import CameraStyle, render_canister
from service.pipeline.types import BgrImage

_COLUMNS = 4
_TILE_WH = (480, 360)


def tile(seed: int, style: CameraStyle, *, damaged: bool) -> tuple[BgrImage, float]:
    """One frame with its boxes, scaled down, and the milliseconds of CPU it took."""
    damage = random_damage(np.random.default_rng(seed)) if damaged else None
    start = time.process_time()
    frame = render_canister(seed, damage=damage, style=style)
    spent_ms = 1e3 * (time.process_time() - start)
    picture = frame.bgr.copy()
    for x1, y1, x2, y2 in frame.boxes.tolist():
        cv2.rectangle(picture, (x1 - 4, y1 - 4), (x2 + 3, y2 + 3), (40, 40, 230), 2)
    return np.asarray(cv2.resize(picture, _TILE_WH, interpolation=cv2.INTER_AREA), np.uint8), spent_ms


def main() -> None:
    """Render, lay out, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--style", type=CameraStyle, choices=list(CameraStyle), default=CameraStyle.STATION)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--ok", action="store_true")
    chosen = parser.parse_args()
    count = -(-chosen.count // _COLUMNS) * _COLUMNS
    tiles, times_ms = zip(
        *(
            tile(chosen.first_seed + index, chosen.style, damaged=not chosen.ok and index >= count // 2)
            for index in range(count)
        ),
        strict=True,
    )
    rows = [np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, count, _COLUMNS)]
    if not cv2.imwrite(str(chosen.sheet), np.vstack(rows)):
        raise SystemExit(f"cannot write {chosen.sheet}")
    print(f"{count} frames, CPU per frame: median {np.median(times_ms):.0f} ms, slowest {max(times_ms):.0f} ms")


if __name__ == "__main__":
    main()
