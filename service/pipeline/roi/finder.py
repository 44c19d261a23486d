"""From coarse boxes to ROI: prompt a segmenter, judge its masks by the rules, widen the box, fall back, or give up.

Where two regions of a frame look alike before they are cut out, both are, and the clearer part is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from schemas.recipe import RoiRecipe
from service.errors import RoiNotFound
from service.pipeline.roi.coarse_box import Box, CoarseBox, pad_box, survey
from service.pipeline.roi.mask_rules import (
    RuledMask,
    Scene,
    bounds,
    coarse_box_alone,
    largest_component,
    rank,
    touched_sides,
    unusable,
)
from service.pipeline.types import BgrImage, Mask, Roi

RIVAL = 0.8
"""A further region is segmented too if it was this prominent before, of what the best mask is after."""

CLEARER = 1.15
"""How much more prominent the mask of a further region must be: it may be a piece of the part."""


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
        seen = survey(bgr, self._recipe)
        if not seen.boxes:  # a segmenter is not asked in vain: SAM's look takes a second
            raise RoiNotFound("nothing in the frame looks like a part")
        prompt = self._segmenter.look(bgr)
        best, best_prominence, refusal = None, 0.0, None
        for coarse in seen.boxes:
            # Most frames end here after the first box: no other region looked as much like a part as this mask does.
            if coarse.prominence < RIVAL * best_prominence:
                break
            try:
                roi = self._prompted(prompt, coarse, (bgr.shape[1], bgr.shape[0]))
            except RoiNotFound as exc:
                refusal = refusal or exc
                continue
            prominence = seen.prominence_of(roi.mask)
            if best is None or prominence > CLEARER * best_prominence:
                best, best_prominence = roi, prominence
        if best is None:
            raise refusal or RoiNotFound("no region of the frame could be cut out")
        return best

    def _prompted(self, prompt: Prompt, coarse: CoarseBox, frame_wh: tuple[int, int]) -> Roi:
        """Return what is in one coarse box. Raises RoiNotFound."""
        recipe = self._recipe
        box = pad_box(coarse.xyxy, recipe.pad_frac, recipe.pad_frac / 2, frame_wh)
        path = self._segmenter.name
        raw, ruled, proposals = self._segmented(prompt, coarse, box)
        for _ in range(recipe.retries):
            too_small = _too_small(ruled, proposals.scene)
            if not too_small.any():
                break
            path = f"{self._segmenter.name}>wider"
            box = _grown(box, too_small, recipe.growth_frac, frame_wh)
            raw, ruled, proposals = self._segmented(prompt, coarse, box)
        if unusable(raw, proposals.scene.box):
            raise RoiNotFound(f"no edge in a coarse box of prominence {coarse.prominence:.2f}")
        fallbacks: tuple[tuple[str, Callable[[], RuledMask]], ...] = (
            ("", lambda: ruled),
            (">largest_component", lambda: largest_component(raw, proposals.scene, recipe)),
            (">box", lambda: coarse_box_alone(raw, proposals.scene, recipe)),
        )
        for step, fallback in fallbacks:
            path += step
            candidate = fallback()
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


def _grown(box: Box, sides: Mask, frac: float, frame_wh: tuple[int, int]) -> Box:
    wider = pad_box(box, frac, frac, frame_wh)
    x1, y1, x2, y2 = (new if moves else old for old, new, moves in zip(box, wider, sides, strict=True))
    return x1, y1, x2, y2
