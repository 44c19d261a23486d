"""Finding the part: the coarse box, GrabCut, retries and fallbacks, fixed polygons, blank frames."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from adapters.simulation.damage import DamageKind, random_damage
from adapters.simulation.renderer import CameraStyle, render_canister
from benchmarks.roi import found_iou, mask_iou, read_mask, read_photo, variations
from schemas.recipe import RoiMethod, RoiRecipe
from service.errors import RoiNotFound, UsageError
from service.pipeline.roi import build_roi_finder
from service.pipeline.roi.coarse_box import Box, CoarseBox, pad_box, recentre, survey
from service.pipeline.roi.edges import edge_energy, edge_levels, noise_floor, solid_regions
from service.pipeline.roi.finder import Prompt, PromptedFinder, Proposals, roi_of
from service.pipeline.roi.fixed import inside_polygon
from service.pipeline.roi.grabcut import seed
from service.pipeline.roi.mask_rules import Scene, frame_box, within_box
from service.pipeline.types import BgrImage, Mask

CANISTER_DATA = Path(__file__).parents[2].parent / "shared" / "data" / "canister"
FINDER = build_roi_finder(RoiRecipe())


def drawn_canister(frame_wh: tuple[int, int] = (640, 480), at_xy: tuple[int, int] = (320, 90)) -> tuple[BgrImage, Mask]:
    """Return a frame with a plain grey canister, 90 x 280 px, on a light table, and its true mask."""
    width, height = frame_wh
    x, y = at_xy
    mask = np.zeros((height, width), np.uint8)
    cv2.rectangle(mask, (x - 5, y), (x + 5, y + 60), 1, cv2.FILLED)
    cv2.rectangle(mask, (x - 45, y + 50), (x + 45, y + 90), 1, cv2.FILLED)
    cv2.rectangle(mask, (x - 38, y + 90), (x + 38, y + 110), 1, cv2.FILLED)
    cv2.rectangle(mask, (x - 45, y + 110), (x + 45, y + 280), 1, cv2.FILLED)
    sheen = 90 + 60 * np.cos((np.arange(width) - x + 15) / 25.0)
    frame = np.where(mask > 0, sheen[None], 205.0)
    noisy = frame + np.random.default_rng(0).normal(0, 3, frame.shape)
    grey = np.clip(cv2.GaussianBlur(noisy, (0, 0), 1.0), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), mask.astype(np.bool_)


@pytest.mark.parametrize("at_xy", [(320, 90), (200, 60), (450, 150), (320, 180)])
def test_finder_cuts_out_a_drawn_canister(at_xy: tuple[int, int]) -> None:
    """A plain canister on a plain table is found wherever it stands, with its stem."""
    frame, truth = drawn_canister(at_xy=at_xy)
    roi = FINDER.find(frame)
    # The blurred edge is grey like the canister, the table is one flat colour: the mask takes the edge in.
    assert mask_iou(roi.mask, truth) > 0.92
    assert (roi.mask.shape, roi.mask.dtype.name, roi.path) == (truth.shape, "bool", "grabcut")
    assert roi.mask[at_xy[1] + 10, at_xy[0]]


def test_finder_bounds_are_tight() -> None:
    """`xyxy` is the smallest box around the mask, its far sides exclusive."""
    roi = FINDER.find(drawn_canister()[0])
    x1, y1, x2, y2 = roi.xyxy
    assert roi.mask.sum() == roi.mask[y1:y2, x1:x2].sum()
    assert all(side.any() for side in (roi.mask[y1], roi.mask[y2 - 1], roi.mask[:, x1], roi.mask[:, x2 - 1]))


@pytest.mark.parametrize("seed_", [11, 12, 13, 14, 15, 16, 17, 18])
def test_finder_cuts_out_a_rendered_canister(seed_: int) -> None:
    """Poses, light, clutter and damage change; the mask follows the canister."""
    frame = render_canister(seed_, style=CameraStyle.VARIED, damage=DamageKind.DENT if seed_ % 2 else None)
    assert mask_iou(FINDER.find(frame.bgr).mask, frame.mask) > 0.90


@pytest.mark.parametrize("seed_", [50671, 50942, 50980])
def test_finder_is_not_drawn_away_by_what_stands_behind(seed_: int) -> None:
    """Books on the wall and right behind the stem, a monitor joined to the part, a bright side: each was taken once."""
    damage = random_damage(np.random.default_rng([seed_, 3])) if seed_ % 2 else None
    frame = render_canister(seed_, style=CameraStyle.VARIED, damage=damage)
    assert mask_iou(FINDER.find(frame.bgr).mask, frame.mask) > 0.85


@pytest.mark.skipif(not CANISTER_DATA.is_dir(), reason="the photos are not part of the project")
@pytest.mark.parametrize("name", ["Canister1", "Canister2"])
def test_finder_cuts_out_a_real_canister(name: str) -> None:
    """Both photos reach the bar as they are, and stay above the floor however they are changed."""
    photo = read_photo(CANISTER_DATA / "photos" / f"{name}.png")
    truth = read_mask(CANISTER_DATA / "masks" / f"{name}.png")
    ious = {what: found_iou(FINDER, bgr, mask) for what, bgr, mask in variations(photo, truth)}
    assert ious["as it is"] >= 0.95
    assert [what for what, iou in ious.items() if iou < 0.93] == []


@pytest.mark.parametrize("shape", [(480, 640), (60, 80), (300, 20), (20, 300), (3, 3), (1, 1)])
def test_finder_refuses_blank_frames(shape: tuple[int, int]) -> None:
    """A uniform frame of any size and brightness, a gradient and plain noise end as roi_not_found, never as a guess."""
    noise = np.random.default_rng(0)
    ramp = np.linspace(0, 255, shape[1])[None, :, None]
    frames = [np.full((*shape, 3), level, np.uint8) for level in (0, 128, 255)]
    frames += [np.broadcast_to(ramp, (*shape, 3)).astype(np.uint8)]
    frames += [np.clip(noise.normal(128, deviation, (*shape, 3)), 0, 255).astype(np.uint8) for deviation in (3, 20, 80)]
    for frame in frames:
        with pytest.raises(RoiNotFound):
            FINDER.find(frame)


def test_finder_says_the_same_in_every_thread() -> None:
    """OpenCV's random numbers are seeded in each thread, so neither order nor company changes a mask."""
    frames = [drawn_canister(at_xy=(x, 90))[0] for x in (250, 320, 390)] * 4
    alone = [FINDER.find(frame).mask for frame in frames]
    cv2.setRNGSeed(99)
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda frame: FINDER.find(frame).mask, frames))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_coarse_box_prefers_the_upright_part_to_clutter() -> None:
    """A monitor at the top and a pen on the table do not draw the box away."""
    frame, truth = drawn_canister(at_xy=(330, 160))
    cv2.rectangle(frame, (80, -5), (260, 90), (20, 20, 25), cv2.FILLED)
    cv2.line(frame, (480, 420), (620, 380), (40, 40, 160), 6)
    coarse = survey(frame, RoiRecipe()).boxes[0]
    expected = frame_box((330 - 45, 160, 330 + 46, 160 + 281))
    assert np.abs(np.subtract(coarse.xyxy, expected)).max() < 15
    assert mask_iou(FINDER.find(frame).mask, truth) > 0.9


def test_coarse_box_needs_prominence() -> None:
    """The knob decides what is prominent enough."""
    frame, _ = drawn_canister()
    assert survey(frame, RoiRecipe(prominence_min=0.99)).boxes == ()


def two_canisters() -> tuple[BgrImage, Mask, Mask]:
    """Return a frame with two canisters that look alike, and the mask of each."""
    (left, left_mask), (_, right_mask) = drawn_canister(at_xy=(200, 100)), drawn_canister(at_xy=(440, 100))
    frame = left.copy()
    frame[:, 320:] = drawn_canister(at_xy=(440, 100))[0][:, 320:]
    return frame, left_mask, right_mask


def test_survey_names_each_region_once_the_most_prominent_first() -> None:
    """Two canisters are two boxes, however many candidates each of them makes."""
    frame, left_mask, right_mask = two_canisters()
    boxes = survey(frame, RoiRecipe()).boxes
    assert boxes[0].prominence >= 0.85 * boxes[1].prominence  # the larger of nearly equal ones comes first
    middles = sorted((box.xyxy[0] + box.xyxy[2]) / 2 for box in boxes[:2])
    expected = [float(np.flatnonzero(mask.any(axis=0)).mean()) for mask in (left_mask, right_mask)]
    assert middles == pytest.approx(expected, abs=15)


def test_prominence_of_a_mask_falls_with_what_is_missing() -> None:
    """The whole canister is clearer than half of it or one with a piece of the table, and nothing is nothing."""
    frame, truth = drawn_canister()
    seen = survey(frame, RoiRecipe())
    half, with_table = truth.copy(), truth.copy()
    half[230:] = False
    with_table[330:370, 200:320] = True
    assert seen.prominence_of(truth) > 1.15 * max(seen.prominence_of(half), seen.prominence_of(with_table))
    assert seen.prominence_of(np.zeros_like(truth)) == 0.0


def test_pad_box_stays_in_the_frame() -> None:
    """Padding moves sides out by a share of the box, at most to the frame's border."""
    assert pad_box((10, 10, 30, 50), 0.1, 0.5, (100, 60)) == (8, 0, 32, 60)


def test_recentre_grows_the_short_side_only() -> None:
    """A box that is lopsided about the part's axis grows on the other side."""
    silhouette = np.zeros((10, 40), np.uint8)
    silhouette[:, 10:21] = 1
    silhouette[9, 21:22] = 1  # a shadow at the foot
    assert recentre((10, 0, 22, 10), silhouette, 1.0) == (9.0, 0, 22, 10)


def test_edge_energy_of_a_step_is_its_height() -> None:
    """A step of 40 grey levels has an energy of about 40 spread over its blur, and none elsewhere."""
    frame = np.full((60, 80, 3), 100, np.uint8)
    frame[:, 40:] = 140
    energy = edge_energy(frame)
    assert energy[:, :30].max() == 0
    assert 10 < energy.max() < 45


def test_edge_levels_of_a_blank_frame_are_none() -> None:
    """Where nothing stands out there is no level to look at."""
    energy = np.zeros((30, 40), np.float32)
    assert edge_levels(energy, noise_floor(energy), 5).shape == (0,)


def test_solid_regions_fill_outlines_but_not_the_table() -> None:
    """An outline becomes solid; the table top within its own outline stays open."""
    edges = np.zeros((120, 160), np.uint8)
    cv2.rectangle(edges, (3, 3), (156, 116), 1, 2)
    cv2.rectangle(edges, (60, 30), (90, 100), 1, 2)
    solid = solid_regions(edges > 0)
    assert solid[60, 75] == 1
    assert solid[60, 30] == 0


def test_solid_regions_of_no_edges_are_empty() -> None:
    """Nothing encloses nothing."""
    assert not solid_regions(np.zeros((10, 10), np.bool_)).any()


def test_seed_marks_inside_surroundings_and_beyond() -> None:
    """The centre is sure, the silhouette probable, the padding improbable, the rest out of the question."""
    silhouette = np.zeros((60, 60), np.bool_)
    silhouette[20:40, 24:36] = True
    trimap = seed(silhouette, (20, 18, 40, 42), (24, 20, 36, 40), 0.3)
    assert [int(trimap[row, 30]) for row in (2, 18, 21, 30)] == [cv2.GC_BGD, cv2.GC_PR_BGD, cv2.GC_PR_FGD, cv2.GC_FGD]


class ScriptedSegmenter:
    """A segmenter that answers each prompt with the next of its proposals and remembers the boxes."""

    name = "scripted"

    def __init__(self, answers: Sequence[Mask]) -> None:
        self.answers = list(answers)
        self.boxes: list[Box] = []

    def look(self, bgr: BgrImage) -> Prompt:
        """See `Segmenter.look`."""
        height, width = bgr.shape[:2]

        def propose(coarse: CoarseBox, box: Box) -> Proposals:
            self.boxes.append(box)
            mask = self.answers[min(len(self.boxes), len(self.answers)) - 1]
            scene = Scene(frame_box(box), frame_box(coarse.xyxy), (0, 0, width, height), float(width * height))
            return Proposals([(mask, 1.0)], scene, lambda ruled: ruled)

        return propose


@pytest.mark.parametrize("everything", [True, False], ids=["fills the frame", "empty"])
def test_finder_widens_the_box_after_an_unusable_mask(everything: bool) -> None:
    """First no edge at all, then the canister: the second prompt is wider and its mask is taken."""
    frame, truth = drawn_canister()
    segmenter = ScriptedSegmenter([np.full_like(truth, everything), truth])
    roi = PromptedFinder(RoiRecipe(), segmenter).find(frame)
    first, second = segmenter.boxes
    assert (second[0] < first[0], second[1] < first[1], second[2] > first[2], second[3] > first[3]) == (True,) * 4
    assert roi.path == "scripted>wider"
    assert mask_iou(roi.mask, truth) > 0.98


def test_finder_widens_only_the_side_that_cuts_the_part() -> None:
    """A mask that runs into the lower side of the box moves that side."""
    frame, truth = drawn_canister()
    long = truth.copy()
    long[370:460, 280:360] = True
    segmenter = ScriptedSegmenter([long])
    PromptedFinder(RoiRecipe(), segmenter).find(frame)
    first, second = segmenter.boxes[:2]
    assert second[:3] == first[:3]
    assert second[3] > first[3]


@pytest.mark.parametrize("everything", [True, False], ids=["fills the frame", "empty"])
@pytest.mark.parametrize("retries", [0, 2])
def test_finder_gives_up_after_the_widest_box(retries: int, everything: bool) -> None:
    """A segmenter that sees no edge anywhere ends as roi_not_found after as many prompts as the recipe allows."""
    frame, truth = drawn_canister()
    segmenter = ScriptedSegmenter([np.full_like(truth, everything)])
    with pytest.raises(RoiNotFound):
        PromptedFinder(RoiRecipe(retries=retries), segmenter).find(frame)
    assert len(segmenter.boxes) == retries + 1


def test_finder_widens_by_the_share_of_the_recipe() -> None:
    """The knob says how far the sides move out."""
    frame, truth = drawn_canister()
    segmenter = ScriptedSegmenter([np.ones_like(truth), truth])
    PromptedFinder(RoiRecipe(growth_frac=0.1), segmenter).find(frame)
    (x1, y1, x2, y2), second = segmenter.boxes
    width, height = x2 - x1, y2 - y1
    expected = (x1 - 0.1 * width, y1 - 0.1 * height, x2 + 0.1 * width, y2 + 0.1 * height)
    assert second == pytest.approx(expected)


def test_finder_takes_the_clearer_of_two_regions() -> None:
    """Where the first region turns out to be half a part and the second a whole one, the second is the ROI."""
    frame, left_mask, right_mask = two_canisters()
    first, second = left_mask, right_mask
    if survey(frame, RoiRecipe()).boxes[0].xyxy[0] > 320:
        first, second = right_mask, left_mask
    half = first.copy()
    half[230:] = False
    recipe = RoiRecipe(retries=0)
    segmenter = ScriptedSegmenter([half, second])
    assert mask_iou(PromptedFinder(recipe, segmenter).find(frame).mask, second) > 0.98
    assert len(segmenter.boxes) == 2
    segmenter = ScriptedSegmenter([first, second])
    assert mask_iou(PromptedFinder(recipe, segmenter).find(frame).mask, first) > 0.98


def test_finder_falls_back_to_the_largest_component() -> None:
    """Rules that make it worse are skipped: the largest piece of the raw mask is good enough."""
    frame, truth = drawn_canister()
    recipe = RoiRecipe(spur_frac=0.9)  # a rule gone mad: it takes all but the full height of the canister
    roi = PromptedFinder(recipe, ScriptedSegmenter([truth])).find(frame)
    assert roi.path.endswith(">largest_component")
    assert mask_iou(roi.mask, truth) > 0.98


def test_finder_falls_back_to_the_box() -> None:
    """A mask of a small corner is no part, but the coarse box is."""
    frame, truth = drawn_canister()
    corner = truth.copy()
    corner[100:] = False
    roi = PromptedFinder(RoiRecipe(fg_inset=0.45), ScriptedSegmenter([corner])).find(frame)
    assert roi.path.endswith(">box")
    assert mask_iou(roi.mask, within_box(np.ones_like(truth), (275, 90, 366, 371))) > 0.8


def textured(width: int, height: int) -> BgrImage:
    return np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_fixed_finder_fills_the_polygon() -> None:
    """Corners are fractions of the frame, so the same recipe fits every resolution."""
    recipe = RoiRecipe(method=RoiMethod.FIXED, polygon=((0.25, 0.2), (0.75, 0.2), (0.75, 1.0), (0.25, 1.0)))
    for width, height in ((160, 120), (640, 480)):
        roi = build_roi_finder(recipe).find(textured(width, height))
        assert roi.path == "fixed"
        assert roi.xyxy == (width // 4, height // 5, 3 * width // 4, height)
        assert roi.mask.sum() == width // 2 * (height - height // 5)


@pytest.mark.parametrize(
    ("polygon", "expected"),
    [
        (((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)), ["###.", "##..", "#...", "...."]),
        (((0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0)), ["...#", "#.##", "#.##", "...#"]),
        (((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)), ["....", ".##.", ".##.", "...."]),
        (((0.5, -1.0), (2.0, -1.0), (2.0, 2.0), (0.5, 2.0)), ["..##", "..##", "..##", "..##"]),
    ],
)
def test_fixed_finder_takes_the_pixels_whose_centre_is_inside(
    polygon: tuple[tuple[float, float], ...], expected: list[str]
) -> None:
    """Not those that the border touches as well; the order of the corners does not matter."""
    size = 4, 4
    for corners in (polygon, polygon[::-1]):
        mask = inside_polygon(np.array(corners) * size, size)
        assert ["".join(".#"[pixel] for pixel in row) for row in mask.astype(int)] == expected


@pytest.mark.parametrize("polygon", [(), ((0.1, 0.1), (0.9, 0.9))])
def test_fixed_finder_needs_three_corners(polygon: tuple[tuple[float, float], ...]) -> None:
    """A polygon with fewer corners encloses nothing."""
    with pytest.raises(UsageError, match="three corners"):
        build_roi_finder(RoiRecipe(method=RoiMethod.FIXED, polygon=polygon))


def test_fixed_finder_needs_an_area() -> None:
    """Corners on one line would make a model of a line of pixels."""
    with pytest.raises(UsageError, match="on one line"):
        build_roi_finder(RoiRecipe(method=RoiMethod.FIXED, polygon=((0.1, 0.1), (0.5, 0.5), (0.9, 0.9))))


def test_whole_frame_finder_takes_everything() -> None:
    """Method none is for textures."""
    roi = build_roi_finder(RoiRecipe(method=RoiMethod.NONE)).find(textured(9, 7))
    assert (roi.xyxy, bool(roi.mask.all()), roi.path) == ((0, 0, 9, 7), True, "none")


def test_roi_of_an_empty_mask_is_not_found() -> None:
    """There is no ROI without a pixel."""
    with pytest.raises(RoiNotFound):
        roi_of(np.zeros((4, 4), np.bool_), "test")


def test_finder_finds_nothing_in_a_frame_without_room_for_surroundings() -> None:
    """GrabCut has no model of a class without a pixel: a frame of 3 x 5 px ends as one without a part."""
    frame = np.full((5, 3, 3), (38, 148, 197), np.uint8)
    frame[0] = (220, 132, 5)
    with pytest.raises(RoiNotFound, match="no pixel to begin with"):
        FINDER.find(frame)


def camera_frame(value: np.ndarray, noise: float, size_wh: tuple[int, int]) -> BgrImage:
    """Return what a noisy camera makes of `value`, which broadcasts to (H, W, 3)."""
    values = np.random.default_rng(7).normal(0, 1, (size_wh[1], size_wh[0], 3)) * noise + value
    pixels: BgrImage = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


@pytest.mark.parametrize(
    ("level", "noise"), [(0, 0), (255, 0), (4, 1), (12, 2), (20, 4), (120, 1.5), (230, 3), (255, 7)]
)
@pytest.mark.parametrize("size_wh", [(640, 480), (1920, 1440), (500, 320)])
@pytest.mark.parametrize("method", [RoiMethod.FIXED, RoiMethod.NONE])
def test_blank_frame_is_no_part_whatever_finds_it(
    method: RoiMethod, size_wh: tuple[int, int], level: float, noise: float
) -> None:
    """A cap on the lens, a strobe that stays away, an exposure that sticks: nothing there says that a part is sound."""
    recipe = RoiRecipe(method=method, polygon=((0.1, 0.2), (0.9, 0.1), (0.5, 0.8)))
    with pytest.raises(RoiNotFound, match="blank"):
        build_roi_finder(recipe).find(camera_frame(np.array(level), noise, size_wh))


def _weave(period: int, amplitude: float) -> np.ndarray:
    return 120 + amplitude * np.sign(np.sin(2 * np.pi * np.arange(1920) / period))[None, :, None]


def _sheet(hole: int) -> np.ndarray:
    down, across = np.ogrid[:1440, :1920]
    return np.where((down - 500) ** 2 + (across - 900) ** 2 < hole**2, 20, 200)[..., None]


@pytest.mark.parametrize(
    ("seen", "noise"),
    [
        (_weave(8, 60), 2),
        (_weave(24, 30), 2),
        (np.array(120), 8),  # grain
        (_sheet(6), 2),
        (_sheet(60), 2),
        (np.linspace(0, 60, 1920)[None, :, None] * np.array([0, 0, 1]), 0),  # red light
    ],
    ids=["fine weave", "coarse weave", "grain", "hole", "large hole", "red light"],
)
@pytest.mark.parametrize("method", [RoiMethod.FIXED, RoiMethod.NONE])
def test_frame_that_shows_something_is_not_blank(method: RoiMethod, seen: np.ndarray, noise: float) -> None:
    """A texture varies from pixel to pixel, a hole in an even sheet from place to place."""
    recipe = RoiRecipe(method=method, polygon=((0.1, 0.2), (0.9, 0.1), (0.5, 0.8)))
    assert build_roi_finder(recipe).find(camera_frame(seen, noise, (1920, 1440))).mask.any()


def test_fixed_finder_sees_a_sliver() -> None:
    """A polygon between the pixels that are looked at for contrast is looked at whole."""
    sliver = ((0.0, 0.0), (0.004, 0.0), (1.0, 0.998), (0.998, 1.0), (0.0, 0.004))
    finder = build_roi_finder(RoiRecipe(method=RoiMethod.FIXED, polygon=sliver))
    assert finder.find(textured(2000, 2000)).path == "fixed"
