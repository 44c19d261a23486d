"""Random numbers that surfaces, damage and light are made of."""

from __future__ import annotations

import cv2
import numpy as np

from service.pipeline.types import FloatArray

_FEWEST = 4
_FINEST_SIGMA = 2.5
"""Smoother noise than this, in pixels, is made on a coarser grid and enlarged: ten times faster, looks the same."""


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a number between `low` and `high` whose logarithm is evenly distributed: scales and strengths."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def smooth_noise(
    rng: np.random.Generator, side: int, sigma_xy: tuple[float, float], degrees: float = 0.0
) -> FloatArray:
    """Return Gaussian noise (side, side) float32, mean 0 and spread 1, blurred by sigma_xy px and turned."""
    span = round(1.5 * side) if degrees else side
    coarser = 1
    while min(sigma_xy) / coarser >= _FINEST_SIGMA:
        coarser *= 2
    cells = max(span // coarser, _FEWEST)
    noise: FloatArray = rng.standard_normal((cells, cells), np.float32)
    sigma_x, sigma_y = (max(sigma / coarser, 0.1) for sigma in sigma_xy)
    noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=sigma_x, sigmaY=sigma_y), np.float32)
    if coarser > 1:
        noise = np.asarray(cv2.resize(noise, (span, span), interpolation=cv2.INTER_CUBIC), np.float32)
    if degrees:
        turn = np.asarray(cv2.getRotationMatrix2D((span / 2, span / 2), degrees, 1), np.float64)
        turn[:, 2] -= (span - side) / 2
        noise = np.asarray(cv2.warpAffine(noise, turn, (side, side), borderMode=cv2.BORDER_REFLECT_101), np.float32)
    return np.asarray((noise - noise.mean()) / (noise.std() + 1e-6), np.float32)


def even_noise(rng: np.random.Generator, side: int, sigma: float) -> FloatArray:
    """Return `smooth_noise` that is alike in every direction."""
    return smooth_noise(rng, side, (sigma, sigma))
