"""The objective: what counts as damaged, and what lowers the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from service.pretraining.episodes import REFERENCES, SIDE, VIEWS, Label
from service.pretraining.objective import Truth, loss

CELLS = SIDE // 8


def truth_with(square: slice) -> Truth:
    """Return the truth of one episode whose judged views are damaged in a square."""
    labels = torch.zeros((VIEWS, SIDE, SIDE), dtype=torch.uint8)
    labels[REFERENCES:, square, square] = Label.DAMAGED
    return Truth.of(torch.ones((VIEWS, SIDE, SIDE), dtype=torch.uint8), labels)


def test_cells_beside_damage_are_neither_sound_nor_damaged() -> None:
    """A ring of one cell around damage is left out: nothing there is certain."""
    truth = truth_with(slice(32, 48))

    assert truth.damaged[REFERENCES].nonzero().tolist() == [[4, 4], [4, 5], [5, 4], [5, 5]]
    assert not truth.sound[REFERENCES, 3:7, 3:7].any()
    assert truth.sound[REFERENCES, 2, 2]
    assert truth.sound[:REFERENCES].all()


def test_a_sliver_of_damage_is_not_a_damaged_cell() -> None:
    """Less than the least share is neither damaged nor sound."""
    truth = truth_with(slice(32, 33))

    assert not truth.damaged.any()
    assert not truth.sound[REFERENCES, 4, 4]


def vectors_with(offset: float, truth: Truth) -> torch.Tensor:
    """Return random unit vectors whose damaged cells point elsewhere by `offset`."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn((VIEWS, 16, CELLS, CELLS), generator=generator) * 0.05
    vectors[:, 0] += 1
    vectors[:, 1] += offset * truth.damaged
    return functional.normalize(vectors, dim=1).requires_grad_()


def test_loss_falls_as_damage_moves_away_from_the_bank() -> None:
    """And the share of pairs in the right order rises from chance to all; gradients are finite."""
    truth = truth_with(slice(32, 64))
    logits = torch.zeros((VIEWS, CELLS, CELLS))
    results = [loss(vectors_with(offset, truth), logits, truth) for offset in (0.0, 0.3, 1.0)]

    assert results[0].ranking > results[1].ranking > results[2].ranking
    assert results[0].ranked < 0.3
    assert results[2].ranked == 1

    vectors = vectors_with(0.3, truth)
    loss(vectors, logits, truth).total.backward()  # type: ignore[no-untyped-call]  # torch
    assert vectors.grad is None or bool(torch.isfinite(vectors.grad).all())


def test_loss_of_a_batch_without_damage_is_finite() -> None:
    """Nothing to rank is no division by zero."""
    truth = truth_with(slice(0, 0))

    result = loss(vectors_with(0, truth), torch.zeros((VIEWS, CELLS, CELLS)), truth)

    assert np.isfinite(float(result.total.detach()))
    assert result.ranking == 0
    assert np.isnan(result.ranked)


def test_vectors_in_one_point_cost() -> None:
    """A network that says the same of everything is not a way out."""
    truth = truth_with(slice(32, 64))
    same = functional.normalize(torch.ones((VIEWS, 16, CELLS, CELLS)), dim=1)

    assert loss(same, torch.zeros((VIEWS, CELLS, CELLS)), truth).spread == pytest.approx(0.6)
