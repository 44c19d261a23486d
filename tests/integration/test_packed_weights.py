"""A package that carries the weights of its backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from schemas.recipe import EmbedRecipe
from service.errors import PackageRefused
from service.model.package import BACKBONE, InspectionPipeline, read_package
from service.model.registry import ModelRegistry
from service.pipeline.types import Frame
from tests.support.cli import CommandLine
from tests.support.parts import QUICK, draw_part, train_parts, write_config, write_parts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small network, as its authors would publish them."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    return path


@pytest.fixture
def registry(tmp_path: Path, checkpoint: Path) -> ModelRegistry:
    """A store with one version whose package carries the weights, while the checkpoint that it came from is named."""
    embed = EmbedRecipe(
        embedder="timm:resnet18", weights=str(checkpoint), pack_weights=True, input_side=64, layers=(1,)
    )
    registry = ModelRegistry(tmp_path / "models")
    train_parts(write_parts(tmp_path / "ok", 4), QUICK.model_copy(update={"embed": embed})).publish(registry)
    return registry


def test_package_judges_where_its_checkpoint_is_gone(registry: ModelRegistry, checkpoint: Path) -> None:
    """A plant that is offline needs the package and nothing else."""
    away = checkpoint.rename(checkpoint.with_suffix(".away"))
    try:
        pipeline = InspectionPipeline.from_package(registry.store / "bars" / "1")
        assert pipeline.inspect([Frame(draw_part(1))])[0].score >= 0
    finally:
        away.rename(checkpoint)


def test_weights_travel_with_every_version_and_archive(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another threshold shares the file; an exported package has it, on the other side as well."""
    cangate = CommandLine(monkeypatch, capsys)
    registry.activate("bars", "1")
    second = registry.store / "bars" / registry.add_with_threshold("bars", 0.5)
    assert (second / BACKBONE).stat().st_ino == (registry.store / "bars" / "1" / BACKBONE).stat().st_ino
    store, other = ("--store", registry.store), ("--store", tmp_path / "other")
    assert cangate("models", "export", "bars@2", tmp_path / "bars.zip", *store).status == 0
    assert cangate("models", "import", tmp_path / "bars.zip", *other).status == 0
    assert cangate("models", "activate", "bars", "1", *other).status == 0


def test_weights_are_as_readable_as_the_other_files(registry: ModelRegistry) -> None:
    """The service that reads what an engineer trained runs as another user."""
    modes = {path.name: path.stat().st_mode for path in (registry.store / "bars" / "1").iterdir() if path.is_file()}
    assert modes == dict.fromkeys(modes, modes["model.json"])


def test_package_without_the_weights_it_says_to_carry_is_refused(registry: ModelRegistry) -> None:
    """By name, and though the list of digests was made to agree."""
    path = registry.store / "bars" / "1"
    (path / BACKBONE).unlink()
    with pytest.raises(PackageRefused, match=f"{BACKBONE} is missing"):
        read_package(path)
    sums = path / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(keepends=True) if BACKBONE not in line))
    with pytest.raises(PackageRefused, match=f"{BACKBONE} is missing"):
        read_package(path)


def test_package_with_one_weight_changed_is_refused(registry: ModelRegistry) -> None:
    """One bit of a weight."""
    file = registry.store / "bars" / "1" / BACKBONE
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(PackageRefused, match=f"{BACKBONE} is not what was packed"):
        InspectionPipeline.from_package(file.parent)


def test_named_weights_are_found_from_any_folder(
    cangate: CommandLine, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given by a path from where one stands; the command says that they must stay."""
    train = ("train", write_parts(tmp_path / "ok", 3), "--name", "bars", "-c", write_config(tmp_path))
    monkeypatch.chdir(checkpoint.parent)
    trained = cangate(*train, "--embedder", "timm:resnet18", "--weights", checkpoint.name)
    assert trained.status == 0, trained
    assert f"{checkpoint} is not in the package, and must stay there" in trained.stdout
    monkeypatch.chdir(tmp_path)
    assert cangate("models", "verify", "bars", "--store", tmp_path / "models").status == 0


def test_train_packs_weights_on_request(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--weights and --pack-weights; filters have nothing to pack."""
    cangate = CommandLine(monkeypatch, capsys)
    train = ("train", write_parts(tmp_path / "ok", 3), "--name", "bars", "-c", write_config(tmp_path))
    packed = cangate(*train, "--embedder", "timm:resnet18", "--weights", checkpoint, "--pack-weights")
    assert packed.status == 0, packed
    assert (tmp_path / "models" / "bars" / "1" / BACKBONE).is_file()
    assert "must stay" not in packed.stdout
    refused = cangate(*train, "--pack-weights").one_line_error()
    assert "filters have no weights" in refused
