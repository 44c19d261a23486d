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
from adapters.simulation.canister import Box, Camera, normals, rasterize, surface_points
from adapters.simulation.damage import (
    DamageKind,
    DamageRequest,
    Placement,
    crushed_rim,
    dent,
    place,
    scratch,
    stain,
)
from adapters.simulation.detail import DETAIL_COLS, DETAIL_ROWS, DetailMap, detail_map
from adapters.simulation.light import Environment, shade
from service.pipeline.types import BgrImage, FloatArray, Mask

SIDES_PX = (160, 8192)
"""Smallest and largest side of a frame that is worth waiting for."""

_SUPERSAMPLING = 2
_CHANGED_LEVELS = 8
"""Grey levels by which a pixel must differ from the undamaged frame to count as damage."""
_CHANGED_SHARE = 0.0005
"""Share of the canister that must change; a damage that shows less is pressed harder, up to the last of `_TRIES`."""
_TRIES = (1.0, 1.6, 2.5, 4.0)
_SURFACE_ROWS, _SURFACE_COLS = 600, 449
_PART_STREAM, _STATION_STREAM, _DAMAGE_STREAM = 1, 2, 3

Wh = tuple[int, int]
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
class _Stand:
    """Where a part stands: the camera, the part's box in the frame, the room it mirrors, linear BGR gains (3,)."""

    view: Camera
    box: Box
    env: Environment
    tone: FloatArray


@dataclass(frozen=True, slots=True)
class _Part:
    """A part before the camera.

    points, colour: (rows, cols, 3) surface grid; where: the surface point of each sample in the box, see `rasterize`.
    """

    points: FloatArray
    detail: DetailMap
    colour: FloatArray
    where: FloatArray


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


def _fitted(view: Camera, points: FloatArray, resolution_wh: Wh) -> tuple[Camera, Box]:
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


def _clean_part(look: scene.Look, station: scene.Look, rng: np.random.Generator, frame_wh: Wh) -> tuple[_Part, _Stand]:
    """Draw an undamaged part and stand it before the camera."""
    points = surface_points(_SURFACE_ROWS, _SURFACE_COLS, (float(rng.normal(0, 0.02)), float(rng.normal(0, 0.02))))
    view, box = _fitted(scene.camera(look, frame_wh), points, frame_wh)
    env = scene.environment(station.seed, station.desk_bgr)
    stand = _Stand(view, box, env, np.asarray(look.tone, np.float32))
    text = look.print_text if rng.random() < 0.5 else None
    return _shaded(points, detail_map(rng, float(rng.random()), text), stand), stand


def _picture(part: _Part, behind: FloatArray, blur_px: float) -> tuple[FloatArray, FloatArray]:
    """The box of a part, (h, w, 3) float32, over what lies behind it, and its coverage (h, w) float32, 0..1."""
    rows, cols, _ = part.points.shape
    column, row, turn = cv2.split(part.where)
    skin = np.clip(part.colour, 0, 255).astype(np.uint8)
    # rows and columns of samples beside the part are negative: the border makes them black
    drawn = cv2.remap(skin, column * (cols - 1), row * (rows - 1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    map_x, map_y = turn * DETAIL_COLS, row * (DETAIL_ROWS - 1)
    fine = cv2.remap(part.detail, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    drawn = cv2.multiply(drawn, cv2.merge((fine, fine, fine)), scale=1 / 128, dtype=cv2.CV_8U)
    size = (behind.shape[1], behind.shape[0])
    cover = cv2.resize(cv2.inRange(row, 0.0, 1.0), size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    weighted = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA)
    whole = cv2.GaussianBlur(behind * (1.0 - cover[..., None]) + weighted, (0, 0), blur_px)
    return np.asarray(whole, np.float32), np.asarray(cover, np.float32)


def _damaged(clean: _Part, kind: DamageKind, at: Placement, stand: _Stand) -> _Part:
    match kind:
        case DamageKind.SCRATCH:
            return replace(clean, detail=scratch(clean.detail, at))
        case DamageKind.STAIN:
            return replace(clean, colour=stain(clean.colour, at))
        case DamageKind.DENT:
            return _shaded(dent(clean.points, at), clean.detail, stand)
        case DamageKind.CRUSHED_RIM:
            return _shaded(crushed_rim(clean.points, at), clean.detail, stand)


def _shaded(points: FloatArray, detail: DetailMap, stand: _Stand) -> _Part:
    colour = shade(points, normals(points), stand.view.position, stand.env, stand.tone)
    return _Part(points, detail, colour, rasterize(points, stand.view, stand.box, _SUPERSAMPLING))


def _bounds(difference: FloatArray, box: Box) -> npt.NDArray[np.int32]:
    """(1, 4) int32 frame bounds of what changed in a box, (0, 4) where nothing did."""
    changed = difference > min(_CHANGED_LEVELS, 0.5 * float(difference.max()))
    rows, cols = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if rows.size == 0:
        return np.empty((0, 4), np.int32)
    x, y = box[:2]
    return np.array([(x + cols[0], y + rows[0], x + cols[-1] + 1, y + rows[-1] + 1)], np.int32)


def fast_png(bgr: BgrImage) -> bytes:
    """Return a frame as a PNG file that is written quickly, if not small."""
    written, encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert written, "OpenCV writes every (H, W, 3) uint8"
    return encoded.tobytes()


def render_canister(
    seed: int,
    *,
    damage: DamageKind | DamageRequest | None = None,
    style: CameraStyle = CameraStyle.STATION,
    resolution_wh: Wh = scene.REFERENCE_WH,
    station_seed: int = 0,
) -> RenderedFrame:
    """Draw one frame.

    seed: the part and its moment. damage: None for an OK part. station_seed: the scene of a STATION.

    Raises:
        ValueError: a side of `resolution_wh` is below 160 pixels.
    """
    if min(resolution_wh) < SIDES_PX[0]:
        raise ValueError(f"a frame has at least {SIDES_PX[0]} pixels a side, not {resolution_wh}")
    request = DamageRequest(damage) if isinstance(damage, DamageKind) else damage
    rng = np.random.default_rng([seed, _PART_STREAM])
    if style is CameraStyle.STATION:
        station = scene.draw_station(np.random.default_rng([station_seed, _STATION_STREAM]))
        look = _jittered(station, rng)
    else:
        station = look = scene.draw_look(rng)
    clean, stand = _clean_part(look, station, rng, resolution_wh)
    frame = scene.backdrop(station, resolution_wh).copy()
    _darken(frame, scene.shadow(look, stand.view, resolution_wh))
    x0, y0, x1, y1 = stand.box
    behind = frame[y0:y1, x0:x1].astype(np.float32)

    picture, cover = _picture(clean, behind, look.blur_px)
    boxes, kinds = np.empty((0, 4), np.int32), tuple[DamageKind, ...]()
    if request is not None:
        undamaged, difference = picture, np.zeros_like(cover)
        at = place(np.random.default_rng([seed, _DAMAGE_STREAM]), request)
        for harder in _TRIES:
            part = _damaged(clean, request.kind, replace(at, depth=at.depth * harder), stand)
            picture, cover = _picture(part, behind, look.blur_px)
            difference = np.abs(picture - undamaged).max(axis=2)
            if np.count_nonzero(difference > _CHANGED_LEVELS) >= _CHANGED_SHARE * np.count_nonzero(cover):
                break
        boxes, kinds = _bounds(difference, stand.box), (request.kind,)
    frame[y0:y1, x0:x1] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    mask = np.zeros(frame.shape[:2], np.bool_)
    mask[y0:y1, x0:x1] = cover >= 0.5
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
