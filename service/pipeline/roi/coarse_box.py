"""Coarse box: the region of the frame that looks most like one upright part, by edge energy at reduced size.

Outlines are cut at several levels of edge energy. What they enclose, or the part of it that a straight body of even
width makes up where clutter is joined to it, is a candidate; soft terms rank the candidates. The box only prompts a
segmenter, so it may be off by a tenth of its sides, but it must not take the monitor for the canister.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import exp, log, sqrt

import cv2
import numpy as np

from schemas.recipe import RoiRecipe
from service.pipeline.roi.edges import ByteMask, edge_energy, edge_levels, noise_floor, solid_regions
from service.pipeline.types import BgrImage, FloatArray, Mask

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the full frame; not rounded."""

LEVELS = 5
BODIES = 3
"""How many bodies are traced in one region that clutter is joined to."""

MIN_HEIGHT_FRAC = 0.12
TALL_SHAPE = 2.65
"""Height over width of a canister with its stem; used only where clutter hides where the stem ends."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A region that may be the part.

    mask: (h, w) uint8 0/1, tight. x, y: where it lies in the reduced frame. open_above: clutter is joined to its top,
    which may therefore lie higher.
    """

    mask: ByteMask
    x: int
    y: int
    open_above: bool

    @property
    def width(self) -> int:
        """Width in reduced pixels."""
        return int(self.mask.shape[1])

    @property
    def height(self) -> int:
        """Height in reduced pixels."""
        return int(self.mask.shape[0])

    @property
    def area(self) -> int:
        """Area in reduced pixels."""
        return cv2.countNonZero(self.mask)


@dataclass(frozen=True, slots=True)
class CoarseBox:
    """Where the part probably is.

    xyxy: tight box in pixels of the full frame, not padded. silhouette: (h, w) bool at `scale` times the size of the
    frame, a first guess of the mask. prominence: 0..1, how much it looks like one upright part.
    """

    xyxy: Box
    silhouette: Mask
    scale: float
    prominence: float


def pad_box(xyxy: Box, frac_x: float, frac_y: float, frame_wh: tuple[int, int]) -> Box:
    """Return the box with its sides moved out by a share of its width and height, within the frame."""
    x1, y1, x2, y2 = xyxy
    pad_x, pad_y = frac_x * (x2 - x1), frac_y * (y2 - y1)
    width, height = frame_wh
    return max(x1 - pad_x, 0.0), max(y1 - pad_y, 0.0), min(x2 + pad_x, float(width)), min(y2 + pad_y, float(height))


def recentre(xyxy: Box, silhouette: ByteMask, scale: float) -> Box:
    """Return the box grown on one side until the silhouette's median column is its middle; it never shrinks.

    A shadow or a lost edge makes a coarse box lopsided; an upright part has as much on either side of its axis.
    """
    x1, y1, x2, y2 = xyxy
    columns = np.flatnonzero(silhouette.any(axis=0))
    weights = silhouette.sum(axis=0)[columns].cumsum()
    axis = (float(columns[np.searchsorted(weights, weights[-1] / 2)]) + 0.5) / scale
    half = min(max(axis - x1, x2 - axis), 0.6 * (x2 - x1))
    return min(x1, axis - half), y1, max(x2, axis + half), y2


def find_coarse_box(bgr: BgrImage, recipe: RoiRecipe) -> CoarseBox | None:
    """Return where the part probably is, or None where nothing in the frame looks like one.

    Args:
        bgr: (H, W, 3) uint8.
        recipe: `area_frac_min`, `aspect_min`, `aspect_max` and `prominence_min` are used.
    """
    energy = edge_energy(bgr)
    scale = energy.shape[1] / bgr.shape[1]
    floor = noise_floor(energy)
    # Capped, or one bright edge of the background would outweigh the part.
    salient = np.clip(energy - floor, 0.0, 20.0)
    ranked: list[tuple[float, Candidate, ByteMask]] = []
    for level in edge_levels(energy, floor, LEVELS):
        solid = solid_regions(energy > level)
        ranked += [
            (prominence(candidate, energy, salient, recipe), candidate, solid)
            for candidate in _candidates(solid, recipe.area_frac_min / 2)
        ]
    if not ranked:
        return None
    ranked.sort(key=lambda entry: -entry[0])
    score, candidate, solid = _least_cut(ranked)
    if score < recipe.prominence_min:
        return None
    silhouette = _with_stem(candidate, solid)
    x, y, width, height = cv2.boundingRect(silhouette)
    box = x / scale, y / scale, (x + width) / scale, (y + height) / scale
    box = pad_box(recentre(box, silhouette, scale), 0.0, 0.0, (bgr.shape[1], bgr.shape[0]))
    return CoarseBox(box, silhouette.astype(np.bool_), scale, score)


def _candidates(solid: ByteMask, min_area_frac: float) -> Iterator[Candidate]:
    min_area, min_height = min_area_frac * solid.size, MIN_HEIGHT_FRAC * solid.shape[0]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    for label in 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:4]:
        x, y, width, height, area = (int(value) for value in stats[label])
        if area < min_area or height < min_height:
            continue
        region = (labels[y : y + height, x : x + width] == label).astype(np.uint8)
        yield Candidate(region, x, y, open_above=False)
        if area < 0.6 * width * height:
            # A canister fills 0.75 of its bounds: its outline has a gap, or something else is joined to it.
            yield Candidate(_row_spans(region), x, y, open_above=False)
            for body in _bodies(region, x, y):
                if body.area >= min_area and body.height >= min_height:
                    yield body


def _row_spans(region: ByteMask) -> ByteMask:
    """Return the region with each row filled from its first to its last pixel."""
    from_left = np.maximum.accumulate(region, axis=1)
    from_right = np.maximum.accumulate(region[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(from_left & from_right, np.uint8)


def _bodies(region: ByteMask, x: int, y: int) -> Iterator[Candidate]:
    """Yield the thickest bodies of a region, each traced up and down from its thickest point."""
    # The frame's border counts as outside, so that a region cut by it has no thickest point there.
    thickness = cv2.distanceTransform(cv2.copyMakeBorder(region, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)
    thickness = thickness[1:-1, 1:-1].copy()
    for _ in range(BODIES):
        _, radius, _, (seed_x, seed_y) = cv2.minMaxLoc(thickness)
        if radius < 3:
            return
        reach = int(1.2 * radius)
        thickness[max(seed_y - 3 * reach, 0) : seed_y + 3 * reach, max(seed_x - reach, 0) : seed_x + reach] = 0
        mask, open_above = _trace_body(region, (seed_x, seed_y), radius)
        left, top, width, height = cv2.boundingRect(mask)
        yield Candidate(mask[top : top + height, left : left + width], x + left, y + top, open_above)


def _trace_body(region: ByteMask, seed_xy: tuple[int, int], radius: float) -> tuple[ByteMask, bool]:
    """Return the runs through the seed's column, row by row, that are no wider than the body can be.

    Args:
        region: (h, w) uint8 0/1, one connected region.
        seed_xy: its thickest point.
        radius: distance of the seed to the region's edge, px: half the body's width.

    Returns:
        (h, w) uint8 0/1, and whether the run above the topmost is too wide, so that the region goes on there.
    """
    seed_x, seed_y = seed_xy
    height, width = region.shape
    outside_left = region[:, seed_x::-1] == 0
    outside_right = region[:, seed_x:] == 0
    left = np.where(outside_left.any(axis=1), outside_left.argmax(axis=1), seed_x + 1)
    right = np.where(outside_right.any(axis=1), outside_right.argmax(axis=1), width - seed_x)
    widest = 1.5 * radius + 2  # the crimped ring is wider than the body
    fits = (left > 0) & (left <= widest) & (right <= widest)
    blocked_above = np.flatnonzero(~fits[:seed_y])
    blocked_below = np.flatnonzero(~fits[seed_y:])
    top = int(blocked_above[-1]) + 1 if len(blocked_above) else 0
    bottom = seed_y + int(blocked_below[0]) if len(blocked_below) else height
    bottom = max(bottom, seed_y + 1)
    columns = np.arange(width) - seed_x
    mask = np.zeros_like(region)
    mask[top:bottom] = (columns > -left[top:bottom, None]) & (columns < right[top:bottom, None])
    mask[seed_y, seed_x] = 1
    return mask, top > 0 and bool(left[top - 1] > 0)


def _least_cut(ranked: list[tuple[float, Candidate, ByteMask]]) -> tuple[float, Candidate, ByteMask]:
    """Return the best candidate, or a larger one of little lower rank around it: a high level loses faint edges.

    Where another level shows the same body with something joined to its top, the top may have been lost as well.
    """
    best_score, best, _ = chosen = ranked[0]
    others = [entry for entry in ranked[1:] if entry[0] >= 0.6 * best_score]
    for entry in others:
        candidate = entry[1]
        around = _overlap(best, candidate) >= 0.8 * _extent(best)
        if around and candidate.width < 1.25 * best.width and candidate.area > 1.15 * chosen[1].area:
            chosen = entry
    score, largest, solid = chosen
    open_above = largest.open_above or any(
        candidate.open_above and _overlap(largest, candidate) >= 0.8 * max(_extent(largest), _extent(candidate))
        for _, candidate, _ in others
    )
    return score, replace(largest, open_above=open_above), solid


def _extent(candidate: Candidate) -> int:
    return candidate.width * candidate.height


def _overlap(one: Candidate, other: Candidate) -> int:
    """Return the area that the bounds of two candidates share."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return max(width, 0) * max(height, 0)


def _with_stem(candidate: Candidate, solid: ByteMask) -> ByteMask:
    """Return the candidate in the reduced frame, with what goes on above its middle: the valve stem.

    Opening and tracing take the thin stem off. Where clutter is joined to the top, a strip of the stem's width is added
    up to the height that such a body has.
    """
    silhouette = np.zeros_like(solid)
    x, y, width, height = candidate.x, candidate.y, candidate.width, candidate.height
    silhouette[y : y + height, x : x + width] = candidate.mask
    middle = slice(x + round(0.3 * width), x + round(0.7 * width) + 1)
    if candidate.open_above:
        top = max(0, min(y, round(y + height - TALL_SHAPE * width)))
        stem = slice(x + round(0.38 * width), x + round(0.62 * width) + 1)
        silhouette[top:y, stem] = 1
        return silhouette
    highest = max(0, y - round(0.4 * height))
    gaps = np.flatnonzero(~solid[highest:y, middle].any(axis=1))
    top = highest + int(gaps[-1]) + 1 if len(gaps) else highest
    silhouette[top:y, middle] = solid[top:y, middle]
    return silhouette


def prominence(candidate: Candidate, energy: FloatArray, salient: FloatArray, recipe: RoiRecipe) -> float:
    """Return how much a candidate looks like one upright part in the middle of the picture, 0..1.

    The product of soft terms, each 1 where nothing speaks against it.
    """
    frame_height, frame_width = energy.shape
    x, y, width, height, area = candidate.x, candidate.y, candidate.width, candidate.height, candidate.area
    off_x = (x + width / 2) / frame_width - 0.5
    off_y = (y + height / 2) / frame_height - 0.5
    touched = (x <= 1) + (y <= 1) + (x + width >= frame_width - 1) + (y + height >= frame_height - 1)
    asymmetry, tilt = _axis(candidate.mask)
    terms = (
        _upright(height / width, recipe),
        min(1.0, max(0.01, (area / (width * height) - 0.3) / 0.4)),  # fills its bounds
        0.35**touched,
        exp(-((off_x / 0.22) ** 2 + (off_y / 0.4) ** 2) / 2),
        exp(-((asymmetry / 0.06) ** 2) / 2),
        exp(-((tilt / 0.25) ** 2) / 2),
        _rim_contrast(candidate, energy),
        sqrt(min(1.0, area / energy.size / 0.03)),
        sqrt(_share_inside(candidate, salient)),
        0.85 if candidate.open_above else 1.0,
    )
    return float(np.prod(terms))


def _upright(shape: float, recipe: RoiRecipe) -> float:
    """Return 1 for the shape of a canister, falling off towards the limits of the recipe."""
    if not recipe.aspect_min <= shape <= recipe.aspect_max:
        return 0.0
    off = max(0.0, log(1.2 / shape), log(shape / 4.5))
    return exp(-((off / 0.3) ** 2) / 2)


def _axis(mask: ByteMask) -> tuple[float, float]:
    """Return how far the middles of the rows stray from a straight axis, of the width, and the axis' slope."""
    width = mask.shape[1]
    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = width - mask[rows, ::-1].argmax(axis=1)
    spans = (right - left).astype(np.float64)
    middles = (left + right) / 2
    weights = spans / spans.sum()
    row_off = rows - (weights * rows).sum()
    middle_off = middles - (weights * middles).sum()
    variance = (weights * row_off**2).sum()
    slope = (weights * row_off * middle_off).sum() / variance if variance > 0 else 0.0
    strays = np.abs(middle_off - slope * row_off)
    return float((weights * strays).sum() / width), float(abs(slope))


def _rim_contrast(candidate: Candidate, energy: FloatArray) -> float:
    """Return the mean edge energy along the outline, squashed to 0..1."""
    padded = cv2.copyMakeBorder(candidate.mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    window = energy[candidate.y : candidate.y + candidate.height, candidate.x : candidate.x + candidate.width]
    contrast = float(window[(candidate.mask > 0) & (inner == 0)].mean())
    return contrast / (contrast + 4.0)


def _share_inside(candidate: Candidate, salient: FloatArray) -> float:
    """Return the share of the edge energy around the candidate that lies in its bounds: a cut part leaves some out."""
    x, y, width, height = candidate.x, candidate.y, candidate.width, candidate.height
    pad_x, pad_y = width // 2, height // 3
    inside = float(salient[y : y + height, x : x + width].sum())
    around = float(salient[max(y - pad_y, 0) : y + height + pad_y, max(x - pad_x, 0) : x + width + pad_x].sum())
    return (inside + 1.0) / (around + 1.0)
