"""Pixel AUROC and AUPRO against their definitions, over every pixel and every threshold in double precision."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from service.evaluation.pixels import AUPRO_LIMIT, BINS, LARGEST, PixelStatistics

Scene = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]


def regions_of(truth: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    """Return the 8-connected components by flooding from pixel to pixel."""
    left = set(zip(*(axis.tolist() for axis in np.nonzero(truth)), strict=True))
    regions = []
    while left:
        stack, region = [left.pop()], np.zeros_like(truth)
        while stack:
            y, x = stack.pop()
            region[y, x] = True
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack.extend(near)
        regions.append(region)
    return regions


def plain_aupro(scenes: list[Scene], limit: float) -> float:
    """Sweep the threshold over every score; integrate the mean overlap up to the limit by trapezoids."""
    normal = np.concatenate([scores[~truth] for scores, truth in scenes])
    regions = [scores[region] for scores, truth in scenes for region in regions_of(truth)]
    thresholds = np.unique(np.concatenate([scores.ravel() for scores, _ in scenes]))[::-1]
    points = [(0.0, 0.0)]
    for threshold in thresholds:
        rate = float(np.mean(normal >= threshold))
        points.append((rate, float(np.mean([np.mean(region >= threshold) for region in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 <= limit:
            at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + at_limit) / 2
    return area / limit


def plain_auroc(scenes: list[Scene]) -> float:
    """Compare every anomalous pixel with every normal one."""
    normal = np.concatenate([scores[~truth] for scores, truth in scenes])
    anomalous = np.concatenate([scores[truth] for scores, truth in scenes])
    return float((anomalous[:, None] > normal).sum() + 0.5 * (anomalous[:, None] == normal).sum()) / (
        len(normal) * len(anomalous)
    )


def scenes_of(seed: int, shift: float) -> list[Scene]:
    """Return a few maps with several regions of very different size, ties, and an OK frame; scores lie on bins."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    for index in range(4):
        truth = np.zeros((24, 31), bool)
        if index:
            truth[2:14, 3:9] = True
            truth[18, 20] = truth[19, 21] = True  # one region: neighbours across a corner
            truth[4 : 4 + index, 25:28] = True
        level = rng.gamma(2.0, 0.15, truth.shape) + shift * truth * rng.random(truth.shape)
        coarse = np.round(np.clip(level, 0, 1.9) * 50) / 50
        bins = np.floor(coarse * BINS / LARGEST)
        scenes.append((((bins + 0.5) * LARGEST / BINS).astype(np.float32), truth))
    return scenes


@pytest.mark.parametrize("shift", [0.0, 0.4, 1.5])
@pytest.mark.parametrize("limit", [AUPRO_LIMIT, 0.05, 1.0])
def test_pixel_metrics_equal_their_definitions(shift: float, limit: float) -> None:
    """Useless, middling and good maps; scores in the middle of a bin lose nothing."""
    scenes = scenes_of(7, shift)
    statistics = PixelStatistics()
    for scores, truth in scenes:
        statistics.add(scores, truth)
    assert statistics.regions == sum(len(regions_of(truth)) for _, truth in scenes) == 9
    assert statistics.aupro(limit) == pytest.approx(plain_aupro(scenes, limit), abs=1e-12)
    assert statistics.auroc() == pytest.approx(plain_auroc(scenes), abs=1e-12)
