"""Candidates for the part in one level of edge energy: regions that outlines enclose, and the bodies within them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

import cv2
import numpy as np
import numpy.typing as npt

from service.pipeline.roi.edges import ByteMask
from service.pipeline.types import FloatArray

REGIONS = 4
"""How many regions are looked at."""

BODIES = 3
"""How many bodies are traced in one region."""

MIN_HEIGHT_FRAC = 0.12
"""Smallest candidate, of the height of the frame."""

TALL_SHAPE, SHOULDER_SHAPE = 2.65, 2.2
"""Height over width of a canister with and without what stands on its ring; used only where clutter hides the top."""

THICK = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))


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
    def xyxy(self) -> tuple[int, int, int, int]:
        """Bounds in reduced pixels."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    @property
    def area(self) -> int:
        """Area in reduced pixels."""
        return cv2.countNonZero(self.mask)

    @property
    def typical_width(self) -> float:
        """Median width of its rows, in reduced pixels: a shadow widens the bounds more than this."""
        spans = self.mask.sum(axis=1)
        return float(np.median(spans[spans > 0]))


def candidates(solid: ByteMask, min_area_frac: float) -> Iterator[Candidate]:
    """Yield what may be the part.

    Args:
        solid: (h, w) uint8 0/1, from `solid_regions`.
        min_area_frac: smallest candidate, of the frame.
    """
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
    thickness = np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1], np.float32).copy()
    width = region.width
    columns = np.arange(width)
    zero_before = np.maximum.accumulate(np.where(region.mask, -1, columns), axis=1)
    zero_after = np.minimum.accumulate(np.where(region.mask, width, columns)[:, ::-1], axis=1)[:, ::-1]
    for _ in range(BODIES):
        _, radius, _, (seed_x, seed_y) = cv2.minMaxLoc(thickness)
        if radius < 3:
            return
        seeds = [(seed_x, seed_y, radius)]
        if joined:
            seeds += _foot(thickness, seed_x, seed_y, radius)
        reach = int(1.2 * radius)
        thickness[max(seed_y - 3 * reach, 0) : seed_y + 3 * reach, max(seed_x - reach, 0) : seed_x + reach] = 0
        for x, y, half in seeds:
            body, left, top, blocked_above = _traced(_Runs(zero_before, zero_after, half), x, y, joined=joined)
            if body.size:
                yield Candidate(body, region.x + left, region.y + top, blocked_above)


def _foot(thickness: FloatArray, x: int, y: int, radius: float) -> list[tuple[int, int, float]]:
    """Return column, row and thickness of the thickest point well below a seed, if it is another body's.

    What is joined to the part behind its upper half, as a monitor, moves the thickest point off the part's axis; the
    foot stands free on the table.
    """
    top = y + round(radius)
    left = max(x - round(1.5 * radius), 0)
    below = thickness[top : top + round(2 * radius), left : x + round(1.5 * radius)]
    if not below.size:
        return []
    _, slimmer, _, (column, row) = cv2.minMaxLoc(below)
    is_other = slimmer < 0.85 * radius or abs(left + column - x) > 0.2 * radius
    return [(left + column, top + row, slimmer)] if is_other and slimmer >= 3 else []


def _traced(runs: _Runs, x: int, y: int, *, joined: bool) -> tuple[ByteMask, int, int, bool]:
    """Return a body traced up and down from its thickest point: tight mask, left, top, whether its top is blocked."""
    height, width = runs.zero_before.shape
    down, _ = runs.follow(x, range(y, height), shoulder=-1)
    bottom = down[-1][0] + 1 if down else y
    highest = max(0, bottom - round(TALL_SHAPE * 2 * runs.radius)) if joined else 0
    shoulder = bottom - round(SHOULDER_SHAPE * 2 * runs.radius) if joined else -1
    up, blocked_above = runs.follow(x, range(y, highest - 1, -1), shoulder=shoulder)
    mask = np.zeros((height, width), np.uint8)
    for row, first, last in up + down:
        mask[row, first : last + 1] = 1
    left, top, body_width, body_height = cv2.boundingRect(mask)
    return mask[top : top + body_height, left : left + body_width], left, top, blocked_above


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
            runs.append((row, max(column - left + 1, 0), column + right - 1))
        return runs[: len(runs) - blocked], blocked > 0
