"""The filter bank: what it must see, and what it must not care about."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from schemas.recipe import EmbedRecipe
from service.errors import UsageError
from service.pipeline.embed import build_embedder
from service.pipeline.embed.filters import FilterEmbedder
from service.pipeline.embed.grid import cells_inside
from service.pipeline.memory_bank import MemoryBank
from service.pipeline.scoring import anomaly_map
from service.pipeline.types import BgrImage, FloatArray, NormalizedRoi

SIDE = 640
BODY = (slice(40, 600), slice(220, 420))


def brushed(seed: int) -> BgrImage:
    """Return grey, vertically brushed metal (SIDE, SIDE, 3) with a little noise."""
    rng = np.random.default_rng(seed)
    grey = 128 + cv2.GaussianBlur(rng.normal(0, 60, (SIDE, SIDE)), (0, 0), sigmaX=1.2, sigmaY=25)
    grey = grey + rng.normal(0, 3, grey.shape)
    return np.asarray(cv2.cvtColor(np.clip(grey, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR), np.uint8)


def roi_of(bgr: BgrImage, body: tuple[slice, slice] = BODY, background: int = 114) -> NormalizedRoi:
    """Return `bgr` inside the body, plain `background` outside."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[body] = True
    shown = np.where(mask[..., None], bgr, np.uint8(background)).astype(np.uint8)
    return NormalizedRoi(bgr=shown, mask=mask, origin_xy=(0.0, 0.0), scale=1.0)


def scratched(bgr: BgrImage) -> BgrImage:
    """Draw a thin bright scratch around (320, 320)."""
    return np.asarray(cv2.line(bgr.copy(), (290, 330), (350, 310), (230, 230, 230), 2, cv2.LINE_AA), np.uint8)


def stained(bgr: BgrImage) -> BgrImage:
    """Dim a disc around (320, 320), texture and all, with a brownish tint."""
    disc = cv2.GaussianBlur(cv2.circle(np.zeros((SIDE, SIDE), np.float32), (320, 320), 24, 1.0, -1), (0, 0), 2)
    tint = 1 - np.asarray(disc)[..., None] * np.array([0.45, 0.35, 0.25])
    return np.asarray(np.clip(bgr * tint, 0, 255), np.uint8)


def dented(bgr: BgrImage) -> BgrImage:
    """Put a soft dark-and-bright pair, as a dent in a cylinder shows, around (320, 320)."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - 320
    shade = -60 * (x / 14) * np.exp(-(x**2 + y**2) / (2 * 16**2))
    return np.asarray(np.clip(bgr + shade[..., None], 0, 255), np.uint8)


@pytest.fixture(scope="module")
def embedder() -> FilterEmbedder:
    """Return the embedder of the default recipe."""
    return FilterEmbedder(EmbedRecipe(embedder="filters"))


@pytest.fixture(scope="module")
def bank(embedder: FilterEmbedder) -> MemoryBank:
    """Return every patch of a dozen OK frames."""
    grids = embedder.embed([roi_of(brushed(seed)) for seed in range(12)])
    return MemoryBank(np.concatenate([grid.vectors for grid in grids]))


def map_of(roi: NormalizedRoi, embedder: FilterEmbedder, bank: MemoryBank) -> FloatArray:
    """Return the anomaly map of a ROI."""
    (grid,) = embedder.embed([roi])
    return anomaly_map(bank.distances(grid.vectors), grid.inside)


def test_embed_gives_unit_vectors_on_a_grid(embedder: FilterEmbedder) -> None:
    """One cell for 16 pixels of the ROI, inside the mask only."""
    (grid,) = embedder.embed([roi_of(brushed(0))])

    assert grid.inside.shape == (40, 40)
    assert grid.vectors.shape == (int(grid.inside.sum()), embedder.dim)
    assert grid.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(grid.vectors, axis=1), 1, atol=1e-5)


def test_embed_of_no_rois_is_empty(embedder: FilterEmbedder) -> None:
    """No ROIs, no grids."""
    assert embedder.embed([]) == []


@pytest.mark.parametrize("damage", [scratched, stained, dented])
def test_embedder_sees_damage(embedder: FilterEmbedder, bank: MemoryBank, damage: object) -> None:
    """Scratch, stain and dent stand out where they are, by half as much again as anything on OK frames."""
    assert callable(damage)
    quiet = max(float(map_of(roi_of(brushed(seed)), embedder, bank).max()) for seed in range(50, 58))

    loud = map_of(roi_of(damage(brushed(99))), embedder, bank)

    row, column = np.unravel_index(int(loud.argmax()), loud.shape)
    assert float(loud.max()) > 1.5 * quiet
    assert abs(16 * row + 8 - 320) <= 48
    assert abs(16 * column + 8 - 320) <= 48


def test_embedder_ignores_the_background(embedder: FilterEmbedder) -> None:
    """What lies outside the mask shapes no vector: black, grey and white surroundings give nearly the same."""
    grids = embedder.embed([roi_of(brushed(1), background=level) for level in (0, 114, 255)])

    for other in grids[1:]:
        assert float(np.linalg.norm(grids[0].vectors - other.vectors, axis=1).max()) < 0.02


def test_embedder_does_not_mind_where_the_object_lies(embedder: FilterEmbedder) -> None:
    """Shifted by whole cells, object and vectors are the same."""
    shift = 64
    here = roi_of(brushed(2))
    there = NormalizedRoi(np.roll(here.bgr, shift, axis=1), np.roll(here.mask, shift, axis=1), (0.0, 0.0), 1.0)

    left, right = embedder.embed([here, there])

    assert np.array_equal(np.roll(left.inside, shift // 16, axis=1), right.inside)
    np.testing.assert_allclose(left.vectors, right.vectors, atol=1e-4)


@pytest.mark.parametrize(
    "body", [(slice(300, 303), slice(300, 303)), (slice(0, 640), slice(318, 321)), (slice(0, 640), slice(0, 640))]
)
def test_embed_of_extreme_masks_is_finite(embedder: FilterEmbedder, body: tuple[slice, slice]) -> None:
    """A speck, a hair and a mask that fills the square have finite unit vectors; even a speck has a patch."""
    (grid,) = embedder.embed([roi_of(brushed(3), body)])

    assert len(grid.vectors) >= 1
    np.testing.assert_allclose(np.linalg.norm(grid.vectors, axis=1), 1, atol=1e-4)


def test_embed_of_a_plain_picture_is_finite(embedder: FilterEmbedder) -> None:
    """No contrast at all is no division by zero."""
    (grid,) = embedder.embed([roi_of(np.zeros((SIDE, SIDE, 3), np.uint8))])

    assert np.isfinite(grid.vectors).all()


def test_embed_of_an_empty_mask_is_refused(embedder: FilterEmbedder) -> None:
    """A ROI without an object has no patches, and that is said."""
    with pytest.raises(ValueError, match="empty mask"):
        embedder.embed([roi_of(brushed(0), (slice(0, 0), slice(0, 0)))])


def test_input_side_sets_the_grid() -> None:
    """Twice the side, twice the cells a side; a side that no cell divides is refused in one line."""
    (grid,) = FilterEmbedder(EmbedRecipe(embedder="filters", input_side=640)).embed([roi_of(brushed(0))])

    assert grid.inside.shape == (80, 80)
    with pytest.raises(UsageError, match="multiples of 16 px, not 300"):
        FilterEmbedder(EmbedRecipe(embedder="filters", input_side=300))


@pytest.mark.parametrize("settings", [{"pack_weights": True}, {"weights": "w"}, {"layers": (1,)}, {"pool": 3}])
def test_recipe_refuses_what_the_filters_would_ignore(settings: dict[str, object]) -> None:
    """A setting without effect is a mistake of who wrote it."""
    with pytest.raises(ValidationError, match=r"belong to timm|no weights"):
        EmbedRecipe.model_validate({"embedder": "filters", **settings})


def test_build_embedder_makes_the_filters() -> None:
    """By name, the same every time."""
    first, second = (build_embedder(EmbedRecipe(embedder="filters"), torch.device("cpu")) for _ in range(2))

    assert (first.name, first.state(), first.weights_bytes) == ("filters", {}, 0)
    assert first.digest == second.digest
    assert len(first.digest) == 64


def test_cells_inside_counts_half_covered_cells() -> None:
    """Half is inside, less is not; where nothing is half covered the best covered cells are."""
    covered: FloatArray = np.zeros((20, 20), np.float32)
    covered[:, :5] = 1
    assert cells_inside(covered, 2, 2).tolist() == [[True, False], [True, False]]
    covered[:, 4] = 0
    covered[:10, 3] = 0
    assert cells_inside(covered, 2, 2).tolist() == [[False, False], [True, False]]
