"""From coarse box to ROI: prompt a segmenter, judge its masks by the rules, widen the box, fall back, or give up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from schemas.recipe import RoiRecipe
from service.errors import RoiNotFound
from service.pipeline.roi.coarse_box import Box, CoarseBox, find_coarse_box, pad_box
from service.pipeline.roi.mask_rules import (
    RuledMask,
    Scene,
    assess,
    bounds,
    fill_holes,
    largest_piece,
    rank,
    touched_sides,
    unusable,
    within_box,
)
from service.pipeline.types import BgrImage, Mask, Roi

RETRIES = 2
"""How often a wider box is tried on one frame."""

GROWTH = 0.25
"""How far a box's side moves out when it was too small, of the box's width or height."""


class RoiFinder(Protocol):
    """Finds the part in a frame."""

    def find(self, bgr: BgrImage) -> Roi:
        """Return where the part is.

        Args:
            bgr: (H, W, 3) uint8.

        Raises:
            RoiNotFound: the frame is blank, or nothing in it looks like a part. Safe to call from any thread.
        """


@dataclass(frozen=True, slots=True)
class Proposals:
    """What a segmenter says to one prompt.

    masks: raw masks with the segmenter's own confidence 0..1, in the pixels of `scene`. to_frame: brings a ruled mask
    to (H, W) bool over the full frame.
    """

    masks: Sequence[tuple[Mask, float]]
    scene: Scene
    to_frame: Callable[[Mask], Mask]


class Prompt(Protocol):
    """A segmenter that has looked at one frame."""

    def __call__(self, coarse: CoarseBox, box: Box) -> Proposals:
        """Return proposals for the part inside `box`, the padded `coarse` box, in pixels of the full frame."""


class Segmenter(Protocol):
    """Cuts out what a box prompt surrounds. Safe to call from any thread."""

    @property
    def name(self) -> str:
        """Short name, the first word of `Roi.path`."""

    def look(self, bgr: BgrImage) -> Prompt:
        """Look at a frame, (H, W, 3) uint8, once; the answer takes prompts."""


class PromptedFinder:
    """A `RoiFinder` that prompts a segmenter with the coarse box."""

    def __init__(self, recipe: RoiRecipe, segmenter: Segmenter) -> None:
        self._recipe = recipe
        self._segmenter = segmenter

    def find(self, bgr: BgrImage) -> Roi:
        """See `RoiFinder.find`."""
        recipe = self._recipe
        coarse = find_coarse_box(bgr, recipe)
        if coarse is None:
            raise RoiNotFound("nothing in the frame looks like a part")
        frame_wh = bgr.shape[1], bgr.shape[0]
        prompt = self._segmenter.look(bgr)
        box = pad_box(coarse.xyxy, recipe.pad_frac, recipe.pad_frac / 2, frame_wh)
        path = self._segmenter.name
        raw, ruled, proposals = self._segmented(prompt, coarse, box)
        for _ in range(RETRIES):
            too_small = _too_small(ruled, proposals.scene)
            if not too_small.any():
                break
            path = f"{self._segmenter.name}>wider"
            box = _grown(box, too_small, frame_wh)
            raw, ruled, proposals = self._segmented(prompt, coarse, box)
        if unusable(raw, proposals.scene.box):
            raise RoiNotFound(f"no edge in a coarse box of prominence {coarse.prominence:.2f}")
        for step, candidate in _fallbacks(raw, ruled, proposals.scene, recipe):
            path += step
            if candidate.penalty <= recipe.penalty_max:
                return roi_of(proposals.to_frame(candidate.mask), path)
        raise RoiNotFound(f"the mask is not that of a part: {', '.join(ruled.faults) or 'too many doubts'}")

    def _segmented(self, prompt: Prompt, coarse: CoarseBox, box: Box) -> tuple[Mask, RuledMask, Proposals]:
        proposals = prompt(coarse, box)
        return *rank(proposals.masks, proposals.scene, self._recipe), proposals


def roi_of(mask: Mask, path: str) -> Roi:
    """Return the ROI of a full-frame mask. Raises RoiNotFound where the mask is empty."""
    tight = bounds(mask)
    if tight is None:
        raise RoiNotFound("the mask is empty")
    return Roi(mask, tight, path)


def _too_small(ruled: RuledMask, scene: Scene) -> Mask:
    """Return which sides of the prompt (left, top, right, bottom) must move out: all of them where no edge was seen."""
    if not ruled.mask.any() or "fills_box" in ruled.faults:
        return np.ones(4, np.bool_)
    return touched_sides(ruled.mask, scene.box, scene.frame)


def _grown(box: Box, sides: Mask, frame_wh: tuple[int, int]) -> Box:
    wider = pad_box(box, GROWTH, GROWTH, frame_wh)
    x1, y1, x2, y2 = (new if moves else old for old, new, moves in zip(box, wider, sides, strict=True))
    return x1, y1, x2, y2


def _fallbacks(raw: Mask, ruled: RuledMask, scene: Scene, recipe: RoiRecipe) -> list[tuple[str, RuledMask]]:
    """Return what may be the ROI, best first, each with its step of the path."""
    largest = fill_holes(largest_piece(within_box(raw, scene.box)))
    core = within_box(np.ones_like(raw), scene.core)
    return [
        ("", ruled),
        (">largest_component", assess(largest, scene, recipe)),
        (">box", assess(core, scene, recipe)),
    ]
