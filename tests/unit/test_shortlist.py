"""The short list of candidates for the nearest vector, and the sketches that it is made from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline import nearest, sketch
from service.pipeline.memory_bank import MemoryBank
from service.pipeline.shortlist import Shortlist
from service.pipeline.sketch import Principal, Rounded, Sketch
from service.pipeline.types import FloatArray
from tests.support.vectors import unit_vectors

SKETCHES = ["bfloat16", "one component", "a third of them"]


def half_norms_of(bank: FloatArray) -> FloatArray:
    return np.asarray((bank**2).sum(axis=1, dtype=np.float64) / 2, np.float32)


def sketch_named(name: str, bank: FloatArray) -> Sketch:
    if name == "bfloat16":
        return Rounded(bank, half_norms_of(bank))
    kept = 1 if name == "one component" else -(-bank.shape[1] // 3)
    _, components = np.linalg.eigh(bank.T @ bank)
    return Principal(bank, half_norms_of(bank), np.ascontiguousarray(components[:, ::-1][:, :kept]))


def alike(rng: np.random.Generator, count: int, dim: int) -> FloatArray:
    """Return vectors that say much the same, as patches of one station do: eight directions, and little besides."""
    directions = np.linalg.qr(np.random.default_rng(8).standard_normal((dim, 8)))[0].T
    vectors = rng.standard_normal((count, 8)) @ directions + 0.01 * rng.standard_normal((count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("name", SKETCHES)
def test_copies_of_one_vector_need_no_long_list(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch that hundreds of vectors come near to is left to plain float32, and no other one with it."""
    rng = np.random.default_rng(6)
    copies = unit_vectors(rng, 1, 64) + np.float32(1e-3) * unit_vectors(rng, 1000, 64)
    far = -copies[:5]
    bank = np.concatenate([copies, far])
    points = np.concatenate([copies[:100] + np.float32(0.1) * unit_vectors(rng, 100, 64), far])
    sketched = sketch_named(name, bank)

    told = np.isfinite(Shortlist(bank, half_norms_of(bank), sketched).distances(points))
    assert not told[:100].any()
    assert told[100:].all()

    monkeypatch.setattr(nearest, "sketch_of", lambda *_: sketched)
    exact = np.linalg.norm(points.astype(np.float64)[:, None] - bank, axis=2).min(axis=1)
    np.testing.assert_allclose(MemoryBank(bank).distances(points), exact, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", SKETCHES)
@pytest.mark.parametrize("length", [0.0, 1e-6, 1e20])
def test_patches_of_another_length_are_told(name: str, length: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to nothing, or beyond all measure: their distance is that of plain float32, never no number."""
    rng = np.random.default_rng(12)
    bank = alike(rng, 400, 48)
    points = np.float32(length) * unit_vectors(rng, 60, 48)
    plain = np.linalg.norm(points.astype(np.float64)[:, None] - bank, axis=2).min(axis=1)
    monkeypatch.setattr(nearest, "sketch_of", lambda *_: sketch_named(name, bank))

    with np.errstate(over="ignore", invalid="ignore"):
        distances = MemoryBank(bank).distances(points)

    np.testing.assert_allclose(distances, plain if length < 1 else np.inf, rtol=1e-4)


@given(
    name=st.sampled_from(SKETCHES),
    dim=st.integers(1, 40),
    counts=st.tuples(st.integers(1, 60), st.integers(1, 1900)),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
    spread=st.sampled_from([1e-4, 1e-2, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_short_list_holds_the_nearest_vector(
    name: str, dim: int, counts: tuple[int, int], scale: float, spread: float, seed: int
) -> None:
    """However vectors crowd and whatever their length, no nearer one than the one found exists."""
    rng = np.random.default_rng(seed)
    bank = scale * (unit_vectors(rng, 1, dim) + np.float32(spread) * unit_vectors(rng, counts[1], dim)).astype(
        np.float32
    )
    points = scale * (
        unit_vectors(rng, counts[0], dim) + np.float32(spread) * unit_vectors(rng, counts[0], dim)
    ).astype(np.float32)
    found = Shortlist(bank, half_norms_of(bank), sketch_named(name, bank)).distances(points)
    closest = np.linalg.norm(points.astype(np.float64)[:, None] - bank, axis=2).min(axis=1)
    longest = max(float(np.linalg.norm(vectors, axis=1).max()) for vectors in (points, bank))
    told = np.isfinite(found)
    np.testing.assert_allclose(found[told], closest[told], rtol=1e-5, atol=1e-6 * longest)


@pytest.mark.parametrize(("name", "offset"), [("bfloat16", 0.0), ("a third of them", 0.0), ("a third of them", 0.3)])
def test_brackets_are_too_small_by_their_error_at_most(name: str, offset: float) -> None:
    """What a sketch says is at least the true bracket, less the error that it admits."""
    rng = np.random.default_rng(9)
    bank = alike(rng, 300, 48)
    points = alike(rng, 50, 48) + np.float32(offset) * unit_vectors(rng, 50, 48)
    sketched, brackets = sketch_named(name, bank), np.empty((50, 300), np.float32)
    sketched.brackets(points)(0, brackets)

    true = points.astype(np.float64) @ bank.T - half_norms_of(bank)
    allowed = sketched.error * np.linalg.norm(points, axis=1) * np.linalg.norm(bank, axis=1).max()
    assert (brackets >= true - allowed[:, None]).all()


@pytest.mark.parametrize("count", [40, 3000, 4097, 9000])
def test_vectors_that_say_much_the_same_are_told_apart_by_few_components(count: int) -> None:
    """And their nearest are found without a look at all the rest, for patches near the bank and far from it."""
    rng = np.random.default_rng(10)
    bank = alike(rng, count, 96)
    points = np.concatenate([alike(rng, 40, 96), unit_vectors(rng, 10, 96)])
    sketched = sketch.sketch_of(bank, half_norms_of(bank))
    assert isinstance(sketched, Principal)

    found = Shortlist(bank, half_norms_of(bank), sketched).distances(points)

    exact = np.linalg.norm(points.astype(np.float64)[:, None] - bank, axis=2).min(axis=1)
    told = np.isfinite(found)
    assert told.mean() > 0.8
    np.testing.assert_allclose(found[told], exact[told], rtol=1e-5)


@pytest.mark.parametrize("pays", [False, True])
def test_vectors_in_all_directions_have_no_leading_components(pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are rounded where this CPU is quick at that, and left as they are where it is not."""
    bank = unit_vectors(np.random.default_rng(11), 500, 96)
    monkeypatch.setattr(sketch, "bfloat16_pays", lambda: pays)

    assert type(sketch.sketch_of(bank, half_norms_of(bank))) is (Rounded if pays else type(None))
