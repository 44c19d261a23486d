"""Everything around the part: the camera's stand, the desk, the blurred office behind it, shadows and clutter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from adapters.simulation.canister import Camera
from adapters.simulation.light import Environment, room
from service.pipeline.types import BgrImage, FloatArray

REFERENCE_WH = (1280, 960)
_SHADOW_LAYERS = (
    # reach and radius (body radii), blur (body radii), share of the shadow's strength; the far end is the softest
    (3.4, 0.85, 0.55, 0.40),
    (2.2, 0.92, 0.32, 0.40),
    (1.0, 0.97, 0.18, 0.40),
    (0.1, 1.04, 0.06, 0.90),
)


@dataclass(frozen=True, slots=True)
class Look:
    """One camera station: where the camera stands, its optics, and the seeds of what it sees.

    elevation (rad) at mid height; distance in body radii; radius_px of the body at 1280 x 960; centre_xy as a share of
    the frame; roll (rad); desk_bgr, tone: linear; blur_px, noise: of lens and sensor; print_text: lot number or None.
    """

    elevation: float
    distance: float
    radius_px: float
    centre_xy: tuple[float, float]
    roll: float
    desk_bgr: tuple[float, float, float]
    tone: tuple[float, float, float]
    blur_px: float
    noise: float
    print_text: str | None
    shadow_azimuth: float
    shadow_strength: float
    desk_edge: float
    seed: int


def draw_look(rng: np.random.Generator) -> Look:
    """Draw a station from the whole range the photos suggest."""
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(1.3))))
    brightness = rng.uniform(0.40, 0.62)
    warmth = rng.normal(0, 0.02)
    exposure = rng.uniform(0.85, 1.12)
    temperature = rng.normal(0, 0.04)
    balance = np.exp([-temperature, rng.normal(0, 0.008), temperature])
    lot = f"{rng.integers(10**4):04d}{chr(65 + int(rng.integers(26)))}U {rng.integers(100):02d}{rng.integers(100):02d}"
    return Look(
        elevation=float(np.radians(rng.uniform(20, 33))),
        distance=float(rng.uniform(10, 18)),
        radius_px=112.0 * scale,
        centre_xy=(float(rng.uniform(0.32, 0.68)), float(rng.uniform(0.48, 0.60))),
        roll=float(rng.normal(0, 0.012)),
        desk_bgr=(brightness * (0.94 - warmth), brightness, brightness * (1.02 + warmth)),
        tone=(float(exposure * balance[0]), float(exposure * balance[1]), float(exposure * balance[2])),
        blur_px=float(rng.uniform(0.55, 0.95)),
        noise=float(rng.uniform(0.7, 1.8)),
        print_text=f"LOT {lot}\nEXP {rng.integers(1, 13):02d} {rng.integers(2026, 2031)}"
        if rng.random() < 0.5
        else None,
        shadow_azimuth=float(rng.uniform(-1.0, 1.0) + (0 if rng.random() < 0.5 else np.pi)),
        shadow_strength=float(rng.uniform(0.10, 0.30)),
        desk_edge=float(np.exp(rng.uniform(np.log(22), np.log(90)))),
        seed=int(rng.integers(2**31)),
    )


def draw_station(rng: np.random.Generator) -> Look:
    """Draw a station as a line would have it: the part large and near the middle of the frame."""
    return replace(
        draw_look(rng),
        radius_px=float(rng.uniform(95, 118)),
        distance=float(rng.uniform(12, 16)),
        centre_xy=(float(rng.uniform(0.46, 0.54)), float(rng.uniform(0.52, 0.56))),
    )


def camera(look: Look, resolution_wh: tuple[int, int]) -> Camera:
    """The camera of a look at a resolution; at other aspects the part keeps its size relative to the tighter side."""
    width, height = resolution_wh
    zoom = min(width / REFERENCE_WH[0], height / REFERENCE_WH[1])
    target = np.array([0.0, 0.0, 2.3])
    back = np.array([0.0, -np.cos(look.elevation), np.sin(look.elevation)])
    forward = -back
    right, down = np.array([1.0, 0.0, 0.0]), np.cross(forward, [1.0, 0.0, 0.0])
    turn_right = np.cos(look.roll) * right + np.sin(look.roll) * down
    turn_down = np.cos(look.roll) * down - np.sin(look.roll) * right
    return Camera(
        position=(target + look.distance * back).astype(np.float32),
        rotation=np.stack((turn_right, turn_down, forward)).astype(np.float32),
        focal_px=look.radius_px * zoom * look.distance,
        centre_xy=(look.centre_xy[0] * width, look.centre_xy[1] * height),
    )


@lru_cache(maxsize=4)
def environment(seed: int, desk_bgr: tuple[float, float, float]) -> Environment:
    """The room of a station."""
    return room(np.random.default_rng([seed, 0xE]), np.asarray(desk_bgr, np.float32))


NOISE_SLACK = 256
NOISE_GAIN = 32


@lru_cache(maxsize=2)
def sensor_noise(resolution_wh: tuple[int, int]) -> npt.NDArray[np.int8]:
    """Noise of deviation NOISE_GAIN, slightly correlated as after a demosaic; NOISE_SLACK larger than a frame."""
    shape = (resolution_wh[1] + NOISE_SLACK, resolution_wh[0] + NOISE_SLACK, 3)
    white = np.random.default_rng(0x5E).standard_normal(shape, np.float32)
    soft = cv2.GaussianBlur(white, (0, 0), 0.6, borderType=cv2.BORDER_REFLECT)
    noise = np.asarray(np.clip(soft * (NOISE_GAIN / soft.std()), -127, 127), np.int8)
    noise.flags.writeable = False
    return noise


def _desk(look: Look, rng: np.random.Generator, resolution_wh: tuple[int, int]) -> FloatArray:
    """Display colour of the desk at a quarter of the resolution, (h, w, 3) float32."""
    width, height = resolution_wh[0] // 4, resolution_wh[1] // 4
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light_x, light_y = rng.uniform(-0.10, 0.10), rng.uniform(0.06, 0.16)
    vignette = rng.uniform(0.04, 0.12)
    level = 1.0 + light_x * x + light_y * y - vignette * (x**2 + 0.6 * y**2)
    for _ in range(3):
        cx, cy, radius = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.4, 0.9)
        level = level + rng.normal(0, 0.04) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2)
    display = 255.0 * np.sqrt(np.asarray(look.desk_bgr) * np.asarray(look.tone) * 1.12)
    warm = 1.0 + rng.normal(0, 0.015) * x[..., None] * np.array([1.0, 0.0, -1.0])
    return np.asarray(level[..., None] * display * warm, np.float32)


def _filled(polygon: FloatArray, width: int, height: int) -> FloatArray:
    """(height, width) float32 antialiased cover of a polygon (N, 2); OpenCV antialiases 8-bit images only."""
    cover = np.zeros((height, width), np.uint8)
    corners = np.round(np.clip(polygon, -8e3, 8e3) * 256).astype(np.int32)
    cv2.fillPoly(cover, [corners], 255, cv2.LINE_AA, 8)
    return cover.astype(np.float32) / 255.0


def _office(rng: np.random.Generator, width: int, height: int, floor: float) -> FloatArray:
    """Walls, partitions, monitors, books above the desk's edge, out of focus; (height, width, 3) float32."""
    image = np.full((height, width, 3), rng.uniform(90, 190), np.float32)
    image *= np.array([1.04, 1.0, 0.99], np.float32) * np.linspace(0.8, 1.1, width, dtype=np.float32)[None, :, None]
    unit = width / 160

    def block(x0: float, y0: float, x1: float, y1: float, colour: float | FloatArray, slant: float = 0.0) -> None:
        rise = slant * (x1 - x0)
        cover = _filled(np.array([(x0, y0), (x1, y0 + rise), (x1, y1 + rise), (x0, y1)]), width, height)[..., None]
        image[:] = image * (1 - cover) + cover * colour

    if rng.random() < 0.7:
        x0, wide = rng.choice([-5.0, rng.uniform(0.5, 0.8) * width]), rng.uniform(0.25, 0.5) * width
        block(x0, -5, x0 + wide, floor + 20 * unit, rng.uniform(8, 40))
    if rng.random() < 0.5:
        x0 = rng.uniform(0.1, 0.9) * width
        block(x0, -5, x0 + 1.2 * unit, floor + 5, rng.uniform(120, 200))
    for _ in range(int(rng.integers(0, 3))):
        x0, wide, tall = rng.uniform(0, width), rng.uniform(12, 26) * unit, rng.uniform(9, 18) * unit
        bottom, dark = floor - rng.uniform(1, 6) * unit, rng.uniform(10, 28)
        block(x0, bottom - tall, x0 + wide, bottom, dark, rng.uniform(-0.15, 0.15))
        block(x0 + 0.42 * wide, bottom - 2, x0 + 0.56 * wide, floor + 2, dark)
    x0 = rng.uniform(0, width)
    tall = rng.uniform(10, 18) * unit
    for _ in range(int(rng.integers(0, 6))):
        wide = rng.uniform(2, 6) * unit
        cover_bgr = rng.uniform(30, 220) * rng.uniform(0.6, 1.05, 3)
        block(x0, floor - tall * rng.uniform(0.8, 1.0), x0 + wide, floor + 3, cover_bgr.astype(np.float32))
        x0 += wide
    return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.2) * unit), np.float32)


def _clutter(image: BgrImage, rng: np.random.Generator, zoom: float, top: float) -> None:
    """Specks, crumbs, hairline marks."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(6, 26))):
        x, y = rng.uniform(0, width), rng.uniform(top, height)
        here = image[min(int(y), height - 1), min(int(x), width - 1)].astype(float)
        colour = tuple(float(c) for c in here * rng.uniform(0.55, 0.92))
        reach = rng.normal(0, rng.choice([1.2, 2.0, 9.0]), 2) * zoom
        ends = np.round(np.array([(x, y), (x + reach[0], y + reach[1])]) * 16).astype(int)
        cv2.line(image, ends[0].tolist(), ends[1].tolist(), colour, 1, cv2.LINE_AA, 4)


def _build_backdrop(look: Look, resolution_wh: tuple[int, int]) -> BgrImage:
    rng = np.random.default_rng([look.seed, 0xB])
    width, height = resolution_wh
    small = _desk(look, rng, resolution_wh)
    rows, cols = small.shape[:2]
    view = camera(look, resolution_wh)
    far = view.project(np.array([0.0, look.desk_edge, 0.0], np.float32))
    floor = float(far[1]) * rows / height
    if floor > 1:
        x = np.arange(cols) + 0.5
        left, right = rng.uniform(0.0, 0.9, 2) * cols
        fall = np.abs(rng.normal(0, 0.12, 2))
        edge = floor + fall[0] * np.maximum(left - x, 0) + fall[1] * np.maximum(x - right, 0)
        below = np.arange(rows, dtype=np.float32)[:, None] + 0.5 - edge.astype(np.float32)
        cover = cv2.GaussianBlur(np.clip(below + 0.5, 0.0, 1.0), (0, 0), 0.7)[..., None]
        behind = _office(rng, cols, rows, floor) * np.asarray(look.tone, np.float32)
        small = small * cover + behind * (1 - cover)
    image = np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
    _clutter(image, rng, width / REFERENCE_WH[0], max(float(far[1]), 0.0))
    image.flags.writeable = False
    return image


@lru_cache(maxsize=4)
def backdrop(look: Look, resolution_wh: tuple[int, int]) -> BgrImage:
    """Desk and office without part and shadow, (H, W, 3) uint8, read-only."""
    return _build_backdrop(look, resolution_wh)


def shadow(look: Look, view: Camera, resolution_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Gain of the part's soft and contact shadow at a quarter of the resolution, (h, w) uint8, 255 is 1."""
    width, height = resolution_wh[0] // 4, resolution_wh[1] // 4
    around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack((np.cos(around), np.sin(around), np.zeros(24)), axis=1)
    away = np.array([np.cos(look.shadow_azimuth), np.sin(look.shadow_azimuth), 0.0])
    gain = np.ones((height, width), np.float32)
    size = look.radius_px * min(resolution_wh[0] / REFERENCE_WH[0], resolution_wh[1] / REFERENCE_WH[1]) / 4
    for reach, radius, blur, share in _SHADOW_LAYERS:
        ground = np.concatenate((circle * radius, circle * radius + away * reach)).astype(np.float32)
        hull = np.asarray(cv2.convexHull(view.project(ground)[:, :2] / 4)[:, 0], np.float32)
        layer = cv2.GaussianBlur(_filled(hull, width, height), (0, 0), max(blur * size, 0.4))
        gain *= 1 - look.shadow_strength * share * layer
    return (255 * gain + 0.5).astype(np.uint8)
