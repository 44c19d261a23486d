"""The pipeline object: real stages on drawn parts, on a part that fills a fixed polygon."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from schemas.recipe import MemoryRecipe, Recipe, RoiMethod, RoiRecipe
from service.errors import RoiNotFound
from service.pipeline.embed import build_embedder
from service.pipeline.memory_bank import MemoryBank, build_memory_bank
from service.pipeline.pipeline import Pipeline
from service.pipeline.roi import build_roi_finder
from service.pipeline.scoring import image_score
from service.pipeline.types import Frame, Roi

CPU = torch.device("cpu")
WIDTH, HEIGHT = 400, 300
RECIPE = Recipe(
    roi=RoiRecipe(method=RoiMethod.FIXED, polygon=((0.3, 0.1), (0.7, 0.1), (0.7, 0.9), (0.3, 0.9))),
    memory=MemoryRecipe(coreset_min=500),
)


def part(seed: int, *, scratched: bool = False) -> Frame:
    """Return a brushed plate on a plain desk; the scratch runs around (200, 150)."""
    rng = np.random.default_rng(seed)
    grey = np.full((HEIGHT, WIDTH), 90.0)
    plate = (slice(30, 270), slice(120, 280))
    texture = cv2.GaussianBlur(rng.normal(0, 60, (HEIGHT, WIDTH)), (0, 0), sigmaX=1.0, sigmaY=15)
    grey[plate] = 140 + texture[plate] + rng.normal(0, 2, grey.shape)[plate]
    bgr = np.asarray(cv2.cvtColor(np.clip(grey, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR), np.uint8)
    if scratched:
        cv2.line(bgr, (185, 160), (215, 140), (250, 250, 250), 2, cv2.LINE_AA)
    return Frame(bgr, uri=f"memory:{seed}")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """Return a pipeline whose thresholds lie just above eight other OK parts."""
    finder, embedder = build_roi_finder(RECIPE.roi), build_embedder(RECIPE.embed, CPU)
    anything = MemoryBank(np.eye(embedder.dim, dtype=np.float32))
    untuned = Pipeline(RECIPE, finder, embedder, anything, tau=1.0, patch_tau=1.0, rim=())

    def patches(seeds: range) -> list[np.ndarray]:
        normalized = [untuned.prepare(part(seed)).normalized for seed in seeds]
        return [grid.vectors for grid in embedder.embed(normalized)]

    bank = build_memory_bank(np.concatenate(patches(range(12))), RECIPE.memory)
    limit = 1.2 * max(float(bank.distances(vectors).max()) for vectors in patches(range(20, 28)))
    return Pipeline(RECIPE, finder, embedder, bank, tau=limit, patch_tau=limit, rim=())


def test_pipeline_passes_an_ok_part(pipeline: Pipeline) -> None:
    """A part like the others is OK, without a box, and carries its map, threshold and times."""
    (inspection,) = pipeline.inspect([part(50)])

    assert not inspection.damaged
    assert inspection.boxes == ()
    assert inspection.score < inspection.threshold == pipeline.tau
    assert inspection.score == pytest.approx(float(inspection.anomaly_map.max()))
    times = inspection.times
    assert min(times.roi, times.normalize, times.embed, times.score, times.boxes) >= 0
    assert times.embed > 0


def test_pipeline_boxes_the_damage_in_the_full_frame(pipeline: Pipeline) -> None:
    """A scratched part is damaged; a box covers the scratch and little else, in pixels of the frame."""
    (inspection,) = pipeline.inspect([part(51, scratched=True)])

    assert inspection.damaged
    x1, y1, x2, y2 = inspection.boxes[0].xyxy
    assert x1 <= 190
    assert y1 <= 145
    assert x2 >= 210
    assert y2 >= 155
    assert (x2 - x1) * (y2 - y1) < 80 * 80


def test_pipeline_judges_a_batch_as_one_by_one(pipeline: Pipeline) -> None:
    """Order is kept, and no frame depends on its neighbours."""
    frames = [part(60), part(61, scratched=True), part(62)]

    together = pipeline.inspect(frames)
    alone = [pipeline.inspect([frame])[0] for frame in frames]

    assert [each.prepared.frame.uri for each in together] == ["memory:60", "memory:61", "memory:62"]
    assert [each.score for each in together] == pytest.approx([each.score for each in alone], abs=1e-6)
    assert [each.boxes for each in together] == [each.boxes for each in alone]


def test_pipeline_of_no_frames_is_empty(pipeline: Pipeline) -> None:
    """No frames, no inspections."""
    assert pipeline.inspect([]) == []
    assert pipeline.judge([]) == []


def test_pipeline_uses_the_statistic_of_the_recipe(pipeline: Pipeline) -> None:
    """The score is that of the recipe, from the distances in the map."""
    (inspection,) = pipeline.inspect([part(70)])
    grid = pipeline.embedder.embed([inspection.prepared.normalized])[0]

    assert inspection.score == image_score(inspection.anomaly_map[grid.inside], RECIPE.score.statistic)


def test_damaged_frame_shows_a_box_though_no_patch_stands_out(pipeline: Pipeline) -> None:
    """Damage spread too thinly for any single patch is still shown where it is strongest."""
    strict = Pipeline(
        RECIPE, pipeline.roi_finder, pipeline.embedder, pipeline.bank, tau=0.5 * pipeline.tau, patch_tau=10.0, rim=()
    )

    (inspection,) = strict.inspect([part(80, scratched=True)])

    assert inspection.damaged
    assert inspection.boxes


def test_prepare_passes_on_that_there_is_no_part(pipeline: Pipeline) -> None:
    """What the ROI finder refuses is refused with its own reason."""

    class Blind:
        def find(self, bgr: np.ndarray) -> Roi:
            raise RoiNotFound(f"nothing in {bgr.shape}")

    blind = Pipeline(RECIPE, Blind(), pipeline.embedder, pipeline.bank, tau=1.0, patch_tau=1.0, rim=())

    with pytest.raises(RoiNotFound, match="nothing in"):
        blind.inspect([part(90)])
