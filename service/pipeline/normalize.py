"""Photometric normalisation: the ROI as a square of fixed size, with neutral white and even local contrast.

Nothing outside the mask counts: neither for the gains, nor for the contrast, nor in the picture that comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from schemas.recipe import NormalizeRecipe
from service.errors import RoiNotFound
from service.pipeline.resize import resized
from service.pipeline.types import BgrImage, Mask, NormalizedRoi, Roi

NEUTRAL = 114
"""Grey around the part: near the mean of natural pictures, which networks are trained on."""

CELLS = 20
"""Most cells along a side of the square, see `_Grid`."""

PADDED_FRAMES = 4
"""So many times the pixels of its frame the padded crop may have. The short side of a ROI is padded to a whole cell in
pixels of the frame: one of 200,000 x 1, a file of 600 kB, would take 6 GB. A whole frame gets there at 80 : 1."""

Lut = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Grid:
    """The square around the ROI as whole cells: `source` frame pixels a side become `target` pixels.

    Only the cells that the ROI touches are resized, by exactly one factor for both axes. A square of any number of
    pixels would leave a rounded width, and boxes would not map back exactly.

    x, y: left and top of the square in the frame, may be negative. crop: x1, y1, x2, y2 of the touched cells.
    """

    source: int
    target: int
    x: int
    y: int
    crop: tuple[int, int, int, int]

    @classmethod
    def around(cls, xyxy: tuple[int, int, int, int], side: int) -> _Grid:
        """Return the smallest square of whole cells with the ROI in its middle, for an output of `side` pixels."""
        x1, y1, x2, y2 = xyxy
        width, height = x2 - x1, y2 - y1
        cells = max(count for count in range(1, CELLS + 1) if side % count == 0)
        source = -(-max(width, height) // cells)
        across, down = -(-width // source), -(-height // source)
        # Centred to the cell for the crop, to the pixel for the ROI within the crop.
        left = x1 - (across * source - width) // 2
        top = y1 - (down * source - height) // 2
        return cls(
            source=source,
            target=side // cells,
            x=left - (cells - across) // 2 * source,
            y=top - (cells - down) // 2 * source,
            crop=(left, top, left + across * source, top + down * source),
        )

    @property
    def crop_pixels(self) -> int:
        """Return how many pixels of the frame, and beyond it, the touched cells have."""
        x1, y1, x2, y2 = self.crop
        return (x2 - x1) * (y2 - y1)

    def on_canvas(self) -> tuple[slice, slice]:
        """Return rows and columns of the crop in the output square."""
        x1, y1, x2, y2 = (
            (edge - origin) // self.source for edge, origin in zip(self.crop, (self.x, self.y) * 2, strict=True)
        )
        return slice(y1 * self.target, y2 * self.target), slice(x1 * self.target, x2 * self.target)


def normalize(frame_bgr: BgrImage, roi: Roi, recipe: NormalizeRecipe) -> NormalizedRoi:
    """Return the ROI cropped tight, padded to a square, resized and photometrically normalised.

    Args:
        frame_bgr: (H, W, 3) uint8.
        roi: mask and bounds over that frame.
        recipe: what to do.

    Returns:
        bgr: (side, side, 3) uint8, grey outside of the mask.

    Raises:
        RoiNotFound: the mask is empty, far too long for its width, or nothing of it is left at that size.
    """
    x1, y1, x2, y2 = roi.xyxy
    if x2 <= x1 or y2 <= y1:
        raise RoiNotFound("the mask is empty")
    grid = _Grid.around(roi.xyxy, recipe.side)
    if grid.crop_pixels > PADDED_FRAMES * frame_bgr.shape[0] * frame_bgr.shape[1]:
        raise RoiNotFound(f"{x2 - x1} x {y2 - y1} pixels are far too long a part for its width")
    rows, columns = grid.on_canvas()
    size = columns.stop - columns.start, rows.stop - rows.start
    pixels = resized(_cut(frame_bgr, grid.crop, cv2.BORDER_REPLICATE), size)
    # Beyond the frame the part ends: its last pixel must not be repeated as the picture's is.
    cut_mask = _cut(roi.mask.view(np.uint8), grid.crop, cv2.BORDER_CONSTANT)
    inside = cv2.resize(cut_mask, size, interpolation=cv2.INTER_NEAREST_EXACT) > 0
    if not inside.any():
        raise RoiNotFound(f"nothing of the mask is left at {recipe.side} px")

    bgr = np.full((recipe.side, recipe.side, 3), NEUTRAL, np.uint8)
    mask = np.zeros((recipe.side, recipe.side), np.bool_)
    bgr[rows, columns] = normalize_colours(pixels, inside, recipe)
    mask[rows, columns] = inside
    return NormalizedRoi(bgr, mask, (float(grid.x), float(grid.y)), grid.target / grid.source)


def normalize_colours(pixels: BgrImage, inside: Mask, recipe: NormalizeRecipe) -> BgrImage:
    """Return the pixels with white balance and local contrast, `NEUTRAL` outside of the mask.

    Everything stays uint8: gains through a look-up table, CLAHE on the L of OpenCV's 8-bit Lab.

    Args:
        pixels: (h, w, 3) uint8.
        inside: (h, w) bool, not empty.
        recipe: `gray_world`, `clahe_clip`, `clahe_tiles` and `side` are used.
    """
    weight = inside.view(np.uint8)
    balanced = _white_balanced(pixels, weight) if recipe.gray_world else pixels
    if recipe.clahe_clip > 0:
        balanced = _even_contrast(balanced, weight, recipe)
    return _bytes(cv2.copyTo(balanced, weight, np.full_like(balanced, NEUTRAL)))


def gray_world_gains(means_bgr: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the gain of each channel that makes the mean grey; 1 for a channel that is black throughout.

    Gains are limited to 1/4..4: what needs more is coloured light without information in that channel.
    """
    grey = sum(means_bgr) / 3
    blue, green, red = (min(max(grey / mean, 0.25), 4.0) if mean > 0 else 1.0 for mean in means_bgr)
    return blue, green, red


def gray_world_luts(pixels: BgrImage, weight: Lut) -> Lut:
    """Return the (3, 256) uint8 tables of the gray-world gains over the pixels whose weight is not 0, BGR."""
    blue, green, red, _ = _weighted_mean(pixels, weight)
    levels = np.arange(256, dtype=np.float64) * np.array(gray_world_gains((blue, green, red)))[:, None]
    tables: Lut = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return tables


def _white_balanced(pixels: BgrImage, weight: Lut) -> BgrImage:
    """Return the pixels after the gray-world gains."""
    tables = gray_world_luts(pixels, weight)
    # one table a plane takes two thirds of the time of a table for all three
    planes = [cv2.LUT(plane, table) for plane, table in zip(cv2.split(pixels), tables, strict=True)]
    return _bytes(cv2.merge(planes))


def _weighted_mean(pixels: npt.NDArray[np.uint8], weight: Lut) -> Sequence[float]:
    """Return the mean of each channel over the pixels whose weight is not 0, by whole sums.

    cv2.mean with a mask says the same in five times the time.
    """
    count = cv2.countNonZero(weight)
    return [channel / count for channel in cv2.sumElems(cv2.copyTo(pixels, weight))]


def _even_contrast(pixels: BgrImage, weight: Lut, recipe: NormalizeRecipe) -> BgrImage:
    """Return the pixels after CLAHE on L, where pixels without weight count as the mean L of the others."""
    lab = cv2.cvtColor(pixels, cv2.COLOR_BGR2LAB)
    lightness = _bytes(cv2.extractChannel(lab, 0))
    beyond = np.full_like(lightness, round(_weighted_mean(lightness, weight)[0]))
    lightness = _bytes(cv2.copyTo(lightness, weight, beyond))
    height, width = lightness.shape
    tiles_x, tiles_y = (max(1, round(recipe.clahe_tiles * length / recipe.side)) for length in (width, height))
    clahe = cv2.createCLAHE(recipe.clahe_clip, (tiles_x, tiles_y))
    cv2.insertChannel(clahe.apply(lightness), lab, 0)
    return _bytes(cv2.cvtColor(lab, cv2.COLOR_LAB2BGR))


def _cut(image: npt.NDArray[np.uint8], xyxy: tuple[int, int, int, int], border: int) -> npt.NDArray[np.uint8]:
    """Return a crop of (H, W) or (H, W, C); `border` says what lies beyond the image."""
    x1, y1, x2, y2 = xyxy
    height, width = image.shape[:2]
    crop = image[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)]
    beyond = max(-y1, 0), max(y2 - height, 0), max(-x1, 0), max(x2 - width, 0)
    return _bytes(cv2.copyMakeBorder(crop, *beyond, border)) if any(beyond) else crop


def _bytes(image: object) -> npt.NDArray[np.uint8]:
    """Return what OpenCV made of an 8-bit image, which its type stubs leave open."""
    return np.asarray(image, np.uint8)
