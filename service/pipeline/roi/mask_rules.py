"""Rules that turn a segmenter's raw mask into the mask of one upright part, each a pure function with its knob.

Masks are (H, W) bool. A box is x1, y1, x2, y2 in pixels of the mask. No rule changes its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log2

import cv2
import numpy as np
import numpy.typing as npt

from schemas.recipe import RoiRecipe
from service.pipeline.types import Mask

IntBox = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Scene:
    """What the rules need to know of the picture that a mask belongs to.

    box: the prompt. core: the coarse box before padding. frame: the frame's border, beyond the mask where that is of a
    crop. frame_area: of the whole frame. All in pixels of the mask.
    """

    box: IntBox
    core: IntBox
    frame: IntBox
    frame_area: float


@dataclass(frozen=True, slots=True)
class RuledMask:
    """A mask after all rules. penalty: 0 for a mask nothing speaks against; faults: what does."""

    mask: Mask
    penalty: float
    faults: tuple[str, ...]


def polarity(mask: Mask, box: IntBox, inset: float) -> Mask:
    """Return the mask, inverted where the centre of the box is mostly outside of it."""
    x1, y1, x2, y2 = box
    dx, dy = round(inset * (x2 - x1)), round(inset * (y2 - y1))
    centre = mask[max(y1 + dy, 0) : y2 - dy, max(x1 + dx, 0) : x2 - dx]
    return ~mask if centre.size and centre.mean() < 0.5 else mask


def within_box(mask: Mask, box: IntBox) -> Mask:
    """Return the part of the mask inside the box."""
    x1, y1, x2, y2 = (max(edge, 0) for edge in box)
    kept = np.zeros_like(mask)
    kept[y1:y2, x1:x2] = mask[y1:y2, x1:x2]
    return kept


def clear_border(mask: Mask, frame: IntBox, border_frac: float) -> Mask:
    """Return the mask without a margin along the frame's border, where letterbox bars and table edges join it.

    border_frac: width of the margin, of the frame's longer side; at least one pixel unless 0.
    """
    if border_frac == 0:
        return mask
    x1, y1, x2, y2 = frame
    margin = max(1, round(border_frac * max(x2 - x1, y2 - y1)))
    return within_box(mask, (x1 + margin, y1 + margin, x2 - margin, y2 - margin))


def bridge_vertically(mask: Mask, gap: int) -> Mask:
    """Return the mask with pieces joined that stand above each other with a gap of at most `gap` pixels.

    Only the gaps between different pieces are filled: a waist of one piece, like the canister's neck, stays as it is.
    """
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    if count <= 2 or gap < 1:
        return mask
    height = mask.shape[0]
    rows = np.arange(height, dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(mask, rows, -1), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, height)[::-1], axis=0)[::-1]
    in_gap = ~mask & (above >= 0) & (below < height) & (below - above <= gap + 1)
    gap_rows, gap_columns = np.nonzero(in_gap)
    upper = labels[above[gap_rows, gap_columns], gap_columns]
    lower = labels[below[gap_rows, gap_columns], gap_columns]
    different = upper != lower
    bridged = mask.copy()
    bridged[gap_rows[different], gap_columns[different]] = True
    return bridged


def central_pieces(mask: Mask, box: IntBox, bands_frac: float) -> Mask:
    """Return the union of the pieces that cross both the central vertical and the mid-height band of the box.

    bands_frac: width of the bands, of the box's sides. Where no piece crosses both, the largest is kept.
    """
    x1, y1, x2, y2 = box
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    half_x, half_y = bands_frac * (x2 - x1) / 2, bands_frac * (y2 - y1) / 2
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    vertical = labels[:, max(round(middle_x - half_x), 0) : max(round(middle_x + half_x), 1)]
    level = labels[max(round(middle_y - half_y), 0) : max(round(middle_y + half_y), 1)]
    crossing = np.intersect1d(np.unique(vertical), np.unique(level))
    crossing = crossing[crossing > 0]
    return np.isin(labels, crossing) if len(crossing) else largest_piece(mask)


def largest_piece(mask: Mask) -> Mask:
    """Return the largest 8-connected piece; an empty mask stays empty."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    largest: Mask = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return largest


def fill_holes(mask: Mask, hole_frac: float = 1.0) -> Mask:
    """Return the mask without holes: whatever its pieces enclose belongs to them (highlights, mostly).

    hole_frac: a hole larger than this share of the filled mask stays open.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(drawn, contours, -1, 1, cv2.FILLED)
    filled = drawn.astype(np.bool_)
    if hole_frac < 1.0:
        _, labels, stats, _ = cv2.connectedComponentsWithStats((filled & ~mask).astype(np.uint8), connectivity=4)
        stays_open = stats[:, cv2.CC_STAT_AREA] > hole_frac * np.count_nonzero(filled)
        stays_open[0] = False
        filled &= ~stays_open[labels]
    return filled


def drop_scraps(mask: Mask, scrap_frac: float) -> Mask:
    """Return the mask without pieces smaller than `scrap_frac` of the largest piece."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    areas[0] = 0.0
    kept: Mask = (areas >= max(scrap_frac * areas.max(), 1.0))[labels]
    return kept


def cut_spurs(mask: Mask, thickness: int) -> Mask:
    """Return the mask without what is less than `thickness` pixels high: the table's edge beside the part.

    Narrow upright parts, like the valve stem, stay.
    """
    if thickness < 2:
        return mask
    kernel = np.ones((thickness, 1), np.uint8)
    # Opening would take the border rows of the mask for thin ones if what lies beyond counted as outside.
    thick = cv2.erode(mask.astype(np.uint8), kernel)
    # OpenCV mirrors no kernel: with an even one the two steps look the same way, and the mask comes out a row too low
    return cv2.dilate(thick, kernel, anchor=(0, (thickness - 1) // 2)).astype(np.bool_)


def bounds(mask: Mask) -> IntBox | None:
    """Return the tight box of the mask, or None where it is empty."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return (x, y, x + width, y + height) if width else None


def area_penalty(mask: Mask, frame_area: float, smallest: float, largest: float) -> float:
    """Return how far the area lies outside its limits, in powers of two; limits are shares of the frame."""
    share = max(int(mask.sum()), 1) / frame_area
    return max(0.0, log2(smallest / share) if smallest else 0.0, log2(share / largest) if largest else 0.0)


def aspect_penalty(mask: Mask, smallest: float, largest: float) -> float:
    """Return how far height / width of the bounds lies outside its limits, in powers of two."""
    tight = bounds(mask)
    if tight is None:
        return 0.0
    x1, y1, x2, y2 = tight
    aspect = (y2 - y1) / (x2 - x1)
    return max(0.0, log2(smallest / aspect), log2(aspect / largest))


def off_centre_penalty(mask: Mask, box: IntBox, inset: float) -> float:
    """Return the share of the box's centre that the mask misses."""
    x1, y1, x2, y2 = box
    dx, dy = round(inset * (x2 - x1)), round(inset * (y2 - y1))
    centre = mask[max(y1 + dy, 0) : y2 - dy, max(x1 + dx, 0) : x2 - dx]
    return float(1.0 - centre.mean()) if centre.size else 1.0


def mismatch_penalty(mask: Mask, core: IntBox) -> float:
    """Return 1 - IoU of the mask's bounds with the coarse box: a ring alone or part and desk together do not fit it."""
    tight = bounds(mask)
    return 1.0 if tight is None else 1.0 - box_iou(tight, core)


def fill_penalty(mask: Mask, box: IntBox) -> float:
    """Return 1 for a mask that is nothing but the prompt box, 0 up to nine tenths of it."""
    x1, y1, x2, y2 = box
    share = int(mask.sum()) / max((x2 - x1) * (y2 - y1), 1)
    return min(1.0, max(0.0, (share - 0.9) / 0.1))


def frame_box(box: tuple[float, float, float, float]) -> IntBox:
    """Return the smallest box of whole pixels around a box."""
    x1, y1, x2, y2 = box
    return floor(x1), floor(y1), ceil(x2), ceil(y2)


def box_iou(one: IntBox, other: IntBox) -> float:
    """Return intersection over union of two boxes, 0 where they do not meet."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other))
    return both / (areas - both)


def apply_rules(raw: Mask, scene: Scene, recipe: RoiRecipe) -> RuledMask:
    """Return the mask after every rule, with what still speaks against it."""
    gap = round(recipe.vbridge_frac * (scene.box[3] - scene.box[1]))
    mask = polarity(raw, scene.box, recipe.fg_inset)
    mask = within_box(mask, scene.box)
    mask = clear_border(mask, scene.frame, recipe.border_frac)
    mask = cut_spurs(mask, round(recipe.spur_frac * (scene.box[3] - scene.box[1])))
    mask = drop_scraps(mask, recipe.scrap_frac)
    mask = bridge_vertically(mask, gap)
    mask = central_pieces(mask, scene.box, recipe.bands_frac)
    return assess(fill_holes(mask, recipe.hole_frac), scene, recipe)


def assess(mask: Mask, scene: Scene, recipe: RoiRecipe) -> RuledMask:
    """Return the mask with its soft penalties; an empty one is beyond any limit."""
    if not mask.any():
        return RuledMask(mask, float("inf"), ("empty",))
    penalties = {
        "area": area_penalty(mask, scene.frame_area, recipe.area_frac_min, recipe.area_frac_max),
        "aspect": aspect_penalty(mask, recipe.aspect_min, recipe.aspect_max),
        "off_centre": off_centre_penalty(mask, scene.box, recipe.fg_inset),
        "mismatch": mismatch_penalty(mask, scene.core),
        "fills_box": fill_penalty(mask, scene.box),
    }
    faults = tuple(name for name, penalty in penalties.items() if penalty > 0.5)
    return RuledMask(mask, sum(penalties.values()), faults)


def rank(proposals: Sequence[tuple[Mask, float]], scene: Scene, recipe: RoiRecipe) -> tuple[Mask, RuledMask]:
    """Return the proposal with the least penalty after the rules, raw and ruled.

    Args:
        proposals: raw masks, each with the segmenter's own confidence 0..1, which only decides between masks that the
            rules find about as good. At least one.
        scene: the picture they belong to.
        recipe: the knobs.
    """
    ruled = [(mask, apply_rules(mask, scene, recipe), confidence) for mask, confidence in proposals]
    raw, best, _ = min(ruled, key=lambda entry: entry[1].penalty - 0.1 * entry[2])
    return raw, best


def largest_component(raw: Mask, scene: Scene, recipe: RoiRecipe) -> RuledMask:
    """Return the first fallback: the largest piece of a raw mask in the box, filled, where the rules made it worse."""
    return assess(fill_holes(largest_piece(within_box(raw, scene.box)), recipe.hole_frac), scene, recipe)


def coarse_box_alone(raw: Mask, scene: Scene, recipe: RoiRecipe) -> RuledMask:
    """Return the last fallback: the coarse box as the mask, in the size of a raw one."""
    return assess(within_box(np.ones_like(raw), scene.core), scene, recipe)


def unusable(raw: Mask, box: IntBox) -> bool:
    """Tell whether a segmenter saw no edge at all: a raw mask that is empty in the box, or fills it."""
    x1, y1, x2, y2 = (max(edge, 0) for edge in box)
    inside = raw[y1:y2, x1:x2]
    return not inside.any() or bool(inside.all())


def touched_sides(mask: Mask, box: IntBox, frame: IntBox) -> npt.NDArray[np.bool_]:
    """Return which sides of the box (left, top, right, bottom) cut the mask, so that the box is too small there.

    A side on the frame's border never counts: there is nothing beyond it.
    """
    x1, y1, x2, y2 = (max(edge, 0) for edge in box)
    inside = mask[y1:y2, x1:x2]
    if not inside.size:
        return np.zeros(4, np.bool_)
    along = np.array([inside[:, 0].mean(), inside[0].mean(), inside[:, -1].mean(), inside[-1].mean()])
    beyond = np.array([x1 > frame[0], y1 > frame[1], x2 < frame[2], y2 < frame[3]])
    touched: npt.NDArray[np.bool_] = (along > 0.08) & beyond
    return touched
