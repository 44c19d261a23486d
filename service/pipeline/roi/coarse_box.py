"""Coarse box: the region of the frame that looks most like one upright part, by edge energy at reduced size.

Outlines are cut at several levels of edge energy. What they enclose, or the part of it that a straight body of even
width makes up where clutter is joined to it, is a candidate; soft terms rank the candidates. The box only prompts a
segmenter, so it may be off by a tenth of its sides, but it must not take the monitor for the canister.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import exp, inf, log

import cv2
import numpy as np
import numpy.typing as npt

from schemas.recipe import RoiRecipe
from service.pipeline.roi.edges import ByteMask, edge_energy, edge_levels, noise_floor, solid_regions
from service.pipeline.types import BgrImage, FloatArray, Mask

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the full frame; not rounded."""

LEVELS = 5
THICK = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))

REGIONS = 4
"""How many regions are looked at in each level."""

BODIES = 3
"""How many bodies are traced in one region that clutter is joined to."""

MIN_HEIGHT_FRAC = 0.12
TALL_SHAPE, SHOULDER_SHAPE = 2.65, 2.2
"""Height over width of a canister with and without what stands on its ring; used only where clutter hides the top."""


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

    @property
    def typical_width(self) -> float:
        """Median width of its rows, in reduced pixels: a shadow widens the bounds more than this."""
        spans = self.mask.sum(axis=1)
        return float(np.median(spans[spans > 0]))


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
    ranked: list[tuple[float, Candidate]] = []
    for level in edge_levels(energy, floor, LEVELS):
        solid = solid_regions(energy > level)
        ranked += [
            (prominence(candidate, energy, salient, recipe), candidate)
            for candidate in _candidates(solid, recipe.area_frac_min / 2)
        ]
    if not ranked:
        return None
    score, candidate = _largest_of_best(ranked)
    if score < recipe.prominence_min:
        return None
    silhouette = _with_stem(candidate, (energy.shape[0], energy.shape[1]))
    x, y, width, height = cv2.boundingRect(silhouette)
    box = x / scale, y / scale, (x + width) / scale, (y + height) / scale
    box = pad_box(recentre(box, silhouette, scale), 0.0, 0.0, (bgr.shape[1], bgr.shape[0]))
    return CoarseBox(box, silhouette.astype(np.bool_), scale, score)


def _largest_of_best(ranked: list[tuple[float, Candidate]]) -> tuple[float, Candidate]:
    """Return the best candidate, or the largest around it of nearly its rank: a high level loses faint edges."""
    best_score, best = max(ranked, key=lambda entry: entry[0])

    def is_around(candidate: Candidate) -> bool:
        shared_x = min(best.x + best.width, candidate.x + candidate.width) - max(best.x, candidate.x)
        shared_y = min(best.y + best.height, candidate.y + candidate.height) - max(best.y, candidate.y)
        return min(shared_x, shared_y) > 0 and shared_x * shared_y >= 0.85 * best.width * best.height

    near = [entry for entry in ranked if entry[0] >= 0.9 * best_score and is_around(entry[1])]
    return max(near, key=lambda entry: entry[1].area)


def _candidates(solid: ByteMask, min_area_frac: float) -> Iterator[Candidate]:
    min_area, min_height = min_area_frac * solid.size, MIN_HEIGHT_FRAC * solid.shape[0]

    def large(candidate: Candidate) -> bool:
        return candidate.area >= min_area and candidate.height >= min_height

    for region in filter(large, _regions(solid)):
        yield region
        yield from filter(large, _bodies(region, joined=False))
        if region.area >= 0.6 * region.width * region.height:
            continue
        # A canister fills 0.75 of its bounds: something is joined to it, or its outline has a gap.
        yield from filter(large, _bodies(region, joined=True))
        # Table edges and window frames are thin where they meet the part; so is the stem, which goes with them.
        framed = cv2.copyMakeBorder(region.mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        thick = np.asarray(cv2.morphologyEx(framed, cv2.MORPH_OPEN, THICK), np.uint8)[1:-1, 1:-1].copy()
        for body in filter(large, _bodies(replace(region, mask=thick), joined=True)):
            yield replace(body, open_above=True)


def _regions(solid: ByteMask) -> Iterator[Candidate]:
    """Yield the largest connected regions."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    for label in 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:REGIONS]:
        x, y, width, height, _ = (int(value) for value in stats[label])
        yield Candidate((labels[y : y + height, x : x + width] == label).astype(np.uint8), x, y, open_above=False)


def row_spans(region: ByteMask) -> ByteMask:
    """Return the region with each row filled from its first to its last pixel."""
    from_left = np.maximum.accumulate(region, axis=1)
    from_right = np.maximum.accumulate(region[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(from_left & from_right, np.uint8)


def _bodies(region: Candidate, *, joined: bool) -> Iterator[Candidate]:
    """Yield the thickest bodies of a region, each traced up and down from its thickest point.

    joined: the region is more than the part, so a body ends at the latest where a canister of its width does.
    """
    # The border counts as outside, so that a region cut by the frame is not thick there.
    framed = cv2.copyMakeBorder(region.mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    thickness = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1].copy()
    height, width = region.mask.shape
    columns = np.arange(width)
    zero_before = np.maximum.accumulate(np.where(region.mask, -1, columns), axis=1)
    zero_after = np.minimum.accumulate(np.where(region.mask, width, columns)[:, ::-1], axis=1)[:, ::-1]
    for _ in range(BODIES):
        _, radius, _, (seed_x, seed_y) = cv2.minMaxLoc(thickness)
        if radius < 3:
            return
        reach = int(1.2 * radius)
        thickness[max(seed_y - 3 * reach, 0) : seed_y + 3 * reach, max(seed_x - reach, 0) : seed_x + reach] = 0
        runs = _Runs(zero_before, zero_after, radius)
        down, _ = runs.follow(seed_x, range(seed_y, height), shoulder=-1)
        bottom = down[-1][0] + 1 if down else seed_y
        highest = max(0, bottom - round(TALL_SHAPE * 2 * radius)) if joined else 0
        shoulder = bottom - round(SHOULDER_SHAPE * 2 * radius) if joined else -1
        up, blocked_above = runs.follow(seed_x, range(seed_y, highest - 1, -1), shoulder=shoulder)
        mask = np.zeros_like(region.mask)
        for row, first, last in up + down:
            mask[row, first : last + 1] = 1
        left, top, body_width, body_height = cv2.boundingRect(mask)
        if body_width:
            body = mask[top : top + body_height, left : left + body_width]
            yield Candidate(body, region.x + left, region.y + top, blocked_above)


@dataclass(frozen=True, slots=True)
class _Runs:
    """The runs of a region's rows, as far as they can belong to a body of about even width.

    zero_before, zero_after: (h, w) int, column of the nearest pixel outside of the region. radius: half the width of
    the body at its thickest point, px.
    """

    zero_before: npt.NDArray[np.int64]
    zero_after: npt.NDArray[np.int64]
    radius: float

    def follow(self, start: int, rows: range, *, shoulder: int) -> tuple[list[tuple[int, int, int]], bool]:
        """Follow the body from its thickest point, row by row, along its axis.

        A run that goes too far to one side (a shadow) is cut to what it has on the other; one that goes too far to both
        sides (a table's edge behind it) to the width of the row before, provided that the body goes on beyond.

        Returns:
            Row, first and last column of each run, and whether it ended where the region goes on.
        """
        widest = 1.35 * self.radius + 2  # the crimped ring is wider than the body, and the seed may be off the axis
        axis, half = float(start), self.radius
        runs: list[tuple[int, int, int]] = []
        blocked, stem = 0, False
        for row in rows:
            column = round(axis)
            left = column - int(self.zero_before[row, column])
            right = int(self.zero_after[row, column]) - column
            if left <= 0 or right <= 0:
                break
            stem = stem or half < 0.35 * self.radius
            # Past the foot of the stem nothing gets wide again.
            narrow = 0.5 * self.radius if stem else 0.75 * self.radius if row < shoulder else inf
            if (left > widest and right > widest) or (left + right) / 2 > narrow:
                blocked += 1
                left = right = max(1, round(half))
            else:
                blocked = 0
                left, right = (
                    min(left, right + 2 if left > widest else left),
                    min(right, left + 2 if right > widest else right),
                )
                axis += min(max((right - left) / 2, -0.5), 0.5)
                half = (left + right) / 2
            runs.append((row, column - left + 1, column + right - 1))
        return runs[: len(runs) - blocked], blocked > 0


def _with_stem(candidate: Candidate, frame_shape: tuple[int, int]) -> ByteMask:
    """Return the candidate in the reduced frame; where its top is lost in clutter, with a strip up to the usual height.

    The strip has the width of a valve stem.
    """
    silhouette = np.zeros(frame_shape, np.uint8)
    x, y, width, height = candidate.x, candidate.y, candidate.width, candidate.height
    silhouette[y : y + height, x : x + width] = candidate.mask
    if candidate.open_above:
        top = max(0, min(y, round(y + height - TALL_SHAPE * candidate.typical_width)))
        silhouette[top:y, x + round(0.38 * width) : x + round(0.62 * width) + 1] = 1
    return silhouette


def prominence(candidate: Candidate, energy: FloatArray, salient: FloatArray, recipe: RoiRecipe) -> float:
    """Return how much a candidate looks like one upright part in the middle of the picture, 0..1.

    exp(-sum of weighted doubts). The weights were fitted so that the best of a frame's candidates wins, on 200 rendered
    frames and on the two photos shifted, turned, blurred, and pasted onto each other's background.
    """
    frame_height, frame_width = energy.shape
    x, y, width, height, area = candidate.x, candidate.y, candidate.width, candidate.height, candidate.area
    shape = height / width
    if not recipe.aspect_min <= shape <= recipe.aspect_max:
        return 0.0
    off_x = (x + width / 2) / frame_width - 0.5
    off_y = (y + height / 2) / frame_height - 0.5
    touched = (x <= 1) + (y <= 1) + (x + width >= frame_width - 1) + (y + height >= frame_height - 1)
    contrast, weak = _rim(candidate, energy)
    doubts = (
        10.0 * _asymmetry(candidate.mask)
        + 3.3 * weak
        + log((contrast + 4.0) / max(contrast, 1e-6))
        + 0.27 * log(energy.size / area)
        + 0.1 * -log(_share_inside(candidate, salient))
        + 0.07 * touched
        + 0.1 * -log(min(1.0, max(0.01, (area / (width * height) - 0.3) / 0.4)))
        + max(0.0, log(2.0 / shape), log(shape / 3.5)) ** 2
        + 0.5 * max(0.0, width / candidate.typical_width - 1.2)
        + 1.5 * max(0.0, _waist(candidate) - 0.3)
        + 1.8 * off_x**2
        + 2.9 * off_y**2
    )
    return exp(-doubts)


def _waist(candidate: Candidate) -> float:
    """Return how much wider the mask gets again above its narrowest row, of its width: a neck is no waist."""
    spans = candidate.mask.sum(axis=1, dtype=np.int64)[::-1]
    upwards = spans[int(np.argmax(spans[: len(spans) // 2 + 1])) :]
    return float((upwards - np.minimum.accumulate(upwards)).max()) / candidate.typical_width


def _asymmetry(mask: ByteMask) -> float:
    """Return how far the middles of the rows stray from a straight axis, of the width."""
    width = mask.shape[1]
    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = width - mask[rows, ::-1].argmax(axis=1)
    weights = (right - left) / (right - left).sum()
    row_off = rows - (weights * rows).sum()
    middle_off = (left + right) / 2 - (weights * (left + right) / 2).sum()
    variance = float((weights * row_off**2).sum())
    slope = float((weights * row_off * middle_off).sum()) / variance if variance > 0 else 0.0
    return float((weights * np.abs(middle_off - slope * row_off)).sum()) / width


def _rim(candidate: Candidate, energy: FloatArray) -> tuple[float, float]:
    """Return the mean edge energy along the outline, and the share of the outline that has next to none."""
    framed = cv2.copyMakeBorder(candidate.mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    inner = cv2.erode(framed, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    window = energy[candidate.y : candidate.y + candidate.height, candidate.x : candidate.x + candidate.width]
    rim = window[(candidate.mask > 0) & (inner == 0)]
    return float(rim.mean()), float((rim < 3.0).mean())


def _share_inside(candidate: Candidate, salient: FloatArray) -> float:
    """Return the share of the edge energy around the candidate that lies in its bounds: a cut part leaves some out."""
    x, y, width, height = candidate.x, candidate.y, candidate.width, candidate.height
    pad_x, pad_y = width // 2, height // 3
    inside = float(salient[y : y + height, x : x + width].sum())
    around = float(salient[max(y - pad_y, 0) : y + height + pad_y, max(x - pad_x, 0) : x + width + pad_x].sum())
    return (inside + 1.0) / (around + 1.0)
