"""Damage made up for training: what may be called damage, and what may not."""

from __future__ import annotations

import numpy as np
import pytest

from service.pipeline.types import FloatArray
from service.pretraining.damage import FAINTEST, paint

SIDE = 96


def plain(level: float = 0.5) -> FloatArray:
    return np.full((SIDE, SIDE, 3), level, np.float32)


@pytest.mark.parametrize("seed", range(120))
def test_painted_damage_is_visible_where_it_is_labelled(seed: int) -> None:
    """Whatever is painted stays a picture; only changed pixels are labelled, and what nobody sees is not."""
    rng = np.random.default_rng(seed)
    image = np.clip(plain() + rng.normal(0, 0.03, (SIDE, SIDE, 1)), 0, 1).astype(np.float32)
    weight = np.zeros((SIDE, SIDE), np.float32)
    weight[:, : SIDE // 2] = 1

    painted = paint(rng, image, weight, lambda: plain(0.8))

    assert painted.image.shape == image.shape
    assert painted.image.dtype == np.float32
    assert np.isfinite(painted.image).all()
    assert painted.image.min() >= 0
    assert painted.image.max() <= 1
    assert not painted.changed[:, SIDE // 2 :].any()
    if painted.label is not None:
        change = np.abs(painted.image - image).max(axis=2)[painted.label]
        assert not (painted.label & ~painted.changed).any()
        assert np.count_nonzero(painted.label) >= 4
        assert change.mean() >= FAINTEST


def test_most_damage_on_a_plain_surface_is_labelled_and_some_is_too_faint() -> None:
    """Both happen; were either never so, the label would be a constant."""
    labels = [
        paint(np.random.default_rng(seed), plain(), np.ones((SIDE, SIDE), np.float32), lambda: plain(0.8)).label
        for seed in range(200)
    ]
    labelled = sum(label is not None for label in labels)

    assert 100 < labelled < 200


def test_the_same_seed_paints_the_same_damage() -> None:
    """A training can be repeated."""
    first, second = (
        paint(np.random.default_rng(7), plain(), np.ones((SIDE, SIDE), np.float32), lambda: plain(0.8))
        for _ in range(2)
    )

    np.testing.assert_array_equal(first.image, second.image)
