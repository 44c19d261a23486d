"""The look-up-table normalisation against the textbook in floating point."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from adapters.simulation.renderer import CameraStyle, render_canister
from benchmarks.roi import normalize_in_float
from schemas.recipe import NormalizeRecipe
from service.pipeline.normalize import gray_world_luts, normalize_colours


def test_gray_world_table_equals_double_precision() -> None:
    """Each entry is level times gain, rounded and clipped."""
    pixels = np.random.default_rng(3).integers(0, 256, (50, 40, 3), np.uint8)
    inside = np.random.default_rng(4).random((50, 40)) < 0.5
    means = pixels[inside].astype(np.float64).mean(axis=0)
    exact = np.arange(256) * (means.mean() / means)[:, None]
    expected = np.clip(np.rint(exact), 0, 255)
    actual = gray_world_luts(pixels, inside.astype(np.uint8))
    # a product within 1e-9 of a half may round either way
    assert np.abs(actual - expected).max() <= 1
    assert (actual != expected).mean() < 0.01


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_normalised_picture_equals_the_float_formulation(seed: int) -> None:
    """Mean difference below 1.5 grey levels, 99% of the pixels within 6: eight bits of Lab, no more."""
    frame = render_canister(seed, style=CameraStyle.VARIED, resolution_wh=(960, 720))
    rows, columns = np.flatnonzero(frame.mask.any(axis=1)), np.flatnonzero(frame.mask.any(axis=0))
    cut = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    size = round(640 * (columns[-1] + 1 - columns[0]) / (rows[-1] + 1 - rows[0])), 640
    pixels = np.asarray(cv2.resize(frame.bgr[cut], size, interpolation=cv2.INTER_LINEAR), np.uint8)
    inside = cv2.resize(frame.mask[cut].view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    recipe = NormalizeRecipe()
    fast = normalize_colours(pixels, inside, recipe).astype(int)
    exact = normalize_in_float(pixels, inside, recipe).astype(int)
    apart = np.abs(fast - exact)[inside]
    assert apart.mean() < 1.5
    assert np.percentile(apart, 99) <= 6
    np.testing.assert_array_equal(fast[~inside], exact[~inside])
