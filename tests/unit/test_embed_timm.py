"""The timm embedder, with small checkpoints of the right shape and random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from schemas.recipe import EmbedRecipe
from service.errors import UsageError
from service.pipeline.embed import Embedder, build_embedder
from service.pipeline.embed.centres import centres_of
from service.pipeline.embed.timm_backbone import TimmEmbedder
from service.pipeline.types import BgrImage, FloatArray, NormalizedRoi
from tests.support.checkpoints import NO_CHECKPOINTS

CPU = torch.device("cpu")


def make_checkpoint(backbone: str, folder: Path, seed: int = 1) -> Path:
    """Save random weights of `backbone` the way its authors would, head and all."""
    torch.manual_seed(seed)
    path = folder / f"{backbone}.pth"
    torch.save(timm.create_model(backbone).state_dict(), path)
    return path


def embedder_of(backbone: str, weights: Path, **settings: object) -> Embedder:
    """Build the timm embedder of a recipe."""
    recipe = EmbedRecipe.model_validate({"embedder": f"timm:{backbone}", "weights": str(weights), **settings})
    return build_embedder(recipe, CPU)


def roi(seed: int = 0, side: int = 96) -> NormalizedRoi:
    """Return a noise image whose left half is the object."""
    mask = np.zeros((side, side), bool)
    mask[:, : side // 2] = True
    bgr = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return NormalizedRoi(bgr=bgr, mask=mask, origin_xy=(0.0, 0.0), scale=1.0)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ResNet-18 checkpoint."""
    return make_checkpoint("resnet18", tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize(
    ("backbone", "settings", "dim", "cells"),
    [
        ("resnet18", {"input_side": 64, "layers": (2,)}, 128, 8),
        ("resnet18", {"input_side": 128, "layers": (2, 3), "pool": 3}, 384, 16),
        ("convnext_atto", {"input_side": 96, "layers": (1, 2)}, 240, 12),
        ("vit_tiny_patch16_224", {"input_side": 96, "layers": (3, 11)}, 384, 6),
        ("vit_small_patch14_dinov2", {"input_side": 112}, 384, 8),
        ("swin_tiny_patch4_window7_224", {"layers": (1, 2)}, 576, 28),
    ],
)
def test_embed_joins_layers_at_the_finest_grid(
    tmp_path: Path, backbone: str, settings: dict[str, object], dim: int, cells: int
) -> None:
    """CNNs, ViTs and channels-last networks give unit vectors of the half that is object, at any input side."""
    embedder = embedder_of(backbone, make_checkpoint(backbone, tmp_path), **settings)

    grids = embedder.embed([roi(1), roi(2)])

    assert embedder.dim == dim
    assert len(grids) == 2
    for grid in grids:
        assert grid.inside.shape == (cells, cells)
        assert grid.vectors.shape == (cells * cells // 2, dim)
        assert grid.vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(grid.vectors, axis=1), 1, atol=1e-5)


def test_embed_of_a_batch_equals_one_by_one(resnet: Path) -> None:
    """A frame's vectors do not depend on what it is judged together with."""
    embedder = embedder_of("resnet18", resnet, input_side=64, layers=(2,))

    together = embedder.embed([roi(1), roi(2)])
    alone = [embedder.embed([each])[0] for each in (roi(1), roi(2))]

    for left, right in zip(together, alone, strict=True):
        np.testing.assert_allclose(left.vectors, right.vectors, atol=1e-5)


def test_embed_of_no_rois_is_empty(resnet: Path) -> None:
    """No ROIs, no grids."""
    assert embedder_of("resnet18", resnet, input_side=64).embed([]) == []


@pytest.mark.parametrize(("backbone", "layer", "margin"), [("resnet18", 2, 4), ("convnext_atto", 1, 0)])
def test_embedder_equals_the_backbone_it_wraps(tmp_path: Path, backbone: str, layer: int, margin: int) -> None:
    """The vectors are timm's own features of the RGB image, with its margin, with timm's own mean and deviation."""
    weights = make_checkpoint(backbone, tmp_path)
    embedder = embedder_of(backbone, weights, input_side=96, layers=(layer,))
    network = timm.create_model(backbone, features_only=True, out_indices=(layer,))
    checkpoint = timm.models.load_state_dict(str(weights))
    network.load_state_dict(
        {key.replace("stages.", "stages_").replace("stem.", "stem_"): value for key, value in checkpoint.items()}
        if backbone == "convnext_atto"
        else checkpoint,
        strict=False,
    )
    bgr = np.pad(roi().bgr, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    rgb = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        features = network.eval()((rgb - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))[0][0]
    inside = features[:, -12:, -12:][:, :, :6].permute(1, 2, 0)  # the first row and column look at the margin
    expected = torch.nn.functional.normalize(inside.reshape(-1, embedder.dim), dim=1)

    np.testing.assert_allclose(embedder.embed([roi()])[0].vectors, expected.numpy(), atol=1e-5)


def test_digest_follows_the_weights(tmp_path: Path, resnet: Path) -> None:
    """The same weights from .pth and .safetensors have one digest; other weights have another."""
    copy = tmp_path / "copy.safetensors"
    save_file(torch.load(resnet, weights_only=True), copy)
    other = make_checkpoint("resnet18", tmp_path, seed=2)

    digests = [embedder_of("resnet18", path, input_side=64).digest for path in (resnet, copy, other)]

    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 64


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        ("resnet18x", {}, "timm knows no backbone 'resnet18x'"),
        ("resnet18", {"weights": "/nowhere/w.pth"}, "no checkpoint /nowhere/w.pth"),
        ("resnet18", {"weights": __file__}, "cannot build resnet18"),
        ("resnet18", {"layers": (9,)}, "cannot build resnet18"),
        ("vit_tiny_patch16_224", {}, "of vit_tiny_patch16_224, e.g."),
    ],
)
def test_build_refuses_in_one_line(resnet: Path, backbone: str, settings: dict[str, object], message: str) -> None:
    """What cannot be built, a foreign checkpoint among it, is one line that names the cause."""
    with pytest.raises(UsageError, match=message) as caught:
        embedder_of(backbone, **{"weights": resnet, **settings})  # type: ignore[arg-type]  # one case has a plain text
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_build_refuses_a_file_that_is_no_checkpoint(tmp_path: Path, name: str, content: bytes) -> None:
    """Whatever it is, one line names it."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"^cannot build resnet18 from checkpoint {path}: .") as caught:
        embedder_of("resnet18", path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "backbone"),
    [
        ("dinov2-vitb14", "timm:vit_base_patch14_dinov2.lvd142m"),
        ("dinov2-vits14", "timm:vit_small_patch14_dinov2.lvd142m"),
    ],
)
def test_preset_is_spelled_out(preset: str, backbone: str) -> None:
    """A package names the backbone and its input as timm does; what is said beside the preset stays."""
    recipe = EmbedRecipe.model_validate({"embedder": preset, "input_side": None, "pool": 3})
    assert (recipe.embedder, recipe.input_side, recipe.pool) == (backbone, 518, 3)
    assert EmbedRecipe.model_validate({"embedder": preset, "input_side": 224}).input_side == 224
    assert EmbedRecipe.model_validate(recipe.model_dump()) == recipe


def test_dinov2_preset_builds_from_a_checkpoint_of_its_shape(tmp_path: Path) -> None:
    """ViT-S/14, with the position embedding of 518 px resampled to the input asked for."""
    weights = make_checkpoint("vit_small_patch14_dinov2", tmp_path)
    recipe = EmbedRecipe.model_validate({"embedder": "dinov2-vits14", "weights": str(weights), "input_side": 112})

    (grid,) = build_embedder(recipe, CPU).embed([roi()])

    assert grid.inside.shape == (8, 8)
    assert grid.vectors.shape == (32, 384)


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("resnet18", {"input_side": 64, "layers": (1, 2)}),
        ("vit_tiny_patch16_224", {"input_side": 96, "layers": (3, 11)}),
    ],
)
def test_packed_weights_need_no_checkpoint(tmp_path: Path, backbone: str, settings: dict[str, object]) -> None:
    """The state of an embedder, written to a file, makes the same embedder: same digest, same vectors."""
    first = embedder_of(backbone, make_checkpoint(backbone, tmp_path), **settings)
    save_file(first.state(), tmp_path / "packed.safetensors")
    (tmp_path / f"{backbone}.pth").unlink()
    recipe = EmbedRecipe.model_validate({"embedder": f"timm:{backbone}", "weights": "/gone.pth", **settings})

    second = build_embedder(recipe, CPU, tmp_path / "packed.safetensors")

    assert second.digest == first.digest
    np.testing.assert_array_equal(second.embed([roi()])[0].vectors, first.embed([roi()])[0].vectors)


def test_packed_weights_of_another_network_are_refused(tmp_path: Path, resnet: Path) -> None:
    """A file that lacks tensors, or holds others, is one line."""
    save_file(embedder_of("resnet18", resnet, input_side=64, layers=(1,)).state(), tmp_path / "packed.safetensors")
    recipe = EmbedRecipe(embedder="timm:resnet34", input_side=64, layers=(2,))
    with pytest.raises(UsageError, match="cannot build resnet34 from checkpoint") as caught:
        build_embedder(recipe, CPU, tmp_path / "packed.safetensors")
    assert "\n" not in str(caught.value)


def test_build_refuses_a_side_that_no_patch_divides(tmp_path: Path) -> None:
    """DINOv2 has patches of 14 pixels; a side in between would lose the rim of the image in silence."""
    weights = make_checkpoint("vit_small_patch14_dinov2", tmp_path)

    with pytest.raises(UsageError, match="multiples of 14 px, such as 112, not 120"):
        embedder_of("vit_small_patch14_dinov2", weights, input_side=120)


def mirrored_checkpoint(backbone: str, folder: Path) -> Path:
    """Save weights whose filters are the same from left and right, from above and below."""
    path = make_checkpoint(backbone, folder)
    state = torch.load(path, weights_only=True)
    torch.save(
        {key: (w + w.flip(-1) + w.flip(-2) + w.flip(-1, -2)) / 4 if w.ndim == 4 else w for key, w in state.items()},
        path,
    )
    return path


@pytest.mark.parametrize(
    ("backbone", "layers", "cells"),
    [
        ("resnet18", (2,), 16),
        ("resnet18", (2, 3), 16),
        ("convnext_atto", (1, 2), 16),
        ("vit_tiny_patch16_224", (3,), 8),
    ],
)
def test_embed_sees_a_spot_where_it_is(tmp_path: Path, backbone: str, layers: tuple[int, ...], cells: int) -> None:
    """What a cell says is of its own share of the picture, whichever way its network pads."""
    embedder = embedder_of(backbone, mirrored_checkpoint(backbone, tmp_path), input_side=128, layers=layers)
    share = 128 // cells
    plain = np.full((128, 128, 3), 114, np.uint8)

    def vectors(bgr: BgrImage) -> FloatArray:
        (grid,) = embedder.embed([NormalizedRoi(bgr, np.ones((128, 128), np.bool_), (0.0, 0.0), 1.0)])
        return grid.vectors.reshape(cells, cells, -1)

    for row, column in ((cells // 4, cells // 2), (cells // 2, cells // 2 + 1)):
        spotted, (y, x) = plain.copy(), (row * share + share // 2, column * share + share // 2)
        spotted[y - 1 : y + 1, x - 1 : x + 1] = (20, 200, 250)
        change = np.square(vectors(spotted) - vectors(plain)).sum(axis=2)
        at = np.average(np.indices(change.shape).reshape(2, -1), axis=1, weights=change.ravel())
        np.testing.assert_allclose(at, (row, column), atol=0.25)


def test_cells_of_tensorflow_look_behind_their_share() -> None:
    """Its padding adds the odd pixel behind, so that each reduction looks a pixel farther: 1 + 2 + 4."""
    network = timm.create_model("tf_mobilenetv3_small_minimal_100", features_only=True, out_indices=(2,)).eval()
    embedder = TimmEmbedder(EmbedRecipe(embedder="timm:x", layers=(2,)), network, 64, CPU)
    rows: list[int] = []
    cells = centres_of(network, 64, lambda: rows.append(network(torch.zeros(1, 3, 64, 64))[0].shape[-1]))[8]
    assert (rows, cells.first, cells.step) == ([8], 7.0, 8.0)
    assert embedder.embed([roi()])[0].inside.shape == (8, 8)


@pytest.mark.parametrize(("side", "layers", "step"), [(250, (3,), 16), (240, (4,), 32), (100, (1, 2), 8)])
def test_build_refuses_a_side_that_the_cells_do_not_share_evenly(
    resnet: Path, side: int, layers: tuple[int, ...], step: int
) -> None:
    """The map would be squeezed, and boxes would lie beside what they are of."""
    with pytest.raises(UsageError, match=f"resnet18 takes sides that are multiples of {step} px") as caught:
        embedder_of("resnet18", resnet, input_side=side, layers=layers)
    assert "\n" not in str(caught.value)


def test_build_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that would come from the hub are refused in one line where it cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(UsageError, match="name a local checkpoint where there is no network"):
        build_embedder(EmbedRecipe(embedder="timm:convnext_tiny"), CPU)
