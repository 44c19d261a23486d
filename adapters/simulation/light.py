"""What the metal mirrors: a lat-long map of the room and the desk, and the shading of surface points by it.

Radiance is linear; the camera's tone curve is a square root, so 1.0 is white. Elevation runs by its sine, azimuth 0
looks to the camera; the map is stored twice, nearly sharp for polished metal and smeared for brushed metal.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from adapters.simulation.canister import profile
from service.pipeline.types import FloatArray

_ENV_ROWS, _ENV_COLS, _PAD = 160, 320, 24
_PARALLAX = 0.11
_ALUMINIUM = np.array([0.95, 1.0, 1.01], np.float32)


@dataclass(frozen=True, slots=True)
class Environment:
    """mirror, brushed: (rows, cols + padding, 3) float32 linear BGR radiance by reflected direction."""

    mirror: FloatArray
    brushed: FloatArray


def _window(value: FloatArray, centre: float, half: float, soft: float) -> FloatArray:
    """1 inside centre +- half with smooth flanks of width `soft`."""
    return np.asarray(1.0 / (1.0 + np.exp((np.abs(value - centre) - half) / soft)), np.float32)


def _patch(azimuth: FloatArray, sine: FloatArray, at: tuple[float, float], half: tuple[float, float]) -> FloatArray:
    turned = (azimuth - at[0] + np.pi) % (2 * np.pi) - np.pi
    return _window(turned, 0.0, half[0], 0.05) * _window(sine, at[1], half[1], 0.025)


def _bump(azimuth: FloatArray, centre: float, width: float) -> FloatArray:
    """A smooth lobe of height 1 around an azimuth."""
    return np.asarray(np.exp((np.cos(azimuth - centre) - 1.0) / width**2), np.float32)


def room(rng: np.random.Generator, desk_bgr: FloatArray) -> Environment:
    """Draw a room: pale desk below the horizon, and above it walls, windows, lamps and the dark shape at the camera.

    desk_bgr: (3,) linear colour of the desk.
    """
    azimuth = ((np.arange(_ENV_COLS) + 0.5) / _ENV_COLS * 2 * np.pi)[None, :].astype(np.float32)
    sine = (1.0 - (np.arange(_ENV_ROWS) + 0.5) / _ENV_ROWS * 2.0)[:, None].astype(np.float32)
    daylight, lamp_light = np.array([1.10, 1.0, 0.93]), np.array([0.90, 1.0, 1.04])

    side = float(rng.choice([-1.0, 1.0]))
    bright_at = side * rng.uniform(0.9, 1.7)
    desk = 0.66 - 0.16 * np.cos(azimuth) + np.zeros_like(sine)
    desk = desk + rng.uniform(0.5, 1.0) * _bump(azimuth, bright_at, rng.uniform(0.30, 0.5))
    desk = desk + rng.uniform(0.00, 0.35) * _bump(azimuth, -bright_at * rng.uniform(0.9, 1.4), 0.30)
    desk = desk - rng.uniform(0.15, 0.36) * _bump(azimuth, -side * rng.uniform(0.0, 0.6), 0.55)
    desk = desk * (1.0 - rng.uniform(0.0, 0.3) * _bump(azimuth, rng.uniform(-2.6, 2.6), 0.15))
    desk = desk * (1.0 - 0.5 * _bump(azimuth, 0.0, 0.7) * _window(sine, 0.0, 0.22, 0.06))
    ground = desk[..., None] * desk_bgr

    level = rng.uniform(0.06, 0.16) * (1.0 + 0.5 * np.cos(azimuth - bright_at)) * np.ones_like(sine)
    level = level + 0.22 * np.clip(sine, 0, 1) ** 2
    sky = level[..., None] * np.array([1.02, 1.0, 0.98])
    for at, half, light, tone in (
        ((bright_at, 0.33), (rng.uniform(0.25, 0.5), 0.20), rng.uniform(1.2, 2.6), daylight),
        ((-bright_at * rng.uniform(0.8, 1.2), 0.28), (0.18, 0.14), rng.uniform(0.5, 1.6), daylight),
        ((rng.uniform(-2.6, 2.6), 0.80), (0.55, 0.06), rng.uniform(1.5, 3.0), lamp_light),
        ((rng.uniform(-0.8, 0.8), 0.90), (0.80, 0.04), rng.uniform(1.5, 3.0), lamp_light),
        ((np.pi + rng.uniform(-0.6, 0.6), 0.15), (0.5, 0.12), rng.uniform(0.2, 0.7), daylight),
    ):
        sky = sky + _patch(azimuth, sine, at, half)[..., None] * light * tone
    observer = _patch(azimuth, sine, (rng.uniform(-0.15, 0.15), 0.30), (rng.uniform(0.35, 0.6), 0.42))[..., None]
    sky = sky * (1 - 0.92 * observer) + observer * 0.012
    skin = np.array([0.13, 0.14, 0.21])
    for hand in (-1.0, 1.0):
        arm = _patch(azimuth, sine, (hand * rng.uniform(0.45, 0.6), 0.18), (0.10, rng.uniform(0.10, 0.2)))[..., None]
        sky = sky * (1 - 0.8 * arm) + arm * skin * rng.uniform(0.6, 1.0)

    below = _window(sine, -1.0, 0.96, 0.02)[..., None]
    radiance = np.asarray(below * ground + (1 - below) * sky, np.float32)
    wide = np.concatenate((radiance, radiance, radiance), axis=1)
    mirror = cv2.GaussianBlur(wide, (0, 0), sigmaX=2.0, sigmaY=1.2)
    brushed = cv2.GaussianBlur(wide, (0, 0), sigmaX=5.0, sigmaY=8.0, borderType=cv2.BORDER_REPLICATE)
    keep = slice(_ENV_COLS - _PAD, 2 * _ENV_COLS + _PAD)
    return Environment(np.ascontiguousarray(mirror[:, keep]), np.ascontiguousarray(brushed[:, keep]))


def shade(points: FloatArray, normal: FloatArray, eye: FloatArray, env: Environment, tone: FloatArray) -> FloatArray:
    """Colour of surface points as the camera sees them.

    points, normal: (rows, cols, 3); eye: (3,); tone: (3,) exposure and white balance, linear BGR gains.
    Returns (rows, cols, 3) float32 BGR, 255 is white; not clipped.
    """
    shape = profile(points.shape[0])
    view = eye - points
    view /= np.sqrt(np.einsum("rck,rck->rc", view, view))[..., None]
    facing = np.einsum("rck,rck->rc", view, normal)
    mirrored = 2.0 * facing[..., None] * normal - view
    azimuth = cv2.phase(-mirrored[..., 1], mirrored[..., 0])
    map_x = azimuth * (_ENV_COLS / (2 * np.pi)) + (_PAD - 0.5)
    # the desk lies near: from higher up the wall the same direction meets it farther away, closer to the horizon
    sine = mirrored[..., 2] - np.minimum(mirrored[..., 2], 0.0) * (_PARALLAX * points[..., 2])
    map_y = (1.0 - sine) * (0.5 * _ENV_ROWS) - 0.5
    gloss = shape.gloss[:, None, None]
    sharp = cv2.remap(env.mirror, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    smeared = cv2.remap(env.brushed, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    radiance = smeared + gloss * (sharp - smeared)
    grazing = (1.0 - np.clip(facing, 0.0, 1.0)) ** 4
    reflectance = (0.70 + 0.25 * grazing) * shape.openness[:, None]
    radiance *= reflectance[..., None] * (tone * _ALUMINIUM)
    return np.asarray(255.0 * np.sqrt(radiance), np.float32)
