"""Damage painted onto a view: strokes, spots, patches and specks, each put there in one of many ways.

What is painted is not meant to look like any one defect. It is a small part of the surface that is not like the rest,
from hardly visible to plain, and that is what the backbone has to tell from a surface's own variety.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from service.pipeline.types import FloatArray, Mask
from service.pretraining.noise import even_noise, log_uniform, smooth_noise

Rng = np.random.Generator
Painter = Callable[[Rng, FloatArray, "Outline", float, Callable[[], FloatArray]], FloatArray]

FAINTEST = 0.04
"""Mean change, of full scale, below which nobody could see the damage."""
FAINTEST_OF_CONTRAST = 0.35
"""The same as a share of the surface's own contrast: less drowns in its texture."""


@dataclass(frozen=True, slots=True)
class Outline:
    """Where damage lies: alpha (side, side) float32, 0..1, its soft shape; thin: lines and specks."""

    alpha: FloatArray
    thin: bool

    @property
    def layers(self) -> FloatArray:
        """Alpha (side, side, 1), to blend pictures with."""
        return self.alpha[..., None]


@dataclass(frozen=True, slots=True)
class Painted:
    """A damaged view. label: the pixels that changed visibly; None where nobody could tell."""

    image: FloatArray
    changed: Mask
    label: Mask | None


def paint(rng: Rng, image: FloatArray, weight: FloatArray, other: Callable[[], FloatArray]) -> Painted:
    """Paint one damage.

    image: (side, side, 3) float32, 0..1. weight: (side, side) float32, 1 on the part. other: makes another surface of
    that size.
    """
    outline = _outline(rng, len(image))
    contrast = max(float(image.mean(axis=2)[weight > 0].std()), 0.03)
    painters, odds = (_ON_THIN, _THIN_ODDS) if outline.thin else (_ON_AREAS, _AREA_ODDS)
    painter = painters[rng.choice(len(painters), p=odds)]
    damaged = np.clip(painter(rng, image, outline, contrast, other), 0, 1).astype(np.float32)
    difference = np.abs(damaged - image).max(axis=2) * weight
    changed = difference > 0.01
    label = (difference > 0.25 * difference.max()) & (difference > 0.02)
    visible = float(difference[label].mean()) if np.count_nonzero(label) >= 4 else 0.0
    seen = visible >= max(FAINTEST, FAINTEST_OF_CONTRAST * contrast)
    return Painted(damaged, changed, label if seen else None)


def _outline(rng: Rng, side: int) -> Outline:
    kind = int(rng.choice(4, p=(0.36, 0.36, 0.14, 0.14)))
    shape = (_stroke, _spot, _ragged_patch, _specks)[kind](rng, side)
    thin = kind in {0, 3}
    sigma = log_uniform(rng, 0.3, 1.1 if kind == 0 else 2.2)
    alpha = np.asarray(cv2.GaussianBlur(shape, (0, 0), sigma), np.float32)
    return Outline(np.minimum(alpha * 1.6, 1) if thin and sigma > 0.5 else alpha, thin)


def _stroke(rng: Rng, side: int) -> FloatArray:
    """Return a scratch or crack: a walk that keeps its direction more or less, sometimes with a branch."""
    shape = np.zeros((side, side), np.float32)
    steps = int(log_uniform(rng, 3, 30))
    turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, log_uniform(rng, 0.02, 0.8), steps))
    moves = rng.uniform(2, 5) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    path = rng.uniform(0.05 * side, 0.95 * side, 2) + np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    cv2.polylines(shape, [_eighths(path)], False, 1, int(rng.choice([1, 1, 1, 2, 2, 3, 5])), cv2.LINE_AA, 3)
    if rng.random() < 0.25:
        branch = path[len(path) // 2 :] + rng.normal(0, 2, 2)
        cv2.polylines(shape, [_eighths(branch)], False, 1, 1, cv2.LINE_AA, 3)
    return shape


def _spot(rng: Rng, side: int, smallest: float = 1.2, largest: float = 26.0) -> FloatArray:
    """Return an ellipse or a polygon: a pit, a chip, a stain."""
    shape = np.zeros((side, side), np.float32)
    x, y = rng.uniform(0.04 * side, 0.96 * side, 2)
    radius = log_uniform(rng, smallest, largest)
    if rng.random() < 0.5:
        size = (2 * radius, 2 * radius * rng.uniform(0.25, 1))
        cv2.ellipse(shape, ((x, y), size, rng.uniform(0, 180)), 1, -1, cv2.LINE_AA)
    else:
        count = int(rng.integers(4, 14))
        angles, radii = np.sort(rng.uniform(0, 2 * np.pi, count)), radius * rng.uniform(0.45, 1.3, count)
        corners = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
        cv2.fillPoly(shape, [_eighths(corners)], 1, cv2.LINE_AA, 3)
    return shape


def _ragged_patch(rng: Rng, side: int) -> FloatArray:
    """Return a spot that is frayed, or has fallen into flakes."""
    flakes = even_noise(rng, side, log_uniform(rng, 4, 14)) > rng.uniform(0.2, 1)
    return (flakes & (_spot(rng, side, 10, 36) > 0.5)).astype(np.float32)


def _specks(rng: Rng, side: int) -> FloatArray:
    """Return a cloud of small dots."""
    shape, centre, spread = np.zeros((side, side), np.float32), rng.uniform(0, side, 2), log_uniform(rng, 4, 20)
    for _ in range(int(rng.integers(4, 40))):
        x, y = (8 * (centre + rng.normal(0, spread, 2))).astype(int).tolist()
        cv2.circle(shape, (x, y), int(8 * log_uniform(rng, 0.5, 2)), 1, -1, cv2.LINE_AA, 3)
    return shape


def _eighths(points: np.ndarray) -> np.ndarray:
    return np.asarray(8 * points, np.int32)


def _amplitude(rng: Rng) -> float:
    return float(rng.choice([-1, 1], p=(0.6, 0.4))) * log_uniform(rng, 0.08, 0.5)


def _over(image: FloatArray, outline: Outline, painted: np.ndarray) -> FloatArray:
    """Lay what is painted over the image where the damage is."""
    return np.asarray(image + outline.layers * (painted - image), np.float32)


def _lift(rng: Rng, image: FloatArray, outline: Outline, *_: object) -> FloatArray:
    """Add or take away light."""
    return _over(image, outline, np.clip(image + _amplitude(rng), 0, 1))


def _tint(rng: Rng, image: FloatArray, outline: Outline, *_: object) -> FloatArray:
    """Multiply: the texture below stays visible."""
    return _over(image, outline, image * (1 + np.clip(2 * _amplitude(rng), -0.85, 1.2)))


def _relief(rng: Rng, image: FloatArray, outline: Outline, *_: object) -> FloatArray:
    """Light one flank and shade the other, as a groove or a bump under a lamp does."""
    height = cv2.GaussianBlur(outline.alpha, (0, 0), log_uniform(rng, 0.6, 2.5))
    lamp = rng.uniform(0, 2 * np.pi)
    slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) * np.cos(lamp) + cv2.Sobel(height, cv2.CV_32F, 0, 1) * np.sin(lamp)
    shading = slope / (np.abs(slope).max() + 1e-6) * abs(_amplitude(rng))
    return np.asarray(image + shading[..., None], np.float32)


def _foreign(
    rng: Rng, image: FloatArray, outline: Outline, _contrast: float, other: Callable[[], FloatArray]
) -> FloatArray:
    """Let another surface show through, as it is or only its texture."""
    foreign, share = other(), rng.uniform(0.4, 1)
    if rng.random() < 0.5:
        foreign = foreign - foreign.mean() + _smooth(image, 8.0)
    return _over(image, outline, image + share * (foreign - image))


def _misplaced(rng: Rng, image: FloatArray, outline: Outline, *_: object) -> FloatArray:
    """Show a piece of the surface itself, turned or flipped."""
    piece = image[::-1] if rng.random() < 0.5 else np.rot90(image)
    piece = np.ascontiguousarray(np.roll(piece, rng.integers(len(image), size=2), axis=(0, 1)))
    if rng.random() < 0.6:
        piece = _smooth(image, 6.0) + piece - _smooth(piece, 6.0)
    return _over(image, outline, piece)


def _roughened(rng: Rng, image: FloatArray, outline: Outline, contrast: float, *_: object) -> FloatArray:
    """Replace the fine texture by another one at the same brightness."""
    if rng.random() < 0.6:
        sigma_xy = (log_uniform(rng, 0.4, 4),) * 2
    else:
        sigma_xy = (log_uniform(rng, 0.4, 1.5), log_uniform(rng, 3, 20))
    texture = smooth_noise(rng, len(image), sigma_xy, rng.uniform(1, 179)) * contrast * log_uniform(rng, 0.2, 1.5)
    return _over(image, outline, _smooth(image, 6.0) + texture[..., None])


def _bulge(rng: Rng, image: FloatArray, outline: Outline, *_: object) -> FloatArray:
    """Magnify or shrink a round spot and shade it, as a dent does with what it mirrors."""
    rows, columns = np.nonzero(outline.alpha > 0.5)
    if not rows.size:
        return image
    side, y0, x0 = len(image), np.float32(rows.mean()), np.float32(columns.mean())
    y, x = np.mgrid[:side, :side].astype(np.float32)
    sigma = log_uniform(rng, 5, 18)
    bell = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / np.float32(2 * sigma**2))
    pull = bell * np.float32(0.6 * rng.uniform(0.5, 1.4) * rng.choice([-1, 1]))
    map_x, map_y = x - (x - x0) * pull, y - (y - y0) * pull
    moved = np.asarray(cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.float32)
    if rng.random() < 0.6:
        moved = moved + ((x - x0) / np.float32(sigma) * bell)[..., None] * np.float32(0.7 * abs(_amplitude(rng)))
    return moved


def _polished(rng: Rng, image: FloatArray, outline: Outline, *_: object) -> FloatArray:
    """Blur what is there, or sharpen it."""
    smooth = _smooth(image, log_uniform(rng, 1, 4))
    spot = smooth if rng.random() < 0.5 else 2 * image - smooth
    return _over(image, outline, spot)


def _smooth(image: FloatArray, sigma: float) -> FloatArray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


_ON_THIN: tuple[Painter, ...] = (_lift, _tint, _relief)
_THIN_ODDS = (0.48, 0.24, 0.28)
_ON_AREAS: tuple[Painter, ...] = (*_ON_THIN, _foreign, _misplaced, _roughened, _bulge, _polished)
_AREA_ODDS = (0.30, 0.15, 0.17, 0.10, 0.08, 0.08, 0.06, 0.06)
