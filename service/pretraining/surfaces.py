"""Surfaces as a camera may meet them: squares (side, side, 3) float32 BGR, 0..1.

Photos bring real edges and colours; noise with the spectrum of a photo, brushed metal and gratings bring textures that
go on for ever; dead leaves bring occlusion at every scale. Dead leaves: Lee, Mumford and Huang, "Occlusion models for
natural images", 2001; learning from them and from spectra: Baradad et al., "Learning to see by looking at noise", arXiv
2106.05963.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from service.pipeline.types import FloatArray
from service.pretraining.noise import even_noise, log_uniform, smooth_noise
from service.pretraining.photos import Photos

Rng = np.random.Generator


def surface(rng: Rng, side: int, photos: Photos) -> FloatArray:
    """Return one surface of any kind, often in grey, sometimes with a second texture or things drawn on it."""
    makers: tuple[Callable[[], FloatArray], ...] = (
        lambda: photo_crop(rng, side, photos),
        lambda: photo_spectrum(rng, rng, side, photos),
        lambda: brushed_metal(rng, rng, side),
        lambda: dead_leaves(rng, side, photos),
        lambda: grating(rng, side),
    )
    image = makers[rng.choice(len(makers), p=(0.30, 0.18, 0.32, 0.10, 0.10))]()
    if rng.random() < 0.25:
        second = photo_spectrum(rng, rng, side, photos) if rng.random() < 0.5 else brushed_metal(rng, rng, side)
        image = image + (second - second.mean()) * rng.uniform(0.2, 1)
    if rng.random() < 0.35:
        image = _with_features(rng, image)
    if rng.random() < 0.6:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    elif rng.random() < 0.3:
        image = image * rng.uniform(0.8, 1.2, 3).astype(np.float32)
    return np.clip(image, 0, 1).astype(np.float32)


def stationary(rng: Rng, photos: Photos, side: int) -> Callable[[Rng], FloatArray]:
    """Return a maker of surfaces that have a texture in common and nothing else: other parts of one production."""
    seed, brushed = int(rng.integers(2**62)), bool(rng.random() < 0.65)

    def make(draw: Rng) -> FloatArray:
        same = np.random.default_rng(seed)
        image = brushed_metal(same, draw, side) if brushed else photo_spectrum(same, draw, side, photos)
        return np.clip(image, 0, 1).astype(np.float32)

    return make


def photo_crop(rng: Rng, side: int, photos: Photos) -> FloatArray:
    """Return a square out of a photo."""
    image = photos.pick(rng)
    shorter = min(image.shape[:2])
    crop = _random_crop(rng, image, int(rng.integers(min(80, shorter), shorter + 1)))
    shrinks = crop.shape[0] > side
    resized = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(resized, np.float32)


def photo_spectrum(rng: Rng, draw: Rng, side: int, photos: Photos) -> FloatArray:
    """Return noise with the amplitude spectrum of a piece of a photo. rng: which spectrum; draw: which phases."""
    image = photos.pick(rng)
    piece = _random_crop(rng, image, min(int(rng.integers(48, 128)), *image.shape[:2])).mean(axis=2)
    level, spread = float(piece.mean()), max(float(piece.std()) * rng.uniform(0.3, 1), 0.015)
    window = np.outer(*[np.hanning(len(piece))] * 2)
    amplitude = np.abs(np.fft.rfft2((piece - level) * window, (side, side)))
    texture = np.fft.irfft2(amplitude * np.exp(2j * np.pi * draw.random(amplitude.shape)), (side, side))
    texture = (texture - texture.mean()) / (texture.std() + 1e-6)
    return _grey(np.clip(level, 0.25, 0.7) + texture * spread)


def brushed_metal(rng: Rng, draw: Rng, side: int) -> FloatArray:
    """Return streaks of several widths in one direction. rng: which streaks; draw: where they lie."""
    degrees = float(rng.choice([0.0, 90.0, rng.uniform(0, 180)]))
    grain = np.zeros((side, side), np.float32)
    for _ in range(rng.integers(1, 4)):
        width, weight = log_uniform(rng, 0.3, 3), rng.uniform(0.2, 1)
        length = width * log_uniform(rng, 1, 60) if rng.random() < 0.8 else width
        grain += weight * smooth_noise(draw, side, (width, length), degrees)
    if rng.random() < 0.4:
        grain = np.sign(grain) * np.abs(grain) ** np.float32(rng.uniform(0.6, 1.8))
    if rng.random() < 0.3:
        grain += np.float32(rng.uniform(0.1, 0.6)) * even_noise(draw, side, 0.3)
    return _grey(rng.uniform(0.2, 0.7) + grain / grain.std() * log_uniform(rng, 0.01, 0.12))


def dead_leaves(rng: Rng, side: int, photos: Photos) -> FloatArray:
    """Return opaque shapes on top of each other, as many small ones as scale invariance asks for."""
    colours = photos.pick(rng).reshape(-1, 3)
    middle, contrast, grey = colours.mean(axis=0), log_uniform(rng, 0.1, 1), rng.random() < 0.5
    smallest, kind = log_uniform(rng, 2, 12), int(rng.integers(4))
    image = np.full((side, side, 3), rng.uniform(0.2, 0.7), np.float32)
    for _ in range(int(rng.integers(60, 400))):
        radius = min(smallest * rng.random() ** -0.7, 0.4 * side)
        colour = middle + contrast * (colours[rng.integers(len(colours))] - middle)
        if grey:
            colour = np.repeat(colour.mean(), 3)
        _leaf(rng, image, radius, tuple(map(float, colour)), int(rng.integers(3)) if kind == 3 else kind)
    return np.asarray(image + even_noise(rng, side, 0.5)[..., None] * rng.uniform(0, 0.03), np.float32)


def _leaf(rng: Rng, image: FloatArray, radius: float, colour: tuple[float, ...], kind: int) -> None:
    x, y = rng.uniform(0, len(image), 2)
    if kind == 0:
        cv2.circle(image, (int(8 * x), int(8 * y)), int(8 * radius), colour, -1, cv2.LINE_AA, 3)
    elif kind == 1:
        size = (2 * radius, 2 * radius * rng.uniform(0.2, 1))
        cv2.ellipse(image, ((x, y), size, rng.uniform(0, 180)), colour, -1, cv2.LINE_AA)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        corners = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
        cv2.fillPoly(image, [np.asarray(8 * corners, np.int32)], colour, cv2.LINE_AA, 3)


def grating(rng: Rng, side: int) -> FloatArray:
    """Return one or two crossing gratings, from soft waves to a mesh: knurled, milled or woven."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    image, angle = np.zeros((side, side), np.float32), rng.uniform(0, np.pi)
    for _ in range(rng.integers(1, 3)):
        along = x * np.cos(angle) + y * np.sin(angle)
        waver = even_noise(rng, side, 20.0) * rng.uniform(0, 0.6)
        wave = np.sin(2 * np.pi * along / log_uniform(rng, 5, 40) + rng.uniform(0, 2 * np.pi) + waver)
        image += np.tanh(wave * log_uniform(rng, 0.5, 8))
        angle += np.pi / 2 + rng.normal(0, 0.1)
    fine = even_noise(rng, side, 0.6) * rng.uniform(0.005, 0.05)
    return _grey(image / image.std() * log_uniform(rng, 0.02, 0.15) + fine + rng.uniform(0.25, 0.7))


def _with_features(rng: Rng, image: FloatArray) -> FloatArray:
    """Return the surface with a few things that belong to it: seams, steps, rings, letters, panels."""
    side = len(image)
    for _ in range(rng.integers(1, 5)):
        drawn, (x, y) = np.zeros((side, side), np.uint8), rng.uniform(0, side, 2).astype(int).tolist()
        kind = int(rng.integers(5))
        if kind == 0:
            angle = rng.uniform(0, np.pi) if rng.random() < 0.3 else float(rng.choice([0, np.pi / 2]))
            dx, dy = int(2 * side * np.cos(angle)), int(2 * side * np.sin(angle))
            cv2.line(drawn, (x - dx, y - dy), (x + dx, y + dy), 255, int(rng.integers(1, 9)), cv2.LINE_AA)
        elif kind == 1:
            drawn[:, :x] = 255
        elif kind == 2:
            cv2.circle(drawn, (x, y), int(log_uniform(rng, 8, 60)), 255, int(rng.choice([-1, 2, 4])), cv2.LINE_AA)
        elif kind == 3:
            text = "".join(chr(letter) for letter in rng.integers(65, 91, 4))
            thickness = int(rng.integers(1, 4))
            cv2.putText(drawn, text, (x // 2, y), 0, rng.uniform(0.5, 1.6), 255, thickness, cv2.LINE_AA)
        else:
            far = (x + int(log_uniform(rng, 10, 90)), y + int(log_uniform(rng, 10, 90)))
            cv2.rectangle(drawn, (x, y), far, 255, int(rng.choice([-1, 2])), cv2.LINE_AA)
        soft = cv2.GaussianBlur(drawn.astype(np.float32) / 255, (0, 0), log_uniform(rng, 0.4, 3))
        image = image + np.asarray(soft, np.float32)[..., None] * np.float32(rng.normal(0, 0.15))
    return image


def _random_crop(rng: Rng, image: FloatArray, side: int) -> FloatArray:
    top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _grey(image: np.ndarray) -> FloatArray:
    return np.repeat(image.astype(np.float32)[..., None], 3, axis=2)
