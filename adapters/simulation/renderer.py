"""The procedural camera: photos of bare aluminium canisters, with and without damage, and the truth about them.

`render_canister` draws one frame. Everything follows from the seeds, so the same call returns the same bytes. A damaged
frame is the undamaged frame of the same seed with the damage put onto the surface: pose, light, backdrop and noise are
drawn before and apart from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt

from adapters.simulation import scene
from adapters.simulation.canister import Camera, normals, profile, rasterize, surface_points
from adapters.simulation.damage import (
    DamageKind,
    DamageRequest,
    Placement,
    crushed_rim,
    dent,
    place,
    random_damage,
    scratch,
    stain,
)
from adapters.simulation.detail import DETAIL_COLS, DETAIL_ROWS, DetailMap, detail_map
from adapters.simulation.light import Environment, shade
from service.pipeline.types import BgrImage, FloatArray, Mask

__all__ = ["CameraStyle", "DamageKind", "DamageRequest", "RenderedFrame", "random_damage", "render_canister"]

_SUPERSAMPLING = 2
_CHANGED_LEVELS = 8
"""Grey levels by which a pixel must differ from the undamaged frame to count as damage."""
_SMALLEST_SIDE = 160
_MARGIN = 6
"""Pixels between the part and the edge of the frame, and between the part and its box, at least."""


class CameraStyle(StrEnum):
    """STATION: one fixed scene for each station seed, parts and light jitter. VARIED: every frame is its own scene."""

    STATION = "station"
    VARIED = "varied"


@dataclass(frozen=True, slots=True)
class RenderedFrame:
    """A frame and the truth about it.

    bgr: (H, W, 3) uint8. mask: (H, W) bool, the canister with its stem. boxes: (K, 4) int32 xyxy, exclusive x2 and y2,
    bounds of the pixels each damage changed; kinds: K kinds.
    """

    bgr: BgrImage
    mask: Mask
    boxes: npt.NDArray[np.int32]
    kinds: tuple[DamageKind, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A part ready to be shaded: its surface, its fine structure and the camera that sees it."""

    points: FloatArray
    detail: DetailMap
    view: Camera
    env: Environment
    tone: FloatArray


def _jittered(look: scene.Look, rng: np.random.Generator) -> scene.Look:
    """The same station a moment later: the belt stops elsewhere, the lamps flicker."""
    exposure = float(np.exp(rng.normal(0, 0.012)))
    return replace(
        look,
        elevation=look.elevation + float(rng.normal(0, 0.004)),
        radius_px=look.radius_px * float(np.exp(rng.normal(0, 0.008))),
        centre_xy=(look.centre_xy[0] + float(rng.normal(0, 0.012)), look.centre_xy[1] + float(rng.normal(0, 0.006))),
        tone=(look.tone[0] * exposure, look.tone[1] * exposure, look.tone[2] * exposure),
    )


def _fitted(
    view: Camera, points: FloatArray, resolution_wh: tuple[int, int]
) -> tuple[Camera, tuple[int, int, int, int]]:
    """Shrink and shift the view until the part lies inside the frame; returns it with the part's bounds, xyxy."""
    size, centre = np.asarray(resolution_wh, np.float64), np.asarray(view.centre_xy)
    seen = view.project(points[::4, ::4])[..., :2]
    low, high = seen.min((0, 1)) - centre, seen.max((0, 1)) - centre
    shrink = float(min(1.0, *((size - 2 * _MARGIN) / (high - low))))
    low, high = centre + low * shrink, centre + high * shrink
    shift = np.maximum(_MARGIN - low, 0) + np.minimum(size - _MARGIN - high, 0)
    x, y = centre + shift
    left, top = np.maximum(np.floor(low + shift) - _MARGIN + 1, 0).astype(int)
    right, bottom = np.minimum(np.ceil(high + shift) + _MARGIN - 1, size).astype(int)
    fitted = replace(view, focal_px=view.focal_px * shrink, centre_xy=(float(x), float(y)))
    return fitted, (int(left), int(top), int(right), int(bottom))


def _draw(part: _Part, colour: FloatArray, where: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Colour (h, w, 3) float32 and coverage (h, w) float32 of the part in its box."""
    rows, cols, _ = part.points.shape
    row = where[..., 1]
    skin = np.clip(colour, 0, 255).astype(np.uint8)
    drawn = cv2.remap(skin, where[..., 0] * (cols - 1), row * (rows - 1), cv2.INTER_LINEAR)
    fine = cv2.remap(
        part.detail,
        where[..., 2] * DETAIL_COLS,
        row * (DETAIL_ROWS - 1),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    drawn = cv2.multiply(drawn, cv2.merge((fine, fine, fine)), scale=1 / 128, dtype=cv2.CV_8U)
    covered = cv2.inRange(row, 0.0, 1.0)
    size = (where.shape[1] // _SUPERSAMPLING, where.shape[0] // _SUPERSAMPLING)
    coverage = cv2.resize(covered, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    return cv2.resize(drawn, size, interpolation=cv2.INTER_AREA).astype(np.float32), coverage


def _damaged(
    part: _Part, kind: DamageKind, at: Placement, box: tuple[int, int, int, int], where: FloatArray, colour: FloatArray
) -> tuple[FloatArray, FloatArray]:
    if kind is DamageKind.SCRATCH:
        return _draw(replace(part, detail=scratch(part.detail, at)), colour, where)
    if kind is DamageKind.STAIN:
        return _draw(part, stain(colour, at), where)
    points = (dent if kind is DamageKind.DENT else crushed_rim)(part.points, at)
    bent = replace(part, points=points)
    return _draw(bent, _shaded(bent), rasterize(points, part.view, box, _SUPERSAMPLING))


def _shaded(part: _Part) -> FloatArray:
    return shade(part.points, normals(part.points), part.view.position, part.env, part.tone)


def _bounds(changed: Mask, offset_xy: tuple[int, int]) -> npt.NDArray[np.int32]:
    rows, cols = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if rows.size == 0:
        return np.empty((0, 4), np.int32)
    x, y = offset_xy
    return np.array([(x + cols[0], y + rows[0], x + cols[-1] + 1, y + rows[-1] + 1)], np.int32)


def render_canister(
    seed: int,
    *,
    damage: DamageKind | DamageRequest | None = None,
    style: CameraStyle = CameraStyle.STATION,
    resolution_wh: tuple[int, int] = scene.REFERENCE_WH,
    station_seed: int = 0,
) -> RenderedFrame:
    """Draw one frame.

    seed: the part and its moment. damage: None for an OK part. station_seed: the scene of a STATION.

    Raises:
        ValueError: a side of `resolution_wh` is below 160 pixels.
    """
    if min(resolution_wh) < _SMALLEST_SIDE:
        raise ValueError(f"a frame has at least {_SMALLEST_SIDE} pixels a side, not {resolution_wh}")
    request = DamageRequest(damage) if isinstance(damage, DamageKind) else damage
    rng = np.random.default_rng([seed, 1])
    if style is CameraStyle.STATION:
        station = scene.draw_station(np.random.default_rng([station_seed, 2]))
        look = _jittered(station, rng)
    else:
        station = look = scene.draw_look(rng)
    points = surface_points(600, 449, (float(rng.normal(0, 0.02)), float(rng.normal(0, 0.02))))
    view, box = _fitted(scene.camera(look, resolution_wh), points, resolution_wh)
    tone = np.asarray(look.tone, np.float32)
    text = look.print_text if rng.random() < 0.5 else None
    part = _Part(
        points,
        detail_map(rng, float(rng.random()), text),
        view,
        scene.environment(station.seed, station.desk_bgr),
        tone,
    )
    colour = _shaded(part)
    where = rasterize(points, view, box, _SUPERSAMPLING)

    frame = scene.backdrop(station, resolution_wh).copy()
    _darken(frame, scene.shadow(look, view, resolution_wh))
    x0, y0, x1, y1 = box
    behind = frame[y0:y1, x0:x1].astype(np.float32)

    def composed(drawn: FloatArray, coverage: FloatArray) -> FloatArray:
        # `drawn` is already weighted by its coverage: samples beside the part are black
        return cv2.GaussianBlur(behind * (1 - coverage[..., None]) + drawn, (0, 0), look.blur_px)

    drawn, coverage = _draw(part, colour, where)
    picture = composed(drawn, coverage)
    boxes, kinds = np.empty((0, 4), np.int32), ()
    if request is not None:
        at = place(np.random.default_rng([seed, 3]), request)
        drawn, coverage = _damaged(part, request.kind, at, box, where, colour)
        clean, picture = picture, composed(drawn, coverage)
        boxes = _bounds(np.abs(picture - clean).max(axis=2) > _CHANGED_LEVELS, (x0, y0))
        kinds = (request.kind,)
    frame[y0:y1, x0:x1] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    mask = np.zeros(frame.shape[:2], np.bool_)
    mask[y0:y1, x0:x1] = coverage >= 0.5
    return RenderedFrame(_with_noise(frame, rng, look.noise), mask, boxes, kinds, seed)


def _darken(frame: BgrImage, gain: npt.NDArray[np.uint8]) -> None:
    full = cv2.resize(gain, (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(frame, cv2.merge((full, full, full)), dst=frame, scale=1 / 255)


def _with_noise(frame: BgrImage, rng: np.random.Generator, deviation: float) -> BgrImage:
    height, width = frame.shape[:2]
    top, left = rng.integers(scene.NOISE_SLACK, size=2)
    noise = scene.sensor_noise((width, height))[top : top + height, left : left + width]
    noisy = cv2.addWeighted(frame, 1.0, noise, deviation / scene.NOISE_GAIN, 0.0, dtype=cv2.CV_8U)
    return np.asarray(noisy, np.uint8)
