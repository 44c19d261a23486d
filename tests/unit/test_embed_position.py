"""Vectors that know where on the part they lie."""

from __future__ import annotations

import numpy as np
import torch

from schemas.recipe import EmbedRecipe
from service.pipeline.embed import build_embedder
from service.pipeline.embed.position import places
from service.pipeline.types import NormalizedRoi

CPU = torch.device("cpu")


def test_places_run_from_zero_to_one_over_the_part() -> None:
    """Wherever the part lies in the square; a part of one cell has a place as well."""
    inside = np.zeros((6, 6), bool)
    inside[2:5, 1:3] = True

    assert places(inside).tolist() == [[0, 0], [0, 1], [0.5, 0], [0.5, 1], [1, 0], [1, 1]]
    inside[:] = False
    inside[3, 3] = True
    assert places(inside).tolist() == [[0, 0]]


def test_position_is_appended_with_its_weight_and_changes_the_digest() -> None:
    """Two numbers at the end; the package of one weight is not taken for that of another."""
    roi = NormalizedRoi(np.full((320, 320, 3), 90, np.uint8), np.ones((320, 320), bool), (0.0, 0.0), 1.0)
    plain, placed, more = (build_embedder(EmbedRecipe(position_weight=weight), CPU) for weight in (0.0, 0.5, 0.6))

    (bare,), (grid,) = plain.embed([roi]), placed.embed([roi])

    assert placed.dim == plain.dim + 2
    np.testing.assert_array_equal(grid.vectors[:, :-2], bare.vectors)
    assert grid.vectors[0, -2:].tolist() == [0, 0]
    assert grid.vectors[-1, -2:].tolist() == [0.5, 0.5]
    assert len({plain.digest, placed.digest, more.digest}) == 3
