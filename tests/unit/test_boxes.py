"""Damage boxes from anomaly maps made by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schemas.recipe import BoxRecipe
from service.pipeline.boxes import find_boxes, smoothed
from service.pipeline.types import DamageBox, FloatArray, NormalizedRoi

TAU = 1.0


def roi(side: int = 80, origin_xy: tuple[float, float] = (0.0, 0.0), scale: float = 1.0) -> NormalizedRoi:
    """Return a ROI that is all object."""
    return NormalizedRoi(np.zeros((side, side, 3), np.uint8), np.ones((side, side), bool), origin_xy, scale)


def boxes_of(
    anomaly_map: FloatArray,
    *,
    normalized: NormalizedRoi | None = None,
    frame_wh: tuple[int, int] = (80, 80),
    recipe: BoxRecipe | None = None,
) -> tuple[DamageBox, ...]:
    """Return the boxes of a map that lies inside the object everywhere."""
    inside = np.ones(anomaly_map.shape, bool)
    return find_boxes(anomaly_map, inside, normalized or roi(), frame_wh, TAU, recipe or BoxRecipe(blur_sigma=0))


def grid(*cells: tuple[int, int], level: float = 2.0, background: float = 0.1) -> FloatArray:
    """Return a 10 x 10 map with `cells` (row, column) at `level`."""
    anomaly_map = np.full((10, 10), background, np.float32)
    for cell in cells:
        anomaly_map[cell] = level
    return anomaly_map


def contains(box: DamageBox, xyxy: tuple[int, int, int, int]) -> bool:
    """Tell whether `box` covers `xyxy`."""
    x1, y1, x2, y2 = box.xyxy
    return x1 <= xyxy[0] and y1 <= xyxy[1] and x2 >= xyxy[2] and y2 >= xyxy[3]


def test_boxes_of_a_quiet_map_are_none() -> None:
    """Where no patch reaches the threshold there is no box, however uneven the map."""
    quiet = np.random.default_rng(0).uniform(0, 0.999, (10, 10)).astype(np.float32)

    assert boxes_of(quiet) == ()
    assert boxes_of(np.zeros((10, 10), np.float32)) == ()


def test_boxes_of_one_patch_cover_it_closely() -> None:
    """A single patch at the threshold has a box around it, not much larger, with its distance as score."""
    (box,) = boxes_of(grid((3, 6), level=TAU))

    assert contains(box, (48, 24, 56, 32))
    assert contains(DamageBox((40, 16, 64, 40), 0.0), box.xyxy)
    assert box.score == TAU


def test_boxes_ignore_patches_outside_the_object() -> None:
    """A large distance outside the mask is nothing."""
    inside = np.ones((10, 10), bool)
    inside[:, :3] = False

    assert find_boxes(grid((5, 1)), inside, roi(), (80, 80), TAU, BoxRecipe()) == ()


def test_boxes_extend_over_weaker_neighbours_only() -> None:
    """A streak whose middle alone reaches the threshold is boxed as a whole; a weak patch elsewhere is not boxed."""
    streak = grid(*[(5, column) for column in range(1, 8)], (0, 0), level=0.9)
    streak[5, 4] = 1.2

    (box,) = boxes_of(streak)

    assert contains(box, (12, 40, 60, 48))  # the outer halves of the end patches fade
    assert box.xyxy[1] > 16
    assert box.score == np.float32(1.2)


def test_box_of_what_stands_out_by_far_ends_at_its_own_height() -> None:
    """Around plain damage an embedder answers, too; the box is that of the damage, unless the recipe asks for all."""
    halo = grid(*[(row, column) for row in range(3, 8) for column in range(3, 8)], level=1.1)
    halo[5, 5] = 4.0

    (box,) = boxes_of(halo)
    (wide,) = boxes_of(halo, recipe=BoxRecipe(peak_ratio=0.0))

    assert contains(box, (42, 42, 46, 46))
    assert box.xyxy[2] - box.xyxy[0] <= 16
    assert contains(wide, (24, 24, 64, 64))
    assert box.score == wide.score == np.float32(4.0)


def test_boxes_near_each_other_are_one() -> None:
    """A gap of one patch is bridged where the recipe says so, and kept where not."""
    pair = grid((5, 3), (5, 5))

    assert len(boxes_of(pair, recipe=BoxRecipe(blur_sigma=0, merge_gap_frac=0.2))) == 1
    assert len(boxes_of(pair, recipe=BoxRecipe(blur_sigma=0, merge_gap_frac=0.0))) == 2


def test_boxes_come_largest_score_first_and_are_limited() -> None:
    """The worst blobs stay when there are more than the recipe allows."""
    three = grid((1, 1), (5, 5), (8, 1))
    three[5, 5], three[8, 1] = 5, 3

    assert [box.score for box in boxes_of(three, recipe=BoxRecipe(max_boxes=2))] == [5, 3]


def test_boxes_drop_scraps_and_slivers() -> None:
    """Blobs below the area and beyond the aspect of the recipe are left out."""
    assert boxes_of(grid((5, 5)), recipe=BoxRecipe(min_area_frac=0.1)) == ()
    sliver = grid(*[(5, column) for column in range(10)])
    assert boxes_of(sliver, recipe=BoxRecipe(blur_sigma=0, max_aspect=3)) == ()
    assert len(boxes_of(sliver)) == 1


def test_boxes_lie_in_the_full_frame() -> None:
    """Origin and scale of the ROI map boxes to the frame, outwards to whole pixels, clipped to it."""
    normalized = roi(side=80, origin_xy=(-10.5, 100.25), scale=0.5)

    left, right = sorted(
        (box.xyxy for box in boxes_of(grid((0, 0), (9, 9)), normalized=normalized, frame_wh=(640, 250))),
        key=lambda b: b[0],
    )

    assert left[:2] == (0, 100)
    assert right[2:] == (150, 250)


def test_boxes_outside_the_frame_are_dropped() -> None:
    """Padding of the square may lie beyond the frame; a box that lies there alone says nothing."""
    assert boxes_of(grid((0, 0)), normalized=roi(origin_xy=(-60.0, 0.0))) == ()


def test_smoothed_keeps_its_level_at_the_silhouette() -> None:
    """A constant map stays constant up to the mask's edge, whatever the blur."""
    inside = np.zeros((8, 8), bool)
    inside[2:6, 3:5] = True

    blurred = smoothed(np.where(inside, 0.7, 9.0).astype(np.float32), inside, 4, 1.0)

    expected = np.kron(np.where(inside, 0.7, 0.0), np.ones((4, 4)))
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


@given(
    arrays(np.float32, (7, 7), elements=st.floats(0, 2, width=32)),
    arrays(np.bool_, (7, 7)),
    st.floats(-50, 50),
    st.floats(-50, 50),
    st.floats(0.1, 8),
)
def test_boxes_hold_their_invariants(
    anomaly_map: FloatArray, inside: npt.NDArray[np.bool_], origin_x: float, origin_y: float, scale: float
) -> None:
    """Any map: boxes lie in the frame, are not empty, and exist only where a patch inside reaches the threshold."""
    normalized = roi(side=70, origin_xy=(origin_x, origin_y), scale=scale)

    boxes = find_boxes(anomaly_map, inside, normalized, (100, 60), TAU, BoxRecipe())

    reached = anomaly_map[inside & (anomaly_map >= TAU)]
    assert bool(boxes) <= bool(reached.size)
    for box in boxes:
        x1, y1, x2, y2 = box.xyxy
        assert 0 <= x1 < x2 <= 100
        assert 0 <= y1 < y2 <= 60
        assert box.score in reached
