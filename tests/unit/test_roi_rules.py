"""Mask rules, each alone, and together on hand-made proposals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.roi import mask_iou
from schemas.recipe import RoiRecipe
from service.pipeline.roi import mask_rules as rules
from service.pipeline.roi.mask_rules import IntBox, Scene
from service.pipeline.types import Mask

SIZE = (120, 160)
CORE: IntBox = (60, 15, 100, 105)
BOX: IntBox = (56, 10, 104, 110)
SCENE = Scene(box=BOX, core=CORE, frame=(0, 0, 160, 120), frame_area=160.0 * 120.0)
RECIPE = RoiRecipe()

masks = hnp.arrays(np.bool_, (24, 32))


def mask_of(*boxes: IntBox) -> Mask:
    """Return a mask that is true in the boxes."""
    mask = np.zeros(SIZE, np.bool_)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


def canister() -> Mask:
    """Return a canister: stem, ring, neck and body, as wide as the core box."""
    return mask_of((78, 15, 82, 30), (60, 30, 100, 40), (64, 40, 96, 46), (60, 46, 100, 105))


def test_polarity_inverts_a_mask_of_the_surroundings() -> None:
    """A mask that leaves the centre of the box out is the background's."""
    np.testing.assert_array_equal(rules.polarity(~canister(), BOX, 0.3), canister())


def test_polarity_keeps_a_mask_of_the_part() -> None:
    """A mask that covers the centre of the box stays as it is."""
    np.testing.assert_array_equal(rules.polarity(canister(), BOX, 0.3), canister())


def test_within_box_cuts_what_bleeds_out() -> None:
    """Nothing outside the prompt can belong to the part."""
    bleeding = canister() | mask_of((0, 95, 160, 100))
    kept = rules.within_box(bleeding, BOX)
    assert rules.bounds(kept) == (56, 15, 104, 105)


def test_clear_border_removes_the_margin_of_the_frame_only() -> None:
    """Letterbox bars meet the mask at the frame's border."""
    full = np.ones(SIZE, np.bool_)
    assert rules.bounds(rules.clear_border(full, (0, 0, 160, 120), 0.02)) == (3, 3, 157, 117)
    assert rules.clear_border(full, (0, 0, 160, 120), 0.0).all()


def test_clear_border_leaves_a_crop_inside_the_frame_alone() -> None:
    """The border of a crop is not the border of the frame."""
    full = np.ones(SIZE, np.bool_)
    assert rules.clear_border(full, (-50, -50, 400, 300), 0.002).all()


def test_clear_border_takes_one_pixel_at_least() -> None:
    """Of a frame so small that its share of the border is none: letterbox bars would join the part."""
    cleared = rules.clear_border(np.ones(SIZE, np.bool_), SCENE.frame, 0.002)
    np.testing.assert_array_equal(cleared, mask_of((1, 1, 159, 119)))


def test_bridge_joins_pieces_across_a_small_vertical_gap() -> None:
    """Neck and body that came apart at a bright ring are one part."""
    split = mask_of((64, 20, 96, 40), (60, 46, 100, 105))
    bridged = rules.bridge_vertically(split, 8)
    assert bridged[40:46, 70].all()
    assert rules.largest_piece(bridged).sum() == bridged.sum()


def test_bridge_leaves_a_large_gap_and_a_waist_alone() -> None:
    """Two things far apart are two things; the notch of a neck is no gap."""
    split = mask_of((64, 20, 96, 40), (60, 60, 100, 105))
    np.testing.assert_array_equal(rules.bridge_vertically(split, 8), split)
    np.testing.assert_array_equal(rules.bridge_vertically(canister(), 12), canister())


def test_bridge_fills_no_notch_of_one_piece_beside_another() -> None:
    """What is bridged are the pieces, and a gap of just as many pixels as the knob says."""
    notched = mask_of((60, 20, 70, 60), (70, 20, 100, 34), (70, 40, 100, 60))
    below = mask_of((60, 66, 100, 105))
    assert not rules.bridge_vertically(notched | below, 5)[60:66].any()
    bridged = rules.bridge_vertically(notched | below, 6)
    assert bridged[60:66, 60:100].all()
    assert not bridged[34:40, 70:100].any()


def test_central_pieces_unites_what_crosses_both_bands() -> None:
    """Two halves of a body at mid height stay, the thing beside it goes."""
    halves = mask_of((62, 20, 79, 105), (81, 20, 98, 105))
    beside = mask_of((10, 20, 30, 100))
    np.testing.assert_array_equal(rules.central_pieces(halves | beside, BOX, 0.34), halves)


def test_central_pieces_falls_back_to_the_largest() -> None:
    """Where nothing crosses the bands the largest piece is the best guess."""
    large, small = mask_of((0, 0, 40, 110)), mask_of((130, 0, 150, 20))
    np.testing.assert_array_equal(rules.central_pieces(large | small, BOX, 0.34), large)


def test_largest_piece_of_an_empty_mask_is_empty() -> None:
    """Nothing has no largest piece."""
    assert not rules.largest_piece(mask_of()).any()


def test_fill_holes_closes_highlights() -> None:
    """A highlight inside the part belongs to it."""
    pierced = canister()
    pierced[60:80, 70:80] = False
    np.testing.assert_array_equal(rules.fill_holes(pierced), canister())


def test_fill_holes_leaves_a_hole_open_that_is_larger_than_the_knob() -> None:
    """A ring is no highlight; its opening stays where the recipe says so, the small hole beside it does not."""
    ring = mask_of((20, 20, 80, 80)) & ~mask_of((30, 30, 70, 70)) & ~mask_of((22, 22, 25, 25))
    np.testing.assert_array_equal(rules.fill_holes(ring, 0.2), mask_of((20, 20, 80, 80)) & ~mask_of((30, 30, 70, 70)))
    np.testing.assert_array_equal(rules.fill_holes(ring, 1.0), mask_of((20, 20, 80, 80)))


def test_largest_component_is_the_raw_mask_in_the_box_without_the_rest() -> None:
    """The first fallback: no rule but the box, the largest piece and no holes."""
    raw = canister() | mask_of((56, 10, 58, 12)) | mask_of((110, 0, 160, 120))
    raw[60:70, 70:80] = False
    ruled = rules.largest_component(raw, SCENE, RECIPE)
    np.testing.assert_array_equal(ruled.mask, canister())
    assert ruled.faults == ()


def test_coarse_box_alone_is_the_box_before_padding() -> None:
    """The last fallback, in the size of the raw mask."""
    ruled = rules.coarse_box_alone(mask_of(), SCENE, RECIPE)
    np.testing.assert_array_equal(ruled.mask, mask_of(CORE))
    assert ruled.penalty < RECIPE.penalty_max


@pytest.mark.parametrize(("raw", "expected"), [("empty", True), ("full", True), ("canister", False)])
def test_unusable_is_a_mask_that_shows_no_edge_in_the_box(raw: str, expected: bool) -> None:
    """Nothing in the box, or nothing but the box."""
    masks_by_name = {"empty": mask_of((0, 0, 20, 20)), "full": np.ones(SIZE, np.bool_), "canister": canister()}
    assert rules.unusable(masks_by_name[raw], BOX) is expected


def test_drop_scraps_keeps_pieces_of_some_size() -> None:
    """Specks go, a stem that came off stays."""
    body, stem, speck = mask_of((60, 46, 100, 105)), mask_of((78, 15, 82, 30)), mask_of((10, 10, 13, 13))
    np.testing.assert_array_equal(rules.drop_scraps(body | stem | speck, 0.02), body | stem)


def test_cut_spurs_removes_the_table_edge_and_keeps_the_stem() -> None:
    """A spur is low; a stem is narrow."""
    table_edge = mask_of((40, 60, 60, 62), (100, 60, 130, 62))
    np.testing.assert_array_equal(rules.cut_spurs(canister() | table_edge, 3), canister())


@pytest.mark.parametrize("thickness", range(2, 8))
def test_cut_spurs_cuts_what_is_thinner_than_the_knob_and_moves_nothing(thickness: int) -> None:
    """An even number has no middle row: what stays, stays where it is all the same."""
    thin, thick = (20, 20, 60, 20 + thickness - 1), (20, 60, 60, 60 + thickness)
    np.testing.assert_array_equal(rules.cut_spurs(mask_of(thin, thick), thickness), mask_of(thick))


def test_bounds_of_an_empty_mask_is_none() -> None:
    """There is no box around nothing."""
    assert rules.bounds(mask_of()) is None


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1.0), (0.02, 0.0), (0.5, 0.0), (0.8, 0.0), (1.6, 1.0)])
def test_area_penalty_counts_powers_of_two_outside_the_limits(share: float, expected: float) -> None:
    """Half the smallest or twice the largest area costs one."""
    mask = np.ones((10, 100), np.bool_)
    assert rules.area_penalty(mask, 1000 / share, 0.02, 0.8) == pytest.approx(expected)


@pytest.mark.parametrize(("height", "expected"), [(10, 1.0), (20, 0.0), (100, 0.0), (160, 0.0)])
def test_aspect_penalty_counts_powers_of_two_outside_the_limits(height: int, expected: float) -> None:
    """A mask half as tall as it may be costs one."""
    assert rules.aspect_penalty(np.ones((height, 40), np.bool_), 0.5, 8.0) == pytest.approx(expected)


def test_off_centre_penalty_is_the_share_of_the_centre_missed() -> None:
    """A mask of the left half misses half of the centre."""
    assert rules.off_centre_penalty(mask_of((56, 10, 80, 110)), BOX, 0.3) == pytest.approx(0.5, abs=0.05)
    assert rules.off_centre_penalty(canister(), BOX, 0.3) == 0.0


def test_mismatch_penalty_prefers_the_whole_part() -> None:
    """The ring alone fits the coarse box worse than the part."""
    ring = mask_of((60, 30, 100, 40))
    assert rules.mismatch_penalty(canister(), CORE) == 0.0
    assert rules.mismatch_penalty(ring, CORE) > 0.8
    assert rules.mismatch_penalty(mask_of(), CORE) == 1.0


def test_fill_penalty_speaks_against_the_box_itself() -> None:
    """A mask that is the whole prompt saw no edge."""
    assert rules.fill_penalty(mask_of(BOX), BOX) == pytest.approx(1.0)
    assert rules.fill_penalty(canister(), BOX) == 0.0


def test_touched_sides_names_the_side_that_cuts_the_part() -> None:
    """A box that ends in the middle of the body is too small below, and only there."""
    cut = rules.within_box(canister(), (56, 10, 104, 70))
    assert rules.touched_sides(cut, (56, 10, 104, 70), SCENE.frame).tolist() == [False, False, False, True]
    assert rules.touched_sides(canister(), BOX, SCENE.frame).tolist() == [False] * 4


def test_touched_sides_ignores_the_border_of_the_frame() -> None:
    """There is nothing to see beyond the frame."""
    full = np.ones(SIZE, np.bool_)
    assert not rules.touched_sides(full, (0, 0, 160, 120), SCENE.frame).any()


PROPOSALS = {
    "inverted": ~canister(),
    "split at the neck": canister() & ~mask_of((0, 40, 160, 46)),
    "bleeding into the desk": canister() | mask_of((0, 100, 60, 103), (100, 100, 160, 103)),
    "touching the border": canister() | mask_of((0, 0, 160, 9), (0, 0, 9, 120)),
    "several objects": canister() | mask_of((5, 40, 30, 100), (120, 20, 150, 60)),
    "with holes and specks": (canister() & ~mask_of((70, 60, 80, 70))) | mask_of((57, 12, 59, 14)),
}


@pytest.mark.parametrize("name", PROPOSALS)
def test_rules_repair_a_proposal_that_is(name: str) -> None:
    """Whatever a segmenter does wrong in these ways ends as the canister."""
    ruled = rules.apply_rules(PROPOSALS[name], SCENE, RECIPE)
    assert mask_iou(ruled.mask, canister()) > 0.95
    assert ruled.penalty < RECIPE.penalty_max


@pytest.mark.parametrize("name", PROPOSALS)
def test_rank_prefers_the_canister_to_an_empty_proposal_and_one_that_fills_the_frame(name: str) -> None:
    """SAM makes three proposals: a confident nothing and a confident everything lose to one that can be repaired."""
    proposals = [(mask_of(), 0.99), (np.ones(SIZE, np.bool_), 0.98), (PROPOSALS[name], 0.2)]
    raw, ruled = rules.rank(proposals, SCENE, RECIPE)
    np.testing.assert_array_equal(raw, PROPOSALS[name])
    assert mask_iou(ruled.mask, canister()) > 0.95


def test_rules_find_an_empty_proposal_beyond_all_limits() -> None:
    """Nothing can be made of a mask that is empty in the box, and whose opposite fills it."""
    ruled = rules.assess(mask_of(), SCENE, RECIPE)
    assert (ruled.faults, ruled.penalty) == (("empty",), float("inf"))


def test_rank_trusts_the_rules_more_than_the_segmenter() -> None:
    """The ring alone with the best confidence loses to the canister with the worst."""
    ring, everything = mask_of((60, 30, 100, 40)), np.ones(SIZE, np.bool_)
    raw, ruled = rules.rank([(ring, 0.99), (everything, 0.95), (canister(), 0.1)], SCENE, RECIPE)
    np.testing.assert_array_equal(raw, canister())
    assert mask_iou(ruled.mask, canister()) > 0.95


def test_rank_lets_the_segmenter_decide_between_equals() -> None:
    """Between masks that the rules find as good the more confident one wins."""
    other = canister() | mask_of((60, 41, 64, 42))
    raw, _ = rules.rank([(canister(), 0.2), (other, 0.9)], SCENE, RECIPE)
    np.testing.assert_array_equal(raw, other)


@given(masks)
def test_rules_stay_within_the_box(mask: Mask) -> None:
    """Whatever comes in, nothing comes out beyond the prompt, and nothing in the frame's margin."""
    scene = Scene(box=(4, 3, 28, 21), core=(6, 5, 26, 19), frame=(0, 0, 32, 24), frame_area=32.0 * 24.0)
    ruled = rules.apply_rules(mask, scene, RECIPE)
    tight = rules.bounds(ruled.mask)
    assert tight is None or (tight[0] >= 4 and tight[1] >= 3 and tight[2] <= 28 and tight[3] <= 21)
    assert ruled.penalty >= 0


@given(masks)
def test_rules_do_not_change_their_argument(mask: Mask) -> None:
    """Rules are pure: the raw mask is still needed for the fallbacks."""
    before = mask.copy()
    scene = Scene(box=(4, 3, 28, 21), core=(6, 5, 26, 19), frame=(0, 0, 32, 24), frame_area=32.0 * 24.0)
    rules.apply_rules(mask, scene, RECIPE)
    np.testing.assert_array_equal(mask, before)


@given(masks)
def test_fill_holes_never_removes_and_is_idempotent(mask: Mask) -> None:
    """Filling adds, once."""
    filled = rules.fill_holes(mask)
    assert (filled >= mask).all()
    np.testing.assert_array_equal(rules.fill_holes(filled), filled)


@given(masks, st.integers(0, 10))
def test_bridge_only_adds(mask: Mask, gap: int) -> None:
    """A bridge removes nothing."""
    assert (rules.bridge_vertically(mask, gap) >= mask).all()
