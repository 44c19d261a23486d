"""Masks that say where the damage is, and how well boxes agree with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from schemas.messages import Box
from service.errors import UsageError
from service.evaluation.metrics import BoxMatch
from service.model.dataset import Decode, FrameFile, list_frames, read_frame
from service.pipeline.types import Mask

COVERED = 0.5
"""Share of a component's pixels that must lie inside the boxes."""

UNDECIDED = 0.01
"""Share of a mask's pixels that may be neither dark nor bright: soft edges, and what JPEG leaves around hard ones."""

COLOUR = 32
"""Levels between the channels of a pixel that is not grey."""


class MaskRefused(ValueError):
    """A mask does not fit its frame; the text says why."""


class MaskFolder:
    """The masks of some frames, by the name of a frame without its suffix, or by its stem alone.

    Raises UsageError, naming it: a mask that several frames would take, or of whose name there is another.
    """

    def __init__(self, masks: Iterable[FrameFile], frames: Sequence[FrameFile]) -> None:
        by_name: dict[str, FrameFile] = {}
        for mask in masks:
            twin = by_name.setdefault(_key(mask.name), mask)
            if twin is not mask:
                raise UsageError(f"masks {twin.name} and {mask.name} are both of one frame: keep one of them")
        named = {_key(frame.name) for frame in frames}
        takers: defaultdict[str, list[str]] = defaultdict(list)
        for frame in frames:
            key, stem = _key(frame.name), PurePosixPath(frame.name).stem
            takers[key if key in by_name or stem in named else stem].append(frame.name)
        self._files: dict[str, FrameFile] = {}
        for key, (first, *others) in takers.items():
            taken = by_name.get(key)
            if taken is None:
                continue
            if others:
                raise UsageError(
                    f"mask {taken.name} would be that of {first} and {others[0]}: "
                    "give each its own, in a subfolder as its frame is"
                )
            self._files[first] = taken

    @classmethod
    def open(cls, directory: Path, frames: Sequence[FrameFile]) -> MaskFolder:
        """Find the masks of `frames` in `directory` and below it. Raises UsageError, also where it cannot be listed."""
        return cls(list_frames(directory).frames, frames)

    def __len__(self) -> int:
        """Return how many frames have a mask."""
        return len(self._files)

    def find(self, frame_name: str) -> FrameFile | None:
        """Return the mask of a frame, or None."""
        return self._files.get(frame_name)


def read_mask(file: FrameFile, decode: Decode, size_wh: tuple[int, int]) -> Mask:
    """Return the mask, true on damage: (H, W) bool from a grey picture of 0 and 255.

    Raises:
        FrameError: the file cannot be read or decoded.
        MaskRefused: it has another size than its frame, is a photo, or marks nothing, which no damaged frame's mask
            does.
    """
    bgr = read_frame(file, decode).frame.bgr
    grey = bgr[..., 0]
    if grey.shape[::-1] != size_wh:
        raise MaskRefused(f"{grey.shape[1]} x {grey.shape[0]} pixels, the frame has {size_wh[0]} x {size_wh[1]}")
    if np.count_nonzero(np.ptp(bgr, axis=2) > COLOUR) > UNDECIDED * grey.size:
        raise MaskRefused("in colour: a mask is grey, 255 on the damage and 0 elsewhere")
    undecided = np.count_nonzero((grey >= 64) & (grey < 192)) / grey.size
    if undecided > UNDECIDED:
        raise MaskRefused(f"{undecided:.0%} of the pixels are neither 0 nor 255, as in a photo")
    mask: Mask = grey > 127
    if not mask.any():
        raise MaskRefused("marks nothing: damage is 255")
    return mask


def box_union(boxes: Sequence[Box], size_wh: tuple[int, int]) -> Mask:
    """Return the pixels inside the boxes: (H, W) bool."""
    union = np.zeros(size_wh[::-1], bool)
    for box in boxes:
        union[box.y1 : box.y2, box.x1 : box.x2] = True
    return union


def match_boxes(boxes: Sequence[Box], truth: Mask) -> BoxMatch:
    """Compare boxes with the components of a mask, neighbours across corners included.

    truth: (H, W) bool, not empty. A component is found where half of its pixels lie inside the boxes, a box is right
    where it holds a pixel of damage; one box over everything would do for both, so the IoU of the boxes with the bounds
    of the components, each as a union, stands beside them.
    """
    predicted = box_union(boxes, (truth.shape[1], truth.shape[0]))
    count, labels, bounds, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels[truth], minlength=count)[1:]
    inside = np.bincount(labels[truth & predicted], minlength=count)[1:]
    actual = np.zeros_like(truth)
    for left, top, width, height, _ in bounds[1:].tolist():
        actual[top : top + height, left : left + width] = True
    return BoxMatch(
        components=count - 1,
        components_found=int(np.count_nonzero(inside >= COVERED * areas)),
        boxes_right=sum(bool(truth[box.y1 : box.y2, box.x1 : box.x2].any()) for box in boxes),
        iou=np.count_nonzero(predicted & actual) / np.count_nonzero(predicted | actual),
    )


def _key(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
