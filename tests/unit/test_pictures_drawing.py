"""Pictures for people."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from service.evaluation.pictures import (
    DAMAGED_BGR,
    HEADLINE_HEIGHT,
    OK_BGR,
    comparison_picture,
    draw_boxes,
    draw_heatmap,
    draw_roi,
    mask_picture,
)
from service.pipeline.types import DamageBox, Frame, Inspection, NormalizedRoi, Prepared, Roi, StageTimes

NO_BOXES = np.empty((0, 4), np.int32)


def inspection(*, damaged: bool, wh: tuple[int, int] = (200, 150)) -> Inspection:
    """Return what a pipeline might say about a plain frame, with a box at its left upper corner where damaged."""
    frame = Frame(np.full((wh[1], wh[0], 3), 128, np.uint8))
    mask = np.zeros((wh[1], wh[0]), bool)
    mask[20:120, 40:100] = True
    normalized = NormalizedRoi(np.full((64, 64, 3), 90, np.uint8), np.ones((64, 64), bool), (30.0, 20.0), 0.64)
    return Inspection(
        prepared=Prepared(frame, Roi(mask, (40, 20, 100, 120), "fixed"), normalized, StageTimes()),
        score=0.8 if damaged else 0.2,
        threshold=0.5,
        damaged=damaged,
        uncertain=False,
        boxes=(DamageBox((0, 0, 20, 10), 0.9),) if damaged else (),
        anomaly_map=np.zeros((8, 8), np.float32),
        times=StageTimes(),
    )


def test_mask_picture_is_black_and_white_over_the_full_frame() -> None:
    """255 on the canister, 0 elsewhere, in the size of the frame."""
    roi = inspection(damaged=False).prepared.roi
    picture = mask_picture(roi)
    assert picture.shape == (150, 200)
    np.testing.assert_array_equal(picture == 255, roi.mask)
    np.testing.assert_array_equal(picture == 0, ~roi.mask)


@pytest.mark.parametrize(("damaged", "colour"), [(True, DAMAGED_BGR), (False, OK_BGR)])
def test_comparison_has_a_line_in_the_colour_of_its_decision(damaged: bool, colour: tuple[int, int, int]) -> None:
    """The line under the words runs the whole width, green for OK and red for DAMAGED, as do the words."""
    picture = comparison_picture(inspection(damaged=damaged), "part.png")
    line = picture[HEADLINE_HEIGHT - 5]
    assert (line == colour).all()
    assert (picture[: HEADLINE_HEIGHT - 10] == colour).all(axis=2).any()


@pytest.mark.parametrize("wh", [(121, 121), (3000, 121), (121, 2000)])
def test_comparison_takes_frames_of_any_shape(wh: tuple[int, int]) -> None:
    """Small, wide and tall frames: the ROI stands left, the frame right, in one height."""
    picture = comparison_picture(inspection(damaged=True, wh=wh), "a rather long title " * 5)
    assert picture.shape[0] == HEADLINE_HEIGHT + 720
    assert picture.shape[1] == 720 + 12 + max(1, round(wh[0] * 720 / wh[1]))


def test_drawing_leaves_the_frame_as_it_was() -> None:
    """The frame still goes to others; without boxes a copy comes back."""
    frame = np.full((60, 80, 3), 128, np.uint8)
    before = frame.copy()
    drawn = draw_boxes(frame, np.array([[10, 10, 30, 30]], np.int32), [0.5])
    outlined = draw_roi(frame, Roi(np.eye(60, 80, dtype=bool), (0, 0, 60, 60), "fixed"))
    np.testing.assert_array_equal(frame, before)
    assert (drawn != before).any()
    assert (outlined != before).any()
    np.testing.assert_array_equal(draw_boxes(frame, NO_BOXES), before)


def test_boxes_are_drawn_up_to_the_edges_of_the_frame() -> None:
    """A box over the whole frame, tags included, stays inside and visible."""
    drawn = draw_boxes(np.full((90, 120, 3), 128, np.uint8), np.array([[0, 0, 120, 90]], np.int32), [1.25])
    assert (drawn[[0, -1]] != 128).any(axis=2).all()
    assert (drawn[:, [0, -1]] != 128).any(axis=2).all()


def test_heatmap_glows_where_the_anomaly_lies() -> None:
    """One hot cell of the map colours its place in the frame and nothing else."""
    frame = np.full((100, 100, 3), 128, np.uint8)
    anomaly_map = np.zeros((10, 10), np.float32)
    anomaly_map[3, 7] = 1.0
    drawn = draw_heatmap(frame, anomaly_map, (0.0, 0.0, 100.0, 100.0), tau=0.5)
    moments = cv2.moments((drawn != frame).any(axis=2).astype(np.uint8), binaryImage=True)
    assert moments["m10"] / moments["m00"] == pytest.approx(74.5, abs=1.5)
    assert moments["m01"] / moments["m00"] == pytest.approx(34.5, abs=1.5)


def test_heatmap_of_an_empty_map_changes_nothing() -> None:
    """A map without cells, or without distance, leaves the frame as it is."""
    frame = np.full((10, 10, 3), 128, np.uint8)
    for shape in ((0, 0), (4, 4)):
        drawn = draw_heatmap(frame, np.zeros(shape, np.float32), (0.0, 0.0, 10.0, 10.0), tau=0.5)
        np.testing.assert_array_equal(drawn, frame)
