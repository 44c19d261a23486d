"""Damage boxes from the anomaly map."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from schemas.recipe import BoxRecipe
from service.pipeline.types import DamageBox, FloatArray, Mask, NormalizedRoi

CELL_PX = 4
"""Pixels of the working map for each patch: finer edges than a quarter of a patch would be invented."""

Labels = npt.NDArray[np.int32]


def find_boxes(
    anomaly_map: FloatArray,
    inside: Mask,
    normalized: NormalizedRoi,
    frame_wh: tuple[int, int],
    patch_tau: float,
    recipe: BoxRecipe,
) -> tuple[DamageBox, ...]:
    """Return where patches reach the threshold, largest score first.

    anomaly_map: (rows, cols) float32 distances; inside: (rows, cols) bool; frame_wh: size of the full frame, pixels;
    patch_tau: distance that a patch must reach; a box needs one that does, and extends over the smoothed map down to
    `extent_ratio * patch_tau`. Coordinates are whole pixels of the full frame,
    clipped to it, x2 and y2 exclusive.
    """
    seeds = inside & (anomaly_map >= patch_tau)
    if not seeds.any():
        return ()
    smooth = smoothed(anomaly_map, inside, CELL_PX, recipe.blur_sigma)
    seeds = np.kron(seeds, np.ones((CELL_PX, CELL_PX), np.uint8)).astype(bool)
    region = (smooth >= recipe.extent_ratio * patch_tau) | seeds
    side = max(smooth.shape)
    labels, count = _joined(region, gap_px=recipe.merge_gap_frac * side)
    smallest = recipe.min_area_frac * np.count_nonzero(inside) * CELL_PX**2
    scores = np.kron(anomaly_map, np.ones((CELL_PX, CELL_PX), np.float32))

    boxes = []
    for label in range(1, count):
        blob = labels == label
        if np.count_nonzero(blob) < smallest or not (blob & seeds).any():
            continue
        left, top, width, height = cv2.boundingRect(blob.astype(np.uint8))
        if max(width, height) > recipe.max_aspect * min(width, height):
            continue
        xyxy = _in_frame((left, top, left + width, top + height), smooth.shape, normalized, frame_wh)
        if xyxy is not None:
            boxes.append(DamageBox(xyxy, float(scores[blob & seeds].max())))
    boxes.sort(key=lambda box: -box.score)
    return tuple(boxes[: recipe.max_boxes])


def smoothed(anomaly_map: FloatArray, inside: Mask, cell_px: int, sigma_cells: float) -> FloatArray:
    """Return the anomaly map at `cell_px` pixels a patch, blurred lightly: (rows * cell_px, cols * cell_px) float32.

    Only patches inside take part, so the map keeps its level up to the silhouette; it is 0 outside. The blur is
    separable and comes after resizing.
    """
    rows, cols = inside.shape
    size_wh = (cols * cell_px, rows * cell_px)
    weight = cv2.resize(inside.astype(np.float32), size_wh, interpolation=cv2.INTER_LINEAR)
    value = cv2.resize(np.where(inside, anomaly_map, 0).astype(np.float32), size_wh, interpolation=cv2.INTER_LINEAR)
    if sigma_cells > 0:
        sigma = sigma_cells * cell_px
        side = 2 * math.ceil(3 * sigma) + 1
        weight = cv2.GaussianBlur(weight, (side, side), sigma)
        value = cv2.GaussianBlur(value, (side, side), sigma)
    within = np.kron(inside, np.ones((cell_px, cell_px), np.uint8)).astype(bool)
    return np.where(within, value / np.maximum(weight, 1e-6), 0).astype(np.float32)


def _joined(region: Mask, gap_px: float) -> tuple[Labels, int]:
    """Label blobs, those nearer than `gap_px` as one: labels (H, W) int32, 0 outside, and one more than the highest."""
    reach = math.ceil(gap_px / 2)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    count, labels = cv2.connectedComponents(cv2.dilate(region.astype(np.uint8), kernel), connectivity=8)
    return np.where(region, labels, 0).astype(np.int32), count


def _in_frame(
    xyxy: tuple[int, int, int, int],
    map_shape: tuple[int, ...],
    normalized: NormalizedRoi,
    frame_wh: tuple[int, int],
) -> tuple[int, int, int, int] | None:
    """Map a box of the working map to the full frame, outwards to whole pixels and clipped; None if nothing is left."""
    height, width = map_shape
    side = normalized.bgr.shape[0]
    origin_x, origin_y = normalized.origin_xy
    per_x, per_y = side / width / normalized.scale, side / height / normalized.scale
    x1 = max(0, math.floor(origin_x + xyxy[0] * per_x))
    y1 = max(0, math.floor(origin_y + xyxy[1] * per_y))
    x2 = min(frame_wh[0], math.ceil(origin_x + xyxy[2] * per_x))
    y2 = min(frame_wh[1], math.ceil(origin_y + xyxy[3] * per_y))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
