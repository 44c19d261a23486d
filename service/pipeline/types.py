"""Values that pass between the stages of the pipeline.

Images are numpy arrays in OpenCV's layout: (H, W, 3) uint8, BGR; masks are (H, W) bool. Coordinates are pixels,
`xyxy` with exclusive x2 and y2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BgrImage = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

Progress = Callable[[int, int], None]
"""Told (done, total) from time to time; what it raises cancels the work."""

StageProgress = Callable[[str, int, int], None]
"""The same for work in stages: (stage, done, total)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame: bgr (H, W, 3) uint8; `encoded` is the image file it was decoded from, where that is kept."""

    bgr: BgrImage
    uri: str | None = None
    encoded: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        given: object = self.bgr  # of a caller without a type checker
        if not isinstance(given, np.ndarray):
            why = "None: cv2.imread could not read the file" if given is None else type(given).__name__
            raise ValueError(f"a frame is an array (H, W, 3) uint8, not {why}")  # noqa: TRY004 - as below
        if given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8 or given.size == 0:
            raise ValueError(f"a frame is (H, W, 3) uint8, not {given.shape} {given.dtype}")

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.bgr.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.bgr.shape[0])


@dataclass(frozen=True, slots=True)
class Roi:
    """Where the canister is: mask (H, W) bool over the full frame, and its tight bounds.

    `path` names how it was found, e.g. "grabcut" or "grabcut>largest_component>box".
    """

    mask: Mask
    xyxy: tuple[int, int, int, int]
    path: str


@dataclass(frozen=True, slots=True)
class NormalizedRoi:
    """The ROI as the embedder sees it.

    bgr: (S, S, 3) uint8, padded to a square and normalised. mask: (S, S) bool, true on the canister.
    origin_xy, scale: a pixel (x, y) here lies at (origin_x + x / scale, origin_y + y / scale) in the full frame.
    """

    bgr: BgrImage
    mask: Mask
    origin_xy: tuple[float, float]
    scale: float

    @property
    def square_xyxy(self) -> tuple[float, float, float, float]:
        """Where the square lies, in pixels of the full frame; it may reach beyond it."""
        (x, y), side = self.origin_xy, self.bgr.shape[0] / self.scale
        return x, y, x + side, y + side


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """Patch embeddings of one ROI.

    vectors: (N, D) float32, unit length, one for each true cell of inside: (rows, cols) bool, in row-major order.
    """

    vectors: FloatArray
    inside: Mask

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != int(self.inside.sum()):
            raise ValueError(f"{self.vectors.shape} vectors for {int(self.inside.sum())} cells inside the mask")


@dataclass(frozen=True, slots=True)
class DamageBox:
    """One damage box in full-frame pixels; `score` is the peak of the anomaly map inside, in units of distance."""

    xyxy: tuple[int, int, int, int]
    score: float


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Milliseconds spent in each stage after loading."""

    roi: float = 0.0
    normalize: float = 0.0
    embed: float = 0.0
    score: float = 0.0
    boxes: float = 0.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A frame that is ready for the embedder."""

    frame: Frame
    roi: Roi
    normalized: NormalizedRoi
    times: StageTimes


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the pipeline says about one frame.

    score: image anomaly score `s`, in units of distance between unit vectors (0..2). anomaly_map: (rows, cols)
    float32, distance of each patch to the memory bank, 0 outside the mask. damaged: `s >= tau`.
    """

    prepared: Prepared
    score: float
    threshold: float
    damaged: bool
    uncertain: bool
    boxes: tuple[DamageBox, ...]
    anomaly_map: FloatArray
    times: StageTimes
