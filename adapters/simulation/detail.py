"""Fine structure of the metal: brushing, lathe arcs, mottling, nicks and the engraved lot number.

A detail map is (rows, cols) uint8 over row (0..1 of the profile) and azimuth (0..1 turns): 128 leaves the shading as it
is, each step is a gain of 1/128.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from adapters.simulation.canister import BODY_Z, RING_Z, SKIRT_Z, profile
from service.pipeline.types import FloatArray

DETAIL_ROWS, DETAIL_COLS = 1024, 1280
VARIANTS = 4

WALL_TOP = 3.0
CELLS_PER_RADIUS = DETAIL_COLS / (2 * np.pi)
WALL_ROWS = int(WALL_TOP * CELLS_PER_RADIUS) + 1
_PRINT_ROW = WALL_ROWS // 8

DetailMap = npt.NDArray[np.uint8]


def _noise(rng: np.random.Generator, sigma_x: float, sigma_y: float) -> FloatArray:
    """Gaussian noise of unit deviation, periodic in azimuth, blurred; coarse noise is drawn coarse and enlarged."""
    fine_x, fine_y = max(int(sigma_x / 2), 1), max(int(sigma_y / 2), 1)
    cols, rows = DETAIL_COLS // fine_x, DETAIL_ROWS // fine_y
    white = rng.standard_normal((rows, cols), np.float32)
    margin = cols // 4
    wide = np.concatenate((white[:, -margin:], white, white[:, :margin]), axis=1)
    blurred = cv2.GaussianBlur(wide, (0, 0), sigmaX=sigma_x / fine_x, sigmaY=sigma_y / fine_y)[:, margin:-margin]
    full = cv2.resize(blurred / blurred.std(), (DETAIL_COLS, DETAIL_ROWS), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full, np.float32)


@lru_cache(maxsize=VARIANTS)
def metal(variant: int) -> FloatArray:
    """(DETAIL_ROWS, DETAIL_COLS) float32 gain - 1 of one piece of metal; read-only, periodic in azimuth."""
    rng = np.random.default_rng([variant, 0xA1])
    shape = profile(DETAIL_ROWS)
    turn = np.linspace(0.0, 1.0, DETAIL_COLS, endpoint=False, dtype=np.float32)[None, :]
    body = (shape.height < BODY_Z[1] + 0.15)[:, None] & (shape.arc < 4.0)[:, None]
    grain = 0.006 * _noise(rng, 0.8, 40.0) + 0.007 * _noise(rng, 0.8, 6.0) + 0.012 * _noise(rng, 1.0, 0.9)
    arcs = np.zeros((DETAIL_ROWS, DETAIL_COLS), np.float32)
    knots = np.arange(0.0, 6.0, 0.024)
    rings = np.interp(np.arange(0.0, 6.0, 0.002), knots, rng.standard_normal(len(knots))).astype(np.float32)
    for centre in np.arange(3) / 3 + rng.uniform(0, 0.3):
        across = ((turn - centre + 0.5) % 1.0 - 0.5) * (2 * np.pi)
        distance = np.hypot(across, (shape.height[:, None] - rng.uniform(1.6, 2.6)) * 0.9)
        fade = np.clip(1.5 - np.abs(across), 0, 1) * np.clip(distance - 0.3, 0, 1)
        arcs += rings[(distance / 0.002).astype(np.intp) % len(rings)] * fade
    patches = np.clip(0.5 + 0.6 * _noise(rng, 60, 50), 0, 1.2)
    mottle = 0.014 * _noise(rng, 25, 18) + 0.010 * _noise(rng, 5, 5)
    on_body = grain + 0.030 * arcs * patches + mottle
    above = 0.020 * _noise(rng, 1.2, 1.0) + 0.014 * _noise(rng, 14, 0.7) + 0.016 * _noise(rng, 6, 5)
    gain = np.where(body, on_body, above)
    gain += 0.035 * shape.gloss[:, None] * (shape.height < SKIRT_Z)[:, None] * _noise(rng, 0.9, 0.8)
    ring = (shape.height > RING_Z[0]) & (shape.height < RING_Z[1]) & (shape.radius > 0.94)
    gain[ring] += 0.022 * _noise(rng, 9, 3)[ring]
    seam = np.exp(-(((shape.height - 3.80) / 0.006) ** 2)) * (shape.radius > 0.94)
    gain -= 0.28 * np.outer(seam, np.clip(0.5 + _noise(rng, 40, 1)[0], 0, 1))
    metal_gain = np.asarray(gain, np.float32)
    metal_gain.flags.writeable = False
    return metal_gain


def detail_map(rng: np.random.Generator, turn: float, print_text: str | None) -> DetailMap:
    """The detail of one part: two pieces of metal laid over each other, turned by `turn` (0..1), with a lot number."""
    first, second = rng.choice(VARIANTS, 2, replace=False)
    share = float(rng.uniform(0.6, 0.9))
    shift = int(turn * DETAIL_COLS)
    gain = share * np.roll(metal(int(first)), shift, axis=1) + np.sqrt(1 - share**2) * metal(int(second))
    if print_text is not None:
        engrave(gain, print_text, turn, float(rng.uniform(0.12, 0.24)))
    return np.asarray(np.clip(128.5 + 128.0 * gain, 0, 255), np.uint8)


def from_wall(canvas: npt.NDArray[np.uint8]) -> FloatArray:
    """Lay a drawing of the unrolled wall onto the rows of a detail map.

    canvas: (WALL_ROWS, DETAIL_COLS) uint8, isotropic, the desk at row 0; returns (rows of the wall, DETAIL_COLS), 0..1.
    """
    shape = profile(DETAIL_ROWS)
    height = shape.height[: shape.row_at(WALL_TOP)]
    map_y = np.repeat((height * CELLS_PER_RADIUS)[:, None], DETAIL_COLS, axis=1).astype(np.float32)
    map_x = np.repeat(np.arange(DETAIL_COLS, dtype=np.float32)[None, :], len(height), axis=0)
    # rows of the map lie farther apart than those of the drawing
    soft = cv2.GaussianBlur(canvas, (0, 0), sigmaX=0.3, sigmaY=0.8)
    return cv2.remap(soft, map_x, map_y, cv2.INTER_LINEAR).astype(np.float32) / 255.0


def engrave(gain: FloatArray, text: str, turn: float, depth: float) -> None:
    """Write a lot number up the body at azimuth `turn` (0..1), darkening `gain` in place by `depth`."""
    lines = text.split("\n")
    plate = np.zeros((34 * len(lines), 330), np.uint8)
    for index, line in enumerate(lines):
        cv2.putText(plate, line, (4, 26 + 34 * index), cv2.FONT_HERSHEY_SIMPLEX, 0.85, 255, 2, cv2.LINE_AA)
    plate[:, ::4] //= 2  # a dot-matrix engraver
    plate = np.rot90(plate, -1)  # row 0 is the desk: the text runs upwards
    canvas = np.zeros((WALL_ROWS, DETAIL_COLS), np.uint8)
    columns = (int(turn * DETAIL_COLS) + np.arange(plate.shape[1])[::-1]) % DETAIL_COLS
    canvas[_PRINT_ROW : _PRINT_ROW + plate.shape[0], columns] = plate
    wall = from_wall(canvas)
    gain[: len(wall)] -= depth * wall
