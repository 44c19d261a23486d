"""Pixel statistics, masks and boxes against masks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from adapters.frames import decode_image
from schemas.messages import Box
from service.errors import FrameCorrupt, UsageError
from service.evaluation.evidence import LONGEST_PX, evidence_picture
from service.evaluation.pixels import PixelStatistics, frame_scores
from service.evaluation.truth import MaskFolder, MaskRefused, match_boxes, read_mask
from service.model.dataset import Decode, FrameFile
from service.pipeline.types import Frame, Inspection, NormalizedRoi, Prepared, Roi, StageTimes
from tests.support.parts import HEIGHT, WIDTH, draw_part

decode = Decode(partial(decode_image, max_pixels=1_000_000))


def inspection_of(
    grid: np.ndarray, origin_xy: tuple[float, float], scale: float, frame_wh: tuple[int, int]
) -> Inspection:
    """Return an inspection with a hand-made anomaly map over a square of 80 px."""
    width, height = frame_wh
    frame = Frame(np.zeros((height, width, 3), np.uint8))
    square = NormalizedRoi(np.zeros((80, 80, 3), np.uint8), np.ones((80, 80), bool), origin_xy, scale)
    roi = Roi(np.ones((height, width), bool), (0, 0, width, height), "none")
    prepared = Prepared(frame, roi, square, StageTimes())
    return Inspection(prepared, 1.0, 0.5, True, False, (), grid.astype(np.float32), StageTimes())


def files(*names: str) -> tuple[FrameFile, ...]:
    return tuple(FrameFile(Path(name), name) for name in names)


def test_nothing_seen_has_no_figures() -> None:
    """No frame, and OK frames alone."""
    statistics = PixelStatistics()
    assert (statistics.auroc(), statistics.aupro()) == (None, None)
    statistics.add(np.full((4, 5), 0.3, np.float32), np.zeros((4, 5), bool))
    assert (statistics.auroc(), statistics.aupro(), statistics.frames, statistics.regions) == (None, None, 1, 0)


def test_a_perfect_map_has_perfect_figures() -> None:
    """Every pixel of the damage above every other; a score beyond the scale counts as the largest."""
    truth = np.zeros((20, 20), bool)
    truth[3:6, 4:9] = True
    statistics = PixelStatistics()
    statistics.add(np.where(truth, 2.5, 0.1).astype(np.float32), truth)
    assert statistics.auroc() == pytest.approx(1.0)
    assert statistics.aupro() == pytest.approx(1.0)


def test_small_damage_counts_as_much_as_large() -> None:
    """One of two regions is seen: the overlap is a half, however many pixels the other has."""
    truth = np.zeros((60, 60), bool)
    truth[0:40, 0:40] = True
    truth[50:52, 50:52] = True
    scores = np.zeros((60, 60), np.float32)
    scores[50:52, 50:52] = 1.0
    statistics = PixelStatistics()
    statistics.add(scores, truth)
    aupro, auroc = statistics.aupro(), statistics.auroc()
    assert aupro is not None
    assert auroc is not None
    # from a half at no false positives on the straight line to (1, 1): at 0.3 it is 0.65
    assert aupro == pytest.approx((0.5 + 0.65) / 2)
    assert auroc < 0.51


def test_map_lies_over_the_frame_where_the_square_does() -> None:
    """A grid of 10 cells over a square of 160 frame pixels at (30, 20): cell (row 2, column 5) is 16 px wide."""
    grid = np.full((10, 10), 0.01)
    grid[2, 5] = 1.0
    scores = frame_scores(inspection_of(grid, (30.0, 20.0), 0.5, (240, 200)), blur_sigma=0.0)
    assert scores.shape == (200, 240)
    assert scores.dtype == np.float32
    ys, xs = np.nonzero(scores > 0.5)
    assert (np.mean(xs), np.mean(ys)) == pytest.approx((30 + 5.5 * 16 - 0.5, 20 + 2.5 * 16 - 0.5), abs=0.1)
    assert scores[:18].max() == scores[:, :28].max() == scores[:, 192:].max() == 0.0


def test_map_may_reach_beyond_the_frame() -> None:
    """The square of a part at the border."""
    scores = frame_scores(inspection_of(np.ones((10, 10)), (-40.0, -40.0), 1.0, (64, 48)), blur_sigma=0.5)
    assert scores.shape == (48, 64)
    assert scores[0, 0] == pytest.approx(1.0, abs=1e-5)
    assert scores[45, 45] == 0.0


def test_evidence_shows_damage_beyond_the_part() -> None:
    """The view holds the true damage wherever it lies; without a truth it is that of the part."""
    inspection = inspection_of(np.ones((10, 10)), (40.0, 40.0), 2.0, (200, 100))
    part = Roi(np.ones((100, 200), bool), (40, 40, 80, 80), "fixed")
    inspection = replace(inspection, prepared=replace(inspection.prepared, roi=part))
    truth = np.zeros((100, 200), bool)
    truth[45:50, 195:200] = True
    alone, together = (evidence_picture(inspection, known, patch_tau=0.5) for known in (None, truth))
    assert alone.shape == (LONGEST_PX, 2 * LONGEST_PX + 6, 3)
    assert together.shape[0] < together.shape[1] // 2 == LONGEST_PX + 3
    assert (together[:, : LONGEST_PX - 1].max(axis=(0, 2)) > 0)[-40:].any()


def box(x1: int, y1: int, x2: int, y2: int) -> Box:
    return Box(x1=x1, y1=y1, x2=x2, y2=y2, score=1.0)


def test_boxes_match_the_components_they_cover_half_of() -> None:
    """One component found by two boxes together, one grazed, one missed; a box beside everything is wrong."""
    truth = np.zeros((50, 50), bool)
    truth[10:20, 10:20] = truth[30:40, 10:20] = truth[30:40, 40:50] = True
    boxes = [box(10, 10, 13, 20), box(16, 10, 20, 20), box(10, 38, 20, 45), box(0, 0, 5, 5)]
    match = match_boxes(boxes, truth)
    assert (match.components, match.components_found, match.boxes_right) == (3, 1, 3)
    predicted, common = 30 + 40 + 70 + 25, 30 + 40 + 20
    assert match.iou == pytest.approx(common / (300 + predicted - common))


def test_no_boxes_find_nothing() -> None:
    """The empty case."""
    truth = np.eye(9, dtype=bool)
    match = match_boxes([], truth)
    assert (match.components, match.components_found, match.boxes_right, match.iou) == (1, 0, 0, 0.0)


def write(path: Path, picture: np.ndarray) -> FrameFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return FrameFile(path, path.name)


def test_masks_are_found_by_path_then_by_stem(tmp_path: Path) -> None:
    """A folder of its own for each kind of damage, or one for all."""
    for name in ("dent/1.png", "1.png", "2.png"):
        write(tmp_path / name, np.full((2, 2), 255, np.uint8))
    names = ("dent/1.jpg", "scratch/1.jpg", "2.bmp", "3.jpg")
    masks = MaskFolder.open(tmp_path, files(*names))
    assert len(masks) == 3
    found = [masks.find(name) for name in names]
    assert [file and file.name for file in found] == ["dent/1.png", "1.png", "2.png", None]
    masks = MaskFolder.open(tmp_path, files("1.jpg", "b/1.jpg"))
    assert masks.find("1.jpg") is not None
    assert masks.find("b/1.jpg") is None


@pytest.mark.parametrize("frames", [("a/1.jpg", "b/1.jpg"), ("1.jpg", "1.bmp")])
def test_a_mask_of_several_frames_is_refused(frames: tuple[str, ...]) -> None:
    """By its name: of a stem in two folders, or of a name with two suffixes."""
    with pytest.raises(UsageError, match=rf"^mask 1\.png would be that of {frames[0]} and {frames[1]}"):
        MaskFolder(files("1.png"), files(*frames))


def test_two_masks_of_one_frame_are_refused() -> None:
    """Neither takes the place of the other."""
    with pytest.raises(UsageError, match=r"^masks 1\.png and 1\.tif are both of one frame"):
        MaskFolder(files("1.png", "1.tif"), files("1.jpg"))


def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Another size, 0/1 in the place of 0/255, no picture at all."""
    good = np.zeros((6, 8), np.uint8)
    good[2, 3] = 255
    assert np.argwhere(read_mask(write(tmp_path / "a.png", good), decode, (8, 6))).tolist() == [[2, 3]]
    with pytest.raises(MaskRefused, match="8 x 6 pixels"):
        read_mask(FrameFile(tmp_path / "a.png", "a.png"), decode, (6, 8))
    with pytest.raises(MaskRefused, match="marks nothing"):
        read_mask(write(tmp_path / "b.png", good // 255), decode, (8, 6))
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(FrameCorrupt):
        read_mask(FrameFile(tmp_path / "c.png", "c.png"), decode, (8, 6))


def test_a_photo_is_no_mask(tmp_path: Path) -> None:
    """Neither in colour nor in grey; a mask that went through JPEG, or was drawn with soft edges, is one."""
    part, size_wh = draw_part(1), (WIDTH, HEIGHT)
    mask = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (120, 90), 30, 255, cv2.FILLED)
    coloured = np.dstack([mask, mask, np.zeros_like(mask)])
    for refused, why in ((cv2.applyColorMap(part, cv2.COLORMAP_JET), "in colour"), (coloured, "in colour")):
        with pytest.raises(MaskRefused, match=why):
            read_mask(write(tmp_path / "a.png", refused), decode, size_wh)
    with pytest.raises(MaskRefused, match="neither 0 nor 255"):
        read_mask(write(tmp_path / "a.png", part), decode, size_wh)
    soft = cv2.GaussianBlur(mask, (3, 3), 0)
    jpeg = tmp_path / "b.jpg"
    jpeg.write_bytes(cv2.imencode(".jpg", soft, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes())
    taken = read_mask(FrameFile(jpeg, "b.jpg"), decode, size_wh)
    assert np.count_nonzero(taken != (mask > 127)) < 0.01 * mask.size
