"""Damage that a person would recognise, put onto the surface of a canister."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

from adapters.simulation.canister import BODY_Z, RING_Z, azimuths, normals, profile
from adapters.simulation.detail import CELLS_PER_RADIUS, DETAIL_COLS, WALL_ROWS, DetailMap, from_wall
from service.pipeline.types import FloatArray


class DamageKind(StrEnum):
    """What happened to the part."""

    DENT = "dent"
    SCRATCH = "scratch"
    STAIN = "stain"
    CRUSHED_RIM = "crushed_rim"


@dataclass(frozen=True, slots=True)
class DamageRequest:
    """A damage to render; size runs from 0, about 0.3% of the canister's area, to 1, a tenth of it."""

    kind: DamageKind
    size: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.size <= 1.0:
            raise ValueError(f"size is between 0 and 1, not {self.size}")


def random_damage(rng: np.random.Generator) -> DamageRequest:
    """Any kind, any size; small ones are as frequent as large ones."""
    return DamageRequest(tuple(DamageKind)[rng.integers(len(DamageKind))], float(rng.uniform()))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a damage lies: azimuth (rad), height (body radii), half width (body radii), slant (rad).

    depth: strength relative to the usual; noise_seed: for ragged outlines.
    """

    azimuth: float
    height: float
    half: float
    slant: float
    depth: float
    noise_seed: int


def place(rng: np.random.Generator, request: DamageRequest) -> Placement:
    """Draw a place that the camera sees well."""
    half = 0.13 * (0.60 / 0.13) ** request.size
    low, high = BODY_Z[0] + 0.15 + half, BODY_Z[1] + 0.25 - 0.8 * half
    return Placement(
        azimuth=float(rng.uniform(-0.95, 0.95)),
        height=float(rng.uniform(low, high)),
        half=half,
        slant=float(rng.uniform(-0.9, 0.9)),
        depth=float(rng.uniform(0.8, 1.3)),
        noise_seed=int(rng.integers(2**31)),
    )


def _ragged(seed: int, x: FloatArray, y: FloatArray, cell: float) -> FloatArray:
    """Smooth noise of unit deviation over surface coordinates (body radii); `cell` is its grain."""
    coarse = np.random.default_rng(seed).standard_normal((64, 64), np.float32)
    # enlarged from four copies, so that the middle fits itself at its edges
    tile = cv2.resize(np.tile(coarse, (2, 2)), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)[128:384, 128:384]
    map_x, map_y = np.broadcast_arrays((x / cell * 4) % 256, (y / cell * 4) % 256)
    at = map_x.astype(np.float32), map_y.astype(np.float32)
    return np.asarray(cv2.remap(tile, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32)


def _around(rows: int, cols: int, at: Placement) -> tuple[FloatArray, FloatArray]:
    """Signed distances from the centre in body radii, (rows, 1) along the profile and (1, cols) around it."""
    shape = profile(rows)
    row = shape.row_at(at.height)
    return (shape.arc - shape.arc[row])[:, None], ((azimuths(cols) - at.azimuth) * shape.radius[row])[None, :]


def dent(points: FloatArray, at: Placement) -> FloatArray:
    """Push the wall in: a bowl with a faint raised lip, which bends every highlight that crosses it."""
    rows, cols, _ = points.shape
    up, around = _around(rows, cols, at)
    cos, sin = np.cos(at.slant), np.sin(at.slant)
    along, across = cos * around + sin * up, cos * up - sin * around
    ragged = 1.0 + 0.10 * _ragged(at.noise_seed, around, up, 0.9 * at.half)
    radius = np.hypot(along / (1.15 * at.half), across / (0.8 * at.half)) * ragged
    bowl = 0.6 * np.exp(-((radius / 0.75) ** 4)) + 0.4 * np.exp(-((radius / 0.5) ** 2))
    bowl -= 0.08 * np.exp(-(((radius - 1.1) / 0.22) ** 2))
    push = 0.34 * at.depth * at.half * bowl
    return np.asarray(points - push[..., None] * normals(points), np.float32)


def crushed_rim(points: FloatArray, at: Placement) -> FloatArray:
    """Fold a stretch of the ring inwards and down, creased at both ends."""
    rows, cols, _ = points.shape
    shape, azimuth = profile(rows), azimuths(cols)
    wide = 0.20 + 0.9 * at.half
    across = (azimuth - 1.35 * at.azimuth) / wide
    fold = np.exp(-(across**4)) * (1.0 + 0.25 * np.cos(5.0 * across + at.slant))
    on_ring = np.exp(-(((shape.height - 3.98) / 0.24) ** 2)) * np.clip((shape.radius - 0.62) / 0.2, 0, 1)
    push = np.outer(on_ring, fold) * (0.05 + 0.22 * at.half) * at.depth
    moved = points.copy()
    moved[..., 0] -= push * np.sin(azimuth)
    moved[..., 1] += push * np.cos(azimuth)
    moved[..., 2] -= 0.6 * push * (shape.height > RING_Z[0] + 0.1)[:, None]
    return moved


def scratch(detail: DetailMap, at: Placement) -> DetailMap:
    """A few strokes of one movement over the wall: a bright ridge beside a dark groove, fading at both ends."""
    rng = np.random.default_rng(at.noise_seed)
    ridge, groove = np.zeros((2, WALL_ROWS, DETAIL_COLS), np.uint8)
    length = 2.4 * at.half + 0.1
    heading = np.array([np.sin(1.6 * at.slant), np.cos(1.6 * at.slant)])
    beside = np.array([heading[1], -heading[0]])
    t = np.linspace(-0.5, 0.5, 33)[:, None]
    bow = rng.normal(0, 0.06)
    for _ in range(int(rng.integers(1, 4))):
        start = np.array([at.azimuth, at.height]) + rng.normal(0.0, 0.04 + 0.05 * at.half, 2)
        path = start + length * rng.uniform(0.7, 1.0) * t * heading
        path += (bow + rng.normal(0, 0.015)) * length * (4 * t**2 - 0.5) * beside
        pixels = path * CELLS_PER_RADIUS + np.array([0.5 * DETAIL_COLS, 0.0])
        thick = int(rng.integers(2, 4))
        strength = rng.uniform(170, 255) * np.clip(3.0 - 6.0 * np.abs(t[:, 0]), 0.25, 1.0)
        for canvas, aside in ((ridge, 0.0), (groove, 0.5 + 0.8 * thick)):
            points = np.round((pixels + aside * beside) * 16).astype(int)
            for tail, head, value in zip(points[:-1], points[1:], strength[1:], strict=True):
                cv2.line(canvas, tail.tolist(), head.tolist(), float(value), thick, cv2.LINE_AA, 4)
    wall = at.depth * (0.75 * from_wall(ridge) - 0.6 * from_wall(groove))
    marked = detail.copy()
    marked[: len(wall)] = np.clip(marked[: len(wall)] + 128.0 * wall, 0, 255).astype(np.uint8)
    return marked


def stain(colour: FloatArray, at: Placement) -> FloatArray:
    """A dull, discoloured blob with a ragged outline and a darker edge; takes the sheen off the metal."""
    rng = np.random.default_rng(at.noise_seed)
    rows, cols, _ = colour.shape
    up, around = _around(rows, cols, at)
    ragged = 0.28 * _ragged(at.noise_seed, around, up, 0.8 * at.half) + 0.05 * _ragged(at.noise_seed, up, around, 0.06)
    radius = np.hypot(around / at.half, up / (at.half * rng.uniform(0.6, 1.1))) + ragged
    cover = np.clip((0.95 - radius) / 0.12, 0.0, 1.0)
    edge = np.exp(-(((radius - 0.85) / 0.10) ** 2))
    tint = np.array(((0.52, 0.68, 0.82), (0.78, 0.80, 0.82), (0.62, 0.70, 0.72))[int(rng.integers(3))], np.float32)
    patchy = 1.0 + 0.2 * _ragged(at.noise_seed + 1, around, up, 0.25 * at.half)
    amount = np.clip(at.depth * patchy * (0.50 * cover + 0.25 * edge), 0, 0.9)[..., None]
    dull = cv2.GaussianBlur(colour, (0, 0), 9.0) * tint * 0.78
    return np.asarray(colour + amount * (dull - colour), np.float32)
