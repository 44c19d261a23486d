"""A fixed bank of filters: quick, and without weights.

Oriented first and second derivatives (edges, ridges) of three scales on locally contrast-normalised grey, with the
local contrast, lightness and colour of the patch, at one patch for 8 x 8 pixels. It tells a patch from the OK patches
of its own station; it knows nothing of what things are. It is an embedder of its own and half of the starter.

The parts of a vector are centred and scaled by fixed numbers (`STANDARD`), so that each has its say and no statistics
of the training frames are needed; a constant part keeps the length of a weak response apart from its direction once the
vector is of unit length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch

from schemas.recipe import EmbedRecipe
from service.errors import UsageError
from service.pipeline.embed.grid import CELL_PX, COARSEST_PX, Cut, cut_out
from service.pipeline.types import FloatArray, NormalizedRoi, PatchGrid

VERSION = "filters-3"
"""Changes whenever the same ROI would give other vectors."""

DEFAULT_SIDE = 320
COARSE_PX = 4
"""Local statistics are smooth: they are computed on means of this many pixels a side."""
LOCAL_SIGMA_PX = 8.0
CONTINUE_SIGMA_PX = 6.0
CONTRAST_FLOOR = 0.03
"""Of full scale: what is flatter than this is not amplified further."""
LOG_FLOOR = 0.01
FAINT, BESIDE, EPSILON = 1e-3, 0.02, 1e-6
"""Weights of what is far and of what is beside, next to what is there; and of nothing, against division by zero."""
SCALES: tuple[tuple[int, float], ...] = ((1, 1.0), (1, 2.0), (2, 2.0))
"""Reduction of the image and sigma in its pixels: sigma 1, 2 and 4 px."""

NEIGHBOURHOOD = np.outer([0.3, 1.0, 0.3], [0.3, 1.0, 0.3]).astype(np.float32)
"""Weights of the 3 x 3 cells that a vector is the mean of: damage between two cells is not halved."""
STANDARD: tuple[tuple[float, float], ...] = (
    (0.092, 0.075),  # first and second derivatives, sigma 1 px
    (0.056, 0.051),
    (0.117, 0.095),  # sigma 2 px
    (0.088, 0.083),
    (0.117, 0.088),  # sigma 4 px
    (0.110, 0.092),
    (-2.18, 0.50),  # logarithm of the local contrast
    (0.466, 0.146),  # lightness
    (0.0, 0.0155),  # colour
)
"""Mean and spread of each group of features over the patches of rendered OK frames of two stations."""


DIM = 8 * len(SCALES) + 5


class FilterEmbedder:
    """The filter bank as an embedder, on the CPU."""

    name = "filters"
    dim = DIM
    weights_bytes = 0
    digest = hashlib.sha256(VERSION.encode()).hexdigest()

    def __init__(self, recipe: EmbedRecipe) -> None:
        self.input_side = recipe.input_side or DEFAULT_SIDE
        if self.input_side % COARSEST_PX:
            raise UsageError(f"filters take sides that are multiples of {COARSEST_PX} px, not {self.input_side}")

    def embed(self, rois: Sequence[NormalizedRoi]) -> list[PatchGrid]:
        """Return one grid of side / 8 cells a side for each ROI."""
        cuts = [cut_out(roi, self.input_side) for roi in rois]
        return [cut.grid(filter_vectors(cut)) for cut in cuts]

    def state(self) -> dict[str, torch.Tensor]:
        """See `Embedder.state`."""
        return {}


def filter_vectors(cut: Cut) -> FloatArray:
    """Return what the filters say of each cell, (rows, cols, DIM), of unit length on the part."""
    standardised = [
        (group - mean) / (spread * np.sqrt(group.shape[2]))
        for group, (mean, spread) in zip(feature_groups(cut.bgr, cut.covered), STANDARD, strict=True)
    ]
    constant = np.ones((*standardised[0].shape[:2], 1), np.float32)
    vectors = _unit(np.concatenate([*standardised, constant], axis=2)) * cut.inside[cut.cells][..., None]
    # no division by the weights: the vector becomes of unit length anyway
    return _unit(_float(cv2.filter2D(_float(vectors), -1, NEIGHBOURHOOD, borderType=cv2.BORDER_CONSTANT)))


def feature_groups(bgr: npt.NDArray[np.uint8], covered: FloatArray) -> list[FloatArray]:
    """Return the raw features, group by group, each (rows, cols, features) float32 with one cell for 8 x 8 pixels.

    bgr: (H, W, 3) uint8, H and W multiples of 16; covered: (H, W) float32, how much of a pixel lies on the object.
    Only the object counts, and its outermost pixel, which is mixed with the background, does not: the grey beyond it is
    continued from nearby, and responses there do not enter the means.
    """
    weight = _float(cv2.erode(covered, np.ones((3, 3), np.uint8)))
    grey = _continued(_float(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY) / np.float32(255)), weight)
    mean, deviation = _local_statistics(grey, weight)
    normalized = _float((grey - mean) / (deviation + CONTRAST_FLOOR))
    scale = np.reciprocal(_with_beside(_reduced(weight, CELL_PX)) + np.float32(EPSILON))
    groups: list[FloatArray] = []
    for reduction, sigma in SCALES:
        weight_here = _reduced(weight, reduction)
        kinds = _derivatives(_reduced(normalized, reduction), sigma)
        groups += [_cell_means([np.abs(each) for each in kind], weight_here, scale) for kind in kinds]
    bgr_means = _cell_means(cv2.split(_float(bgr / np.float32(255))), weight, scale)
    lab = _float(cv2.cvtColor(bgr_means, cv2.COLOR_BGR2Lab))
    groups.append(np.log(_cell_means([deviation], weight, scale) + LOG_FLOOR))
    groups += [_float(lab[..., :1] / 100), _float(lab[..., 1:] / 50)]
    return groups


def _continued(grey: FloatArray, weight: FloatArray) -> FloatArray:
    """Return `grey` with the grey of the object continued smoothly where it has no weight, so that no edge is there."""
    height, width = grey.shape
    value, present = _reduced(grey * weight, COARSE_PX), _reduced(weight, COARSE_PX)
    sigma = CONTINUE_SIGMA_PX / COARSE_PX
    beyond = _blurred(value, sigma) + FAINT * _blurred(value, 4 * sigma)
    beyond /= _blurred(present, sigma) + FAINT * _blurred(present, 4 * sigma) + EPSILON
    beyond = _float(cv2.resize(beyond, (width, height), interpolation=cv2.INTER_LINEAR))
    return beyond + weight * (grey - beyond)


def _local_statistics(grey: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation around each pixel, Gaussian-weighted, over the object."""
    height, width = grey.shape
    sigma = LOCAL_SIGMA_PX / COARSE_PX
    moments = np.dstack([_reduced(part, COARSE_PX) for part in (weight, grey * weight, grey * grey * weight)])
    present, first, second = cv2.split(_blurred(moments, sigma))
    mean = first / (present + FAINT)
    deviation = np.sqrt(np.maximum(second / (present + FAINT) - mean**2, 0))
    smooth = cv2.resize(np.dstack([mean, deviation]), (width, height), interpolation=cv2.INTER_LINEAR)
    return _float(smooth[..., 0]), _float(smooth[..., 1])


def _cell_means(planes: Sequence[np.ndarray], weight: FloatArray, scale: FloatArray) -> FloatArray:
    """Return weighted means (rows, cols, planes) over the cells, from beside where nothing has weight.

    planes, weight: (H, W). scale: (rows, cols), one over the weight of each cell and a little of those beside.
    """
    rows, cols = scale.shape
    sums = [cv2.resize(plane * weight, (cols, rows), interpolation=cv2.INTER_AREA) for plane in planes]
    return _with_beside(_float(np.dstack(sums))) * scale[..., None]


def _with_beside(sums: FloatArray) -> FloatArray:
    """Return sums over cells (rows, cols[, C]) with a little of those of the cells beside."""
    return sums + np.float32(BESIDE) * _blurred(sums, 1.0).reshape(sums.shape)


def _derivatives(image: FloatArray, sigma: float) -> tuple[list[FloatArray], list[FloatArray]]:
    """Return first and second directional derivatives at 0, 45, 90 and 135 degrees, normalised for scale.

    Both are steered from their separable basis: Freeman and Adelson, The design and use of steerable filters, 1991.
    """
    radius = round(3 * sigma)
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    gauss = np.exp(-(x**2) / (2 * sigma**2))
    gauss /= gauss.sum()
    first = -x / sigma * gauss
    second = (x**2 / sigma**2 - 1) * gauss
    second -= second.mean()  # cut off at 3 sigma it would answer to plain brightness

    def filtered(across: npt.NDArray[np.float64], down: npt.NDArray[np.float64]) -> FloatArray:
        return _float(cv2.sepFilter2D(image, cv2.CV_32F, across, down, borderType=cv2.BORDER_REFLECT_101))

    dx, dy = filtered(first, gauss), filtered(gauss, first)
    dxx, dyy, dxy = filtered(second, gauss), filtered(gauss, second), filtered(first, first)
    half, mean = np.sqrt(0.5), cv2.addWeighted(dxx, 0.5, dyy, 0.5, 0)
    firsts = [dx, cv2.addWeighted(dx, half, dy, half, 0), dy, cv2.addWeighted(dx, half, dy, -half, 0)]
    seconds = [dxx, cv2.add(mean, dxy), dyy, cv2.subtract(mean, dxy)]
    return [_float(each) for each in firsts], [_float(each) for each in seconds]


def _unit(vectors: FloatArray) -> FloatArray:
    """Return `vectors` (..., D) at unit length; a zero vector stays zero."""
    return _float(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), EPSILON))


def _reduced(image: FloatArray, factor: int) -> FloatArray:
    """Return the means of blocks of `factor` x `factor` pixels."""
    if factor == 1:
        return image
    height, width = image.shape[:2]
    return _float(cv2.resize(image, (width // factor, height // factor), interpolation=cv2.INTER_AREA))


def _blurred(image: FloatArray, sigma: float) -> FloatArray:
    """Return `image` after a Gaussian blur."""
    return _float(cv2.GaussianBlur(image, (0, 0), sigma))


def _float(image: npt.ArrayLike) -> FloatArray:
    """Return what OpenCV or numpy made of a float image, whose type their stubs leave open."""
    return np.asarray(image, np.float32)
