"""The canister as a surface of revolution: profile, grid of surface points, projection and rasterisation.

Lengths are in body radii. World axes: x to the right, y away from the camera, z up from the desk; the canister stands
on the origin and azimuth 0 faces the camera. The surface is sampled on a grid of `rows` (along the profile, base to
stem) and `cols` (azimuth -pi..pi, denser at the front); grid arrays are float32 and unpack as `rows, cols[, 3]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from service.pipeline.types import FloatArray

# radius, height, gloss (0 brushed, 1 mirror), openness (share of the surroundings that is not hidden by the part
# itself), row density. Read off two photos of bare inhaler canisters.
_PROFILE = np.array(
    [
        (0.900, 0.000, 0.10, 0.30, 3.0),
        (0.950, 0.012, 0.15, 0.45, 3.0),
        (0.985, 0.050, 0.15, 0.75, 3.0),
        (1.000, 0.130, 0.10, 0.90, 2.2),
        (1.000, 0.500, 0.05, 1.00, 2.0),
        (1.000, 1.400, 0.05, 1.00, 2.0),
        (1.000, 2.300, 0.05, 1.00, 2.0),
        (1.000, 2.620, 0.08, 1.00, 2.2),
        (0.998, 2.700, 0.40, 1.00, 2.5),
        (0.985, 2.790, 0.80, 1.00, 3.0),
        (0.955, 2.875, 0.95, 1.00, 3.0),
        (0.920, 2.945, 0.95, 0.98, 3.0),
        (0.900, 3.000, 0.95, 0.92, 3.0),
        (0.888, 3.050, 0.95, 0.92, 3.0),
        (0.862, 3.130, 0.95, 0.92, 3.0),
        (0.828, 3.230, 0.92, 0.88, 3.0),
        (0.800, 3.310, 0.90, 0.75, 3.0),
        (0.790, 3.370, 0.85, 0.45, 3.0),
        (0.856, 3.380, 0.25, 0.80, 4.0),
        (0.860, 3.395, 0.25, 0.95, 4.0),
        (0.836, 3.470, 0.30, 0.98, 3.5),
        (0.815, 3.530, 0.55, 0.80, 3.5),
        (0.804, 3.580, 0.40, 0.60, 3.0),
        (0.825, 3.625, 0.30, 0.60, 3.0),
        (0.890, 3.670, 0.30, 0.72, 3.0),
        (0.945, 3.720, 0.30, 0.90, 3.0),
        (0.965, 3.800, 0.30, 1.00, 2.5),
        (0.966, 3.960, 0.30, 1.00, 2.5),
        (0.956, 4.035, 0.40, 1.00, 3.5),
        (0.925, 4.085, 0.45, 1.00, 3.5),
        (0.870, 4.100, 0.45, 1.00, 3.0),
        (0.800, 4.085, 0.50, 0.95, 3.0),
        (0.755, 4.035, 0.60, 0.70, 3.0),
        (0.740, 3.950, 0.70, 0.50, 2.5),
        (0.715, 3.905, 0.70, 0.50, 2.5),
        (0.650, 3.895, 0.60, 0.62, 2.5),
        (0.620, 3.870, 0.60, 0.60, 2.5),
        (0.490, 3.875, 0.60, 0.45, 2.5),
        (0.462, 3.900, 0.70, 0.45, 3.0),
        (0.456, 3.990, 0.85, 0.80, 3.0),
        (0.440, 4.070, 0.80, 0.75, 3.0),
        (0.418, 4.120, 0.60, 0.60, 3.0),
        (0.432, 4.170, 0.55, 0.75, 3.0),
        (0.478, 4.215, 0.55, 0.95, 3.0),
        (0.494, 4.265, 0.55, 1.00, 3.0),
        (0.486, 4.315, 0.60, 1.00, 3.5),
        (0.455, 4.338, 0.60, 1.00, 3.5),
        (0.420, 4.325, 0.60, 0.85, 3.5),
        (0.402, 4.295, 0.60, 0.65, 3.0),
        (0.380, 4.290, 0.55, 0.80, 2.0),
        (0.180, 4.290, 0.55, 0.75, 2.0),
        (0.138, 4.292, 0.60, 0.45, 2.5),
        (0.132, 4.330, 0.75, 0.70, 2.0),
        (0.130, 4.500, 0.90, 0.80, 1.0),
        (0.130, 5.000, 0.90, 0.85, 1.0),
        (0.127, 5.050, 0.85, 1.00, 2.5),
        (0.110, 5.080, 0.85, 1.00, 3.0),
        (0.085, 5.085, 0.85, 0.90, 3.0),
        (0.065, 5.070, 0.80, 0.35, 3.0),
        (0.055, 4.980, 0.60, 0.04, 2.0),
        (0.010, 4.950, 0.30, 0.02, 2.0),
    ],
    dtype=np.float64,
)
Box = tuple[int, int, int, int]
"""xyxy in frame pixels, exclusive x2 and y2."""

SKIRT_Z = 3.395  # the flared edge under the ring, with fine pleats
CRIMP_Z = 4.03  # the waist of the ferrule, pressed in segments
RING_Z = (3.60, 4.10)
BODY_Z = (0.15, 2.62)
LEAN_Z = 3.9  # above this height the valve may lean


def _rounded(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cut the corners of a polyline, twice. Source: Chaikin, "An algorithm for high-speed curve generation", 1974."""
    for _ in range(2):
        head, tail = points[:-1], points[1:]
        cut = np.stack((0.75 * head + 0.25 * tail, 0.25 * head + 0.75 * tail), axis=1).reshape(-1, points.shape[1])
        points = np.concatenate((points[:1], cut, points[-1:]))
    return points


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile sampled at `rows` points: radius, height, gloss, openness and arc length, each (rows,) float32."""

    radius: FloatArray
    height: FloatArray
    gloss: FloatArray
    openness: FloatArray
    arc: FloatArray

    def row_at(self, height: float) -> int:
        """First row on the outer wall that is at least this high."""
        return int(np.argmax(self.height >= height))


@lru_cache(maxsize=16)
def profile(rows: int) -> Profile:
    """The profile of the part at `rows` samples, denser where it curves."""
    points = _rounded(_PROFILE)
    steps = np.hypot(np.diff(points[:, 0]), np.diff(points[:, 1]))
    density = 0.5 * (points[1:, 4] + points[:-1, 4])
    knots = np.concatenate(([0.0], np.cumsum(steps * density)))
    arc = np.concatenate(([0.0], np.cumsum(steps)))
    at = np.linspace(0.0, knots[-1], rows)
    columns = [np.interp(at, knots, values).astype(np.float32) for values in (*points[:, :4].T, arc)]
    return Profile(*columns)


@lru_cache(maxsize=16)
def azimuths(cols: int) -> FloatArray:
    """(cols,) float32 azimuths from -pi to pi, about twice as dense at the front as at the sides."""
    u = np.linspace(-1.0, 1.0, cols)
    return (np.pi * (0.5 * u + 0.5 * u**3)).astype(np.float32)


def surface_points(rows: int, cols: int, lean_xy: tuple[float, float]) -> FloatArray:
    """Points of the undamaged surface, (rows, cols, 3) float32; `lean_xy` is the slope of the valve."""
    shape, azimuth = profile(rows), azimuths(cols)
    skirt = 0.0020 * np.exp(-(((shape.height - SKIRT_Z - 0.02) / 0.05) ** 2)) * (shape.radius > 0.8)
    crimp = 0.004 * np.exp(-(((shape.height - CRIMP_Z) / 0.03) ** 2)) * (np.abs(shape.radius - 0.45) < 0.03)
    pleats = np.cos(61 * azimuth + 1.5 * np.sin(5 * azimuth)) + 0.7 * np.cos(37 * azimuth + 1.0)
    segments = np.tanh(4 * np.cos(15 * azimuth) + 2.5)
    radius = shape.radius[:, None] + np.outer(skirt, pleats) + np.outer(crimp, segments)
    rise = np.maximum(shape.height - LEAN_Z, 0.0)
    points = np.empty((rows, cols, 3), np.float32)
    points[..., 0] = radius * np.sin(azimuth) + (lean_xy[0] * rise)[:, None]
    points[..., 1] = -radius * np.cos(azimuth) + (lean_xy[1] * rise)[:, None]
    points[..., 2] = shape.height[:, None]
    return points


def _along(points: FloatArray, axis: int) -> FloatArray:
    """Central differences along a grid axis, one-sided at its ends (a closed seam is smooth enough behind)."""
    result = np.empty_like(points)
    moved, out = np.moveaxis(points, axis, 0), np.moveaxis(result, axis, 0)
    np.subtract(moved[2:], moved[:-2], out=out[1:-1])
    out[0], out[-1] = out[1], out[-2]
    return result


def normals(points: FloatArray) -> FloatArray:
    """Unit outward normals of a grid of points, (rows, cols, 3) float32."""
    up, round_ = _along(points, 0), _along(points, 1)
    normal = np.empty_like(points)
    for axis, (b, c) in enumerate(((1, 2), (2, 0), (0, 1))):
        normal[..., axis] = round_[..., b] * up[..., c] - round_[..., c] * up[..., b]
    length = np.sqrt(np.einsum("rck,rck->rc", normal, normal))
    normal /= np.maximum(length, 1e-9)[..., None]
    return normal


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera over the desk.

    position: (3,) world; rotation: (3, 3), rows are right, down, forward; focal_px; centre_xy: where the optical axis
    meets the frame, in pixels (off the middle: the lens is shifted rather than turned).
    """

    position: FloatArray
    rotation: FloatArray
    focal_px: float
    centre_xy: tuple[float, float]

    def project(self, points: FloatArray) -> FloatArray:
        """World points (..., 3) to x px, y px and depth, (..., 3) float32."""
        seen = (points - self.position) @ self.rotation.T
        depth = seen[..., 2:]
        pixels = seen[..., :2] * (self.focal_px / depth) + np.asarray(self.centre_xy, np.float32)
        return np.concatenate((pixels, depth), axis=-1).astype(np.float32)


@lru_cache(maxsize=8)
def _triangles(rows: int, cols: int) -> npt.NDArray[np.int32]:
    corner = (np.arange(rows - 1)[:, None] * cols + np.arange(cols - 1)).ravel()
    lower = np.stack((corner, corner + 1, corner + cols), axis=1)
    upper = np.stack((corner + 1, corner + cols + 1, corner + cols), axis=1)
    return np.concatenate((lower, upper)).astype(np.int32)


MESH_ROWS, MESH_COLS = 170, 113


def rasterize(points: FloatArray, camera: Camera, box: Box, zoom: int) -> FloatArray:
    """Which surface point each pixel of a box sees.

    points: (rows, cols, 3) world. box: xyxy in frame pixels; the result has `zoom` samples a pixel each way. Returns
    (height * zoom, width * zoom, 3) float32: column (0..1), row (0..1), azimuth in turns (0..1); -1 where empty.
    """
    rows, cols, _ = points.shape
    row_index = np.linspace(0, rows - 1, MESH_ROWS).round().astype(np.intp)
    col_index = np.linspace(0, cols - 1, MESH_COLS).round().astype(np.intp)
    seen = camera.project(points[np.ix_(row_index, col_index)])
    width, height = (box[2] - box[0]) * zoom, (box[3] - box[1]) * zoom
    fov_y = 0.5
    focal = 0.5 * height / np.tan(0.5 * fov_y)
    depth = seen[..., 2]
    vertices = np.empty_like(seen)
    vertices[..., 0] = ((seen[..., 0] - box[0]) * zoom - 0.5 * width) * depth / focal
    vertices[..., 1] = ((seen[..., 1] - box[1]) * zoom - 0.5 * height) * -depth / focal
    vertices[..., 2] = -depth
    where = np.empty_like(seen)
    where[..., 0] = col_index / (cols - 1)
    where[..., 1] = (row_index / (rows - 1))[:, None]
    where[..., 2] = azimuths(cols)[col_index] / (2 * np.pi) + 0.5
    image = np.full((height, width, 3), -1.0, np.float32)
    buffer = np.full((height, width), float(depth.max()) * 1.5, np.float32)
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_CW)
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    cv2.triangleRasterize(
        vertices.reshape(-1, 3),
        _triangles(MESH_ROWS, MESH_COLS),
        where.reshape(-1, 3),
        image,
        buffer,
        np.eye(4, dtype=np.float32),
        fov_y,
        float(depth.min()) * 0.5,
        float(depth.max()) * 1.5,
        settings,
    )
    return image
