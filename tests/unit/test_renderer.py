"""The procedural camera: what it draws, and that it tells the truth about it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.simulation.damage import DamageKind, DamageRequest, random_damage
from adapters.simulation.renderer import CameraStyle, RenderedFrame, render_canister

WH = (480, 360)
kinds = pytest.mark.parametrize("kind", list(DamageKind))
styles = pytest.mark.parametrize("style", list(CameraStyle))


def changed(frame: RenderedFrame, clean: RenderedFrame) -> npt.NDArray[np.int16]:
    difference: npt.NDArray[np.int16] = np.abs(frame.bgr.astype(np.int16) - clean.bgr.astype(np.int16)).max(axis=2)
    return difference


@styles
@pytest.mark.parametrize("damage", [None, DamageKind.CRUSHED_RIM])
def test_render_repeats_every_byte_under_the_same_seed(style: CameraStyle, damage: DamageKind | None) -> None:
    """Two calls with one seed give one picture, one mask and the same boxes."""
    first = render_canister(7, damage=damage, style=style, resolution_wh=WH)
    second = render_canister(7, damage=damage, style=style, resolution_wh=WH)
    assert first.bgr.tobytes() == second.bgr.tobytes()
    assert first.mask.tobytes() == second.mask.tobytes()
    assert first.boxes.tolist() == second.boxes.tolist()


@styles
def test_render_differs_between_seeds(style: CameraStyle) -> None:
    """No two parts are the same picture."""
    frames = {render_canister(seed, style=style, resolution_wh=WH).bgr.tobytes() for seed in range(4)}
    assert len(frames) == 4


def test_ok_frame_has_no_boxes() -> None:
    """The empty case: shape (0, 4), no kinds."""
    frame = render_canister(3, resolution_wh=WH)
    assert frame.boxes.shape == (0, 4)
    assert frame.boxes.dtype == np.int32
    assert not frame.kinds


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**40),
    width=st.integers(160, 900),
    height=st.integers(160, 900),
    style=st.sampled_from(CameraStyle),
    damage=st.none() | st.builds(DamageRequest, st.sampled_from(DamageKind), st.floats(0, 1)),
)
def test_render_keeps_its_shapes(
    seed: int, width: int, height: int, style: CameraStyle, damage: DamageRequest | None
) -> None:
    """Any seed, resolution and damage: one connected part and one box for each damage, inside the frame."""
    frame = render_canister(seed, damage=damage, style=style, resolution_wh=(width, height))
    assert frame.bgr.shape == (height, width, 3)
    assert frame.bgr.dtype == np.uint8
    assert frame.mask.shape == (height, width)
    assert frame.mask.dtype == np.bool_
    assert frame.boxes.shape == (len(frame.kinds), 4)
    assert frame.boxes.dtype == np.int32
    assert len(frame.kinds) == (damage is not None)
    for x1, y1, x2, y2 in frame.boxes.tolist():
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
    edge = np.concatenate((frame.mask[[0, -1]].ravel(), frame.mask[:, [0, -1]].ravel()))
    assert not edge.any()
    components, _ = cv2.connectedComponents(frame.mask.astype(np.uint8), connectivity=8)
    assert components == 2  # the background and the part


@kinds
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_damage_lies_in_its_box_and_on_the_part(kind: DamageKind, size: float) -> None:
    """Against the undamaged frame of the same seed, every clear change is inside the box and on the canister."""
    for seed in range(2):
        clean = render_canister(seed, resolution_wh=WH)
        frame = render_canister(seed, damage=DamageRequest(kind, size), resolution_wh=WH)
        difference = changed(frame, clean)
        x1, y1, x2, y2 = frame.boxes[0]
        inside = np.zeros_like(frame.mask)
        inside[y1:y2, x1:x2] = True
        assert not (difference[~inside] > 9).any()  # the box counts changes above 8; rounding adds one
        assert (difference[inside] > 7).any()
        part = cv2.dilate((frame.mask | clean.mask).astype(np.uint8), np.ones((11, 11), np.uint8))
        assert not difference[part == 0].any()


@kinds
def test_damage_shows(kind: DamageKind) -> None:
    """Even the smallest damage changes at least 0.05% of the part, in both styles."""
    for style in CameraStyle:
        for seed in range(2):
            clean = render_canister(seed, style=style, resolution_wh=WH)
            frame = render_canister(seed, damage=DamageRequest(kind, 0.0), style=style, resolution_wh=WH)
            assert (changed(frame, clean) > 6).sum() >= 0.0005 * frame.mask.sum()


@kinds
def test_damage_leaves_brightness_and_pose_alone(kind: DamageKind) -> None:
    """Nothing gives a damaged frame away but the damage: same pose, noise and exposure."""
    clean = render_canister(11, resolution_wh=WH)
    frame = render_canister(11, damage=kind, resolution_wh=WH)
    assert (frame.mask != clean.mask).sum() <= (0.02 if kind is DamageKind.CRUSHED_RIM else 0.002) * clean.mask.sum()
    assert abs(float(frame.bgr.mean()) - float(clean.bgr.mean())) < 0.5


def test_mask_follows_the_part_not_its_shadow() -> None:
    """The mask has the outline of a standing canister with its stem, not that of part and shadow."""
    frame = render_canister(0, resolution_wh=WH)
    rows, cols = np.nonzero(frame.mask)
    height, width = np.ptp(rows) + 1, np.ptp(cols) + 1
    assert 2.0 < height / width < 3.6
    assert 0.6 < frame.mask.sum() / (height * width) < 0.85


def test_station_parts_stand_alike() -> None:
    """Parts of one station overlap: the belt stops them at nearly the same place."""
    masks = [render_canister(seed, resolution_wh=WH).mask for seed in range(3)]
    for mask in masks[1:]:
        assert (mask & masks[0]).sum() / (mask | masks[0]).sum() > 0.6


def test_station_seed_chooses_the_scene() -> None:
    """Another station is another desk."""
    here, there = (render_canister(0, station_seed=station, resolution_wh=WH) for station in (0, 1))
    assert np.abs(here.bgr[:40].astype(int) - there.bgr[:40]).mean() > 3


def test_random_damage_draws_every_kind() -> None:
    """All kinds, sizes from small to large, repeatable."""
    requests = [random_damage(np.random.default_rng(seed)) for seed in range(60)]
    assert {request.kind for request in requests} == set(DamageKind)
    sizes = [request.size for request in requests]
    assert min(sizes) < 0.1
    assert max(sizes) > 0.9
    assert requests[5] == random_damage(np.random.default_rng(5))


def test_damage_request_refuses_a_size_out_of_range() -> None:
    """The message names the size."""
    with pytest.raises(ValueError, match=r"1\.5"):
        DamageRequest(DamageKind.DENT, 1.5)


def test_render_refuses_a_tiny_frame() -> None:
    """Below 160 pixels a side nothing could be inspected."""
    with pytest.raises(ValueError, match="160"):
        render_canister(0, resolution_wh=(320, 100))
