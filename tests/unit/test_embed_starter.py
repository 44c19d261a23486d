"""The starter embedder: its shipped weights, and what network and filters make of a part together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from schemas.recipe import EmbedRecipe
from service.errors import UsageError
from service.pipeline.embed import build_embedder, starter
from service.pipeline.embed.filters import FilterEmbedder
from service.pipeline.embed.grid import cut_out
from service.pipeline.embed.starter import StarterEmbedder
from service.pipeline.embed.starter_network import StarterNetwork, normalize_locally
from service.pipeline.embed.weights import read_tensors
from service.pipeline.memory_bank import MemoryBank
from service.pipeline.types import BgrImage, FloatArray, Mask, NormalizedRoi

CPU = torch.device("cpu")
SIDE = 320


@pytest.fixture(scope="module")
def embedder() -> StarterEmbedder:
    return StarterEmbedder(EmbedRecipe(), CPU)


def part(seed: int, *, background: int = 114, damage: bool = False) -> NormalizedRoi:
    """Return a plate with a grain of its own, a hole where it is damaged, plain around it."""
    rng = np.random.default_rng(seed)
    bgr: BgrImage = np.clip(rng.normal(130, 12, (SIDE, SIDE, 1)).repeat(3, axis=2), 0, 255).astype(np.uint8)
    mask: Mask = np.zeros((SIDE, SIDE), bool)
    mask[24:290, 70:230] = True
    if damage:
        bgr[150:170, 120:150] = 30
    return NormalizedRoi(np.where(mask[..., None], bgr, np.uint8(background)), mask, (0.0, 0.0), 1.0)


def test_default_recipe_is_the_starter_with_its_shipped_weights() -> None:
    """Nothing has to be had from anywhere; the same vectors in every process."""
    first, second = (build_embedder(EmbedRecipe(), CPU) for _ in range(2))

    assert first.name == "starter"
    assert first.digest == second.digest
    assert starter.WEIGHTS.stat().st_size == pytest.approx(first.weights_bytes / 2, rel=0.05)
    assert first.weights_bytes < 12e6


def test_shipped_weights_that_were_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit: what judges must be what was installed."""
    content = bytearray(starter.WEIGHTS.read_bytes())
    content[-1] ^= 1
    changed = tmp_path / "starter.safetensors"
    changed.write_bytes(content)
    monkeypatch.setattr(starter, "WEIGHTS", changed)
    with pytest.raises(UsageError, match="is not what was installed"):
        StarterEmbedder(EmbedRecipe(), CPU)


@pytest.mark.parametrize("cells", [(1, 0), (0, 1), (2, -3)])
def test_where_a_part_stands_changes_nothing(cells: tuple[int, int], embedder: StarterEmbedder) -> None:
    """A part that stands some cells beside has the same patches: none knows where the network's strides fall."""
    roi = part(4)
    shift = (8 * cells[0], 8 * cells[1])
    moved = NormalizedRoi(np.roll(roi.bgr, shift, (0, 1)), np.roll(roi.mask, shift, (0, 1)), (0.0, 0.0), 1.0)

    (here,), (there,) = embedder.embed([roi]), embedder.embed([moved])

    np.testing.assert_array_equal(there.inside, np.roll(here.inside, cells, (0, 1)))
    np.testing.assert_allclose(there.vectors, here.vectors, atol=1e-6)


def test_vectors_are_those_of_filters_and_network(embedder: StarterEmbedder) -> None:
    """Side by side, of unit length together; the network as it was trained, without what makes it faster here."""
    roi = part(0)
    (grid,) = embedder.embed([roi])
    (filtered,) = FilterEmbedder(EmbedRecipe(embedder="filters")).embed([roi])
    cut = cut_out(roi, SIDE)
    network = StarterNetwork.of_state(read_tensors(starter.WEIGHTS.read_bytes())).double().eval()
    picture = torch.from_numpy(cut.bgr).permute(2, 0, 1)[None].double() / 255
    covered = torch.from_numpy(cut.covered >= 0.5)[None, None].double()
    with torch.inference_mode():
        seen = network(normalize_locally(picture, covered))[0].permute(1, 2, 0).numpy()
    expected = np.hstack([filtered.vectors, seen[grid.inside[cut.cells]]])

    assert grid.vectors.shape == (len(filtered.vectors), embedder.dim)
    np.testing.assert_allclose(grid.vectors, expected / np.sqrt(2), atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(grid.vectors, axis=1), 1, atol=1e-5)


def test_damage_is_far_from_the_bank_and_the_rest_is_not(embedder: StarterEmbedder) -> None:
    """A hole in a plate whose grain is never the same twice."""
    bank = MemoryBank(np.concatenate([grid.vectors for grid in embedder.embed([part(seed) for seed in range(4)])]))
    sound, damaged = embedder.embed([part(9), part(10, damage=True)])
    far, near = bank.distances(damaged.vectors), bank.distances(sound.vectors)
    place = np.argwhere(damaged.inside)[far.argmax()] * SIDE / 40

    assert far.max() > 1.5 * near.max()
    assert (abs(place - (160, 135)) < 24).all()


def test_background_does_not_count(embedder: StarterEmbedder) -> None:
    """What lies around the part may change with the weather."""
    dark, light = embedder.embed([part(0, background=0), part(0, background=255)])

    np.testing.assert_array_equal(dark.inside, light.inside)
    np.testing.assert_allclose(dark.vectors, light.vectors, atol=1e-3)


@pytest.mark.parametrize(
    "body", [(slice(0, 1), slice(0, 1)), (slice(0, 320), slice(0, 320)), (slice(3, 6), slice(0, 320))]
)
def test_extreme_masks_give_finite_vectors(embedder: StarterEmbedder, body: tuple[slice, slice]) -> None:
    """One pixel, everything, a line."""
    mask: Mask = np.zeros((SIDE, SIDE), bool)
    mask[body] = True
    (grid,) = embedder.embed([NormalizedRoi(part(0).bgr, mask, (0.0, 0.0), 1.0)])
    vectors: FloatArray = grid.vectors

    assert len(vectors) == np.count_nonzero(grid.inside) > 0
    assert np.isfinite(vectors).all()


def test_input_side_sets_the_grid() -> None:
    """A side that the network cannot halve often enough is refused in one line."""
    (grid,) = StarterEmbedder(EmbedRecipe(input_side=160), CPU).embed([part(0)])

    assert grid.inside.shape == (20, 20)
    with pytest.raises(UsageError, match="multiples of 16 px, not 300"):
        StarterEmbedder(EmbedRecipe(input_side=300), CPU)


@pytest.mark.parametrize("settings", [{"layers": (1,)}, {"pool": 3}, {"pool": 2}])
def test_recipe_refuses_what_the_starter_would_ignore(settings: dict[str, object]) -> None:
    """A setting without effect is a mistake of who wrote it."""
    with pytest.raises(ValidationError, match=r"timm|odd"):
        EmbedRecipe.model_validate(settings)


def test_other_weights_are_another_embedder(tmp_path: Path, embedder: StarterEmbedder) -> None:
    """A bank is only of use with the weights that made it."""
    content = bytearray(starter.WEIGHTS.read_bytes())
    content[-1] ^= 1
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)

    assert StarterEmbedder(EmbedRecipe(weights=str(path)), CPU).digest != embedder.digest
