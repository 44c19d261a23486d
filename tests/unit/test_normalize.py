"""Photometric normalisation: geometry, neutral white, and that nothing outside the mask counts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.recipe import NormalizeRecipe
from service.errors import RoiNotFound
from service.pipeline.normalize import NEUTRAL, gray_world_gains, gray_world_luts, normalize
from service.pipeline.types import BgrImage, Roi

PLAIN = NormalizeRecipe(side=160, gray_world=False, clahe_clip=0)


def roi_of_box(frame_wh: tuple[int, int], xyxy: tuple[int, int, int, int]) -> Roi:
    """Return a ROI whose mask is the whole of its box."""
    width, height = frame_wh
    mask = np.zeros((height, width), np.bool_)
    x1, y1, x2, y2 = xyxy
    mask[y1:y2, x1:x2] = True
    return Roi(mask, xyxy, "test")


def textured(frame_wh: tuple[int, int], seed: int = 0) -> BgrImage:
    """Return a frame of smooth coloured noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (frame_wh[1], frame_wh[0], 3), np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.0), np.uint8)


@pytest.mark.parametrize("xyxy", [(50, 20, 90, 140), (0, 0, 200, 30), (199, 0, 200, 160), (10, 100, 60, 160)])
@pytest.mark.parametrize("side", [160, 518, 97])
def test_normalize_is_a_square_of_the_side_asked_for(xyxy: tuple[int, int, int, int], side: int) -> None:
    """Tall, wide, thin, at the border: always side x side, the part in it, neutral grey around."""
    recipe = NormalizeRecipe(side=side)
    normalized = normalize(textured((200, 160)), roi_of_box((200, 160), xyxy), recipe)
    assert normalized.bgr.shape == (side, side, 3)
    assert normalized.mask.shape == (side, side)
    assert normalized.mask.any()
    assert (normalized.bgr[~normalized.mask] == NEUTRAL).all()


@settings(max_examples=60)
@given(st.data())
def test_normalize_maps_back_exactly(data: st.DataObject) -> None:
    """A pixel (x, y) of the square lies at origin + (x, y) / scale in the frame, whatever the ROI."""
    width, height = 240, 180
    x1, y1 = data.draw(st.integers(0, width - 8)), data.draw(st.integers(0, height - 8))
    x2, y2 = data.draw(st.integers(x1 + 6, width)), data.draw(st.integers(y1 + 6, height))
    side = data.draw(st.sampled_from([160, 224, 640]))
    roi = roi_of_box((width, height), (x1, y1, x2, y2))
    # Two ramps: the colour of a pixel says where in the frame it comes from.
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    frame = np.dstack([columns, rows, np.zeros_like(rows)]).astype(np.uint8)
    recipe = NormalizeRecipe(side=side, gray_world=False, clahe_clip=0)
    normalized = normalize(frame, roi, recipe)
    ys, xs = np.nonzero(normalized.mask)
    at_x = normalized.origin_xy[0] + (xs + 0.5) / normalized.scale - 0.5
    at_y = normalized.origin_xy[1] + (ys + 0.5) / normalized.scale - 0.5
    # Interpolation replicates beyond the crop, so the outermost pixel of a side may be half a source pixel off.
    tolerance = 0.5 + 0.5 / min(normalized.scale, 1.0) + 0.01
    assert np.abs(normalized.bgr[ys, xs, 0].astype(float) - at_x).max() <= tolerance
    assert np.abs(normalized.bgr[ys, xs, 1].astype(float) - at_y).max() <= tolerance
    expected = ((x2 - x1) * normalized.scale, (y2 - y1) * normalized.scale)
    assert (xs.max() - xs.min() + 1, ys.max() - ys.min() + 1) == pytest.approx(expected, abs=1.01)


def test_normalize_fills_the_square_with_the_longer_side() -> None:
    """The longer side of the ROI takes nearly all of the square."""
    normalized = normalize(textured((400, 300)), roi_of_box((400, 300), (100, 20, 180, 280)), PLAIN)
    assert np.ptp(np.nonzero(normalized.mask)[0]) + 1 >= 160 * 0.92


def test_normalize_ignores_what_is_outside_the_mask() -> None:
    """Another table, another light behind the part: the same picture, bit for bit."""
    frame, other = textured((320, 240), seed=1), textured((320, 240), seed=2)
    mask = np.zeros((240, 320), np.uint8)
    cv2.ellipse(mask, (160, 120), (50, 100), 0, 0, 360, 1, cv2.FILLED)
    roi = Roi(mask.astype(np.bool_), (110, 20, 211, 221), "test")
    # Resizing mixes neighbours, so a margin of the part itself stays the same in both.
    margin = cv2.dilate(mask, np.ones((9, 9), np.uint8))[..., None] > 0
    one = normalize(frame, roi, NormalizeRecipe(side=160))
    two = normalize(np.where(margin, frame, other), roi, NormalizeRecipe(side=160))
    np.testing.assert_array_equal(one.bgr, two.bgr)


def test_normalize_makes_the_mean_of_the_part_grey() -> None:
    """Warm light is taken out by the part's own colours."""
    frame = np.clip(textured((200, 200)) * np.array([0.6, 0.9, 1.1]), 0, 255).astype(np.uint8)
    roi = roi_of_box((200, 200), (40, 40, 160, 160))
    normalized = normalize(frame, roi, NormalizeRecipe(side=160, clahe_clip=0))
    means = normalized.bgr[normalized.mask].mean(axis=0)
    assert np.ptp(frame[roi.mask].mean(axis=0)) > 30
    assert np.ptp(means) < 1.5


def test_normalize_brings_out_faint_texture() -> None:
    """CLAHE raises local contrast; without it the picture stays as it is."""
    frame = (118 + textured((200, 200)) // 32).astype(np.uint8)
    roi = roi_of_box((200, 200), (20, 20, 180, 180))
    flat = normalize(frame, roi, PLAIN)
    raised = normalize(frame, roi, PLAIN.model_copy(update={"clahe_clip": 2.0}))
    assert raised.bgr[raised.mask].std() > 1.3 * flat.bgr[flat.mask].std()


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (0, 0, 200), (0, 1, 0)])
def test_normalize_survives_a_part_of_one_colour(colour: tuple[int, int, int]) -> None:
    """A black, blown-out or single-channel part has no grey world; nothing divides by zero."""
    frame = np.full((60, 60, 3), colour, np.uint8)
    normalized = normalize(frame, roi_of_box((60, 60), (10, 10, 50, 50)), NormalizeRecipe(side=160))
    assert normalized.mask.any()


def test_normalize_refuses_an_empty_mask() -> None:
    """There is nothing to normalise."""
    empty = Roi(np.zeros((20, 20), np.bool_), (0, 0, 0, 0), "test")
    with pytest.raises(RoiNotFound):
        normalize(textured((20, 20)), empty, PLAIN)
    with pytest.raises(RoiNotFound):
        normalize(textured((20, 20)), Roi(empty.mask, (5, 5, 15, 15), "test"), PLAIN)


def test_normalize_does_not_change_its_arguments() -> None:
    """The frame is shown to people afterwards."""
    frame, roi = textured((100, 80)), roi_of_box((100, 80), (0, 0, 100, 80))
    before = frame.copy()
    normalize(frame, roi, NormalizeRecipe(side=160))
    np.testing.assert_array_equal(frame, before)
    assert roi.mask.all()


def test_gray_world_gains_make_means_equal() -> None:
    """Each gain is the mean of the means over the channel's mean, within limits."""
    assert gray_world_gains((50.0, 100.0, 150.0)) == pytest.approx((2.0, 1.0, 2 / 3))
    assert gray_world_gains((0.0, 0.0, 0.0)) == (1.0, 1.0, 1.0)
    assert gray_world_gains((1.0, 200.0, 0.0)) == pytest.approx((4.0, 67 / 200, 1.0))


def test_gray_world_luts_use_only_pixels_with_weight() -> None:
    """A red table does not make the part blue."""
    pixels = np.full((4, 4, 3), 100, np.uint8)
    pixels[:2] = (0, 0, 255)
    weight = np.zeros((4, 4), np.uint8)
    weight[2:] = 1
    tables = gray_world_luts(pixels, weight)
    np.testing.assert_array_equal(tables, np.tile(np.arange(256, dtype=np.uint8), (3, 1)))


@pytest.mark.parametrize("frame_wh", [(200_000, 1), (1, 200_000), (64_000, 500)])
def test_normalize_refuses_a_part_that_would_be_padded_without_end(frame_wh: tuple[int, int]) -> None:
    """A small file may hold a line of pixels: it must not cost gigabytes before nothing is left of it."""
    width, height = frame_wh
    frame, mask = np.broadcast_to(np.uint8(90), (height, width, 3)), np.broadcast_to(np.True_, (height, width))
    with pytest.raises(RoiNotFound, match=f"{width} x {height} pixels are far too long"):
        normalize(frame, Roi(mask, (0, 0, width, height), "none"), NormalizeRecipe())


def test_normalize_takes_long_parts() -> None:
    """A rod that fills its frame, and one pixel of width within a frame of the usual shape."""
    frame = textured((1600, 25))
    assert normalize(frame, roi_of_box((1600, 25), (0, 0, 1600, 25)), NormalizeRecipe()).mask.any()
    frame = textured((1600, 1200))
    assert normalize(frame, roi_of_box((1600, 1200), (0, 600, 1600, 604)), NormalizeRecipe()).mask.any()
