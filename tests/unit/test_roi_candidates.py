"""Candidates for the part: regions, the bodies within them, and a foot that stands free."""

from __future__ import annotations

import numpy as np
import pytest

from service.pipeline.roi.candidates import candidates, row_spans
from service.pipeline.roi.edges import ByteMask
from service.pipeline.roi.mask_rules import IntBox, box_iou

BODY: IntBox = (90, 66, 120, 132)
STEM: IntBox = (102, 54, 108, 66)
PART: IntBox = (90, 54, 120, 132)


def solid(*boxes: IntBox) -> ByteMask:
    """Return a reduced frame, 240 x 180, that is solid in the boxes."""
    region = np.zeros((180, 240), np.uint8)
    for x1, y1, x2, y2 in boxes:
        region[y1:y2, x1:x2] = 1
    return region


def best_iou(region: ByteMask) -> float:
    """Return the IoU of the part's bounds with those of the candidate nearest to them."""
    return max(box_iou(candidate.xyxy, PART) for candidate in candidates(region, 0.005))


@pytest.mark.parametrize("clutter", [(), ((0, 76, 240, 80),)], ids=["alone", "table edge behind"])
def test_candidates_hold_the_part_that_clutter_is_joined_to(clutter: tuple[IntBox, ...]) -> None:
    """One of them is the part, nearly."""
    assert best_iou(solid(BODY, STEM, *clutter)) > 0.75


def test_candidates_hold_a_foot_that_stands_free() -> None:
    """A monitor joined to the upper half moves the thickest point off the part; the body above the foot is one too."""
    region = solid(BODY, STEM, (120, 40, 200, 92), (0, 90, 90, 94))
    foot = (90, 94, 120, 132)
    assert max(box_iou(candidate.xyxy, foot) for candidate in candidates(region, 0.005)) > 0.8


def test_candidates_are_large_enough() -> None:
    """Neither a speck nor a low thing is one."""
    assert not list(candidates(solid((10, 10, 14, 14)), 0.005))
    assert not list(candidates(solid((10, 10, 110, 20)), 0.005))
    assert not list(candidates(solid(), 0.005))


def test_row_spans_fill_each_row_between_its_ends() -> None:
    """What lies between two parts of a row belongs to it; an empty row stays empty."""
    region = np.array([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.uint8)
    np.testing.assert_array_equal(row_spans(region), [[0, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
