"""Coarse box: the region of the frame that looks most like one upright part, by edge energy at reduced size.

Outlines are looked for at several levels of edge energy. What they enclose, or the straight body within that where
clutter is joined to it, is a candidate; soft terms rank the candidates. The box only prompts a segmenter, so it may be
off by a tenth of its sides, but it must not take the monitor for the canister.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import cv2
import numpy as np

from schemas.recipe import RoiRecipe
from service.pipeline.roi.candidates import TALL_SHAPE, Candidate, candidates
from service.pipeline.roi.edges import ByteMask, edge_energy, edge_levels, noise_floor, solid_regions
from service.pipeline.roi.mask_rules import box_iou
from service.pipeline.types import BgrImage, FloatArray, Mask

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the full frame; not rounded."""

LEVELS = 5
"""At how many levels of edge energy outlines are looked for."""

REGIONS = 3
"""How many regions a survey names at most."""

SAME_REGION = 0.6
"""IoU of bounds from which two candidates are one region."""


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


@dataclass(frozen=True, slots=True)
class Survey:
    """What the edges of one frame say.

    boxes: coarse boxes of different regions, most prominent first; empty where nothing looks like a part.
    """

    boxes: tuple[CoarseBox, ...]
    _energy: FloatArray
    _salient: FloatArray
    _recipe: RoiRecipe

    def prominence_of(self, mask: Mask) -> float:
        """Return how much a mask (H, W) of the full frame looks like one upright part, 0..1; see `prominence`."""
        height, width = self._energy.shape
        share = cv2.resize(mask.view(np.uint8) * np.uint8(255), (width, height), interpolation=cv2.INTER_AREA)
        reduced = (share > 127).astype(np.uint8)
        x, y, width, height = cv2.boundingRect(reduced)
        if not width:
            return 0.0
        tight = Candidate(reduced[y : y + height, x : x + width], x, y, open_above=False)
        return prominence(tight, self._energy, self._salient, self._recipe)


def survey(bgr: BgrImage, recipe: RoiRecipe) -> Survey:
    """Return where the part may be.

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
            for candidate in candidates(solid, recipe.area_frac_min / 2)
        ]
    boxes: list[CoarseBox] = []
    while ranked and len(boxes) < REGIONS:
        score, candidate = _largest_of_best(ranked)
        if score <= 0.0 or (score < recipe.prominence_min and not boxes):
            break
        silhouette = _with_stem(candidate, (energy.shape[0], energy.shape[1]))
        x, y, width, height = cv2.boundingRect(silhouette)
        box = x / scale, y / scale, (x + width) / scale, (y + height) / scale
        box = pad_box(recentre(box, silhouette, scale), 0.0, 0.0, (bgr.shape[1], bgr.shape[0]))
        boxes.append(CoarseBox(box, silhouette.astype(np.bool_), scale, score))
        ranked = [entry for entry in ranked if box_iou(entry[1].xyxy, candidate.xyxy) < SAME_REGION]
    return Survey(tuple(boxes), energy, salient, recipe)


def _largest_of_best(ranked: list[tuple[float, Candidate]]) -> tuple[float, Candidate]:
    """Return the best candidate, or the largest around it of nearly its rank: a high level loses faint edges."""
    best_score, best = max(ranked, key=lambda entry: entry[0])
    x1, y1, x2, y2 = best.xyxy

    def is_around(candidate: Candidate) -> bool:
        left, top, right, bottom = candidate.xyxy
        shared_x, shared_y = min(x2, right) - max(x1, left), min(y2, bottom) - max(y1, top)
        return min(shared_x, shared_y) > 0 and shared_x * shared_y >= 0.85 * best.width * best.height

    near = [entry for entry in ranked if entry[0] >= 0.85 * best_score and is_around(entry[1])]
    return max(near, key=lambda entry: entry[1].area)


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

    exp(-sum of weighted doubts). The weights were fitted, then rounded, so that the best candidate of a frame wins, on
    200 rendered frames and on two photos shifted, turned, blurred, and pasted onto each other's background.
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
    regained = int((upwards - np.minimum.accumulate(upwards)).max())
    return regained / candidate.typical_width


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
    strays = weights * np.abs(middle_off - slope * row_off)
    return float(strays.sum()) / float(width)


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
