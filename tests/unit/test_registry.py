"""The store of models."""

from __future__ import annotations

import json
import resource
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from schemas.recipe import ScoreStatistic
from service.errors import CangateError, PackageNotFound, PackageRefused, UsageError
from service.files import locked
from service.model.package import read_package, seal
from service.model.registry import ModelRegistry
from service.model.training import TrainedModel


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    """An empty store."""
    return ModelRegistry(tmp_path / "models")


def test_empty_store_has_nothing(registry: ModelRegistry) -> None:
    """A store that was never written to has no names, and says so by name."""
    assert registry.names() == []
    assert registry.versions("bars") == []
    assert registry.active("bars") is None
    with pytest.raises(PackageNotFound, match="bars"):
        registry.resolve("bars")
    with pytest.raises(PackageNotFound, match="bars@1"):
        registry.activate("bars", "1")
    with pytest.raises(PackageRefused, match="no earlier"):
        registry.rollback("bars")


def test_publishing_counts_versions(registry: ModelRegistry, trained: TrainedModel) -> None:
    """Each model becomes the next version, ten comes after nine, and nothing is active by itself."""
    paths = [trained.publish(registry) for _ in range(10)]
    assert [path.name for path in paths] == registry.versions("bars") == [str(number) for number in range(1, 11)]
    assert registry.names() == ["bars"]
    assert registry.active("bars") is None
    assert read_package(paths[-1]).ref.version == "10"


def test_references_are_names_versions_or_paths(registry: ModelRegistry, trained: TrainedModel, tmp_path: Path) -> None:
    """A name means its active version; a path works wherever the package lies."""
    first, second = trained.publish(registry), trained.publish(registry)
    registry.activate("bars", "2")
    assert registry.resolve("bars") == second
    assert registry.resolve("bars@1") == first
    elsewhere = shutil.copytree(first, tmp_path / "elsewhere")
    assert registry.resolve(str(elsewhere)) == elsewhere
    for unknown in ("bars@3", "bars@", "bars@../1", "other", "../bars", "", str(tmp_path)):
        with pytest.raises(PackageNotFound):
            registry.resolve(unknown)


def test_a_name_without_active_version_does_not_resolve(registry: ModelRegistry, trained: TrainedModel) -> None:
    """Which version is meant is never guessed."""
    trained.publish(registry)
    with pytest.raises(PackageNotFound, match=r"no version of model bars .* is active"):
        registry.resolve("bars")


def test_rollback_walks_back_through_the_activations(registry: ModelRegistry, trained: TrainedModel) -> None:
    """1, 3, 2 were active; rollback goes to 3, then to 1, then no further. Activating twice counts once."""
    for _ in range(3):
        trained.publish(registry)
    for version in ("1", "3", "3", "2"):
        registry.activate("bars", version)
    assert registry.rollback("bars") == "3"
    assert registry.rollback("bars") == registry.active("bars") == "1"
    with pytest.raises(PackageRefused, match="no earlier"):
        registry.rollback("bars")
    assert registry.active("bars") == "1"


def test_activation_is_refused_where_golden_frames_do_not_reproduce(
    registry: ModelRegistry, trained: TrainedModel
) -> None:
    """The old version goes on judging."""
    trained.publish(registry)
    registry.activate("bars", "1")
    wrong = trained.manifest.golden[0].model_copy(update={"score": trained.manifest.golden[0].score + 0.01})
    manifest = trained.manifest.model_copy(update={"golden": (wrong, *trained.manifest.golden[1:])})
    TrainedModel(manifest, trained.vectors, trained.golden).publish(registry)
    with pytest.raises(PackageRefused, match=r"bars@2: golden frame golden/1\.png"):
        registry.activate("bars", "2")
    assert registry.active("bars") == "1"


def activated_meanwhile(monkeypatch: pytest.MonkeyPatch, registry: ModelRegistry, version: str) -> None:
    """Have somebody else activate `version` just before the next change is made."""

    @contextmanager
    def after_another(folder: Path) -> Iterator[None]:
        monkeypatch.undo()
        registry.activate("bars", version)
        with locked(folder):
            yield

    monkeypatch.setattr("service.model.registry.locked", after_another)


def test_of_two_first_activations_the_second_replaces_nothing(
    registry: ModelRegistry, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found none active, and proved their own."""
    trained.publish(registry)
    trained.publish(registry)
    activated_meanwhile(monkeypatch, registry, "1")
    assert not registry.activate_first("bars", "2")
    assert registry.active("bars") == "1"


def test_rollback_that_was_overtaken_is_refused(
    registry: ModelRegistry, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is activated while the earlier version is proved must not vanish unseen."""
    for version in ("1", "2", "3"):
        trained.publish(registry)
        registry.activate("bars", version)
    activated_meanwhile(monkeypatch, registry, "1")
    with pytest.raises(PackageRefused, match="another version was activated meanwhile"):
        registry.rollback("bars")
    assert registry.active("bars") == "1"


def test_many_activations_at_once_all_succeed(registry: ModelRegistry, trained: TrainedModel) -> None:
    """Stations of one process may share a store."""
    trained.publish(registry)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: registry.activate("bars", "1"), range(24)))
    assert registry.active("bars") == "1"
    assert [path.name for path in (registry.store / "bars").iterdir() if path.name.startswith(".")] == []


def test_a_package_exchanged_after_activation_is_refused(registry: ModelRegistry, trained: TrainedModel) -> None:
    """Digests that were made to fit do not help: the pointer knows the id that was activated."""
    path = trained.publish(registry)
    registry.activate("bars", "1")
    seal(path, read_package(path).manifest.model_copy(update={"tau": 9.0}))
    with pytest.raises(PackageRefused, match="bars@1 is not the package that was activated"):
        registry.resolve("bars")


def test_a_package_under_another_name_is_refused(registry: ModelRegistry, trained: TrainedModel) -> None:
    """A version copied by hand to another place in the store still knows who it is."""
    path = trained.publish(registry)
    shutil.copytree(path, registry.store / "other" / "7")
    with pytest.raises(PackageRefused, match="says that it is bars@1, not other@7"):
        registry.activate("other", "7")


@pytest.mark.parametrize("document", ["", "{}", '{"active": {"version": "../1", "sha256": "00"}}'])
def test_a_broken_pointer_is_refused_by_name(registry: ModelRegistry, trained: TrainedModel, document: str) -> None:
    """The file is named, and nothing is judged by a guess."""
    path = trained.publish(registry)
    (path.parent / "active.json").write_text(document)
    with pytest.raises(PackageRefused, match=r"active\.json"):
        registry.resolve("bars")


def test_a_cancelled_draft_leaves_nothing_behind(registry: ModelRegistry) -> None:
    """Not even the folder of the name."""

    def cancelled() -> None:
        with registry.draft("bars") as directory:
            (directory / "half").write_text("written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cancelled()
    assert not (registry.store / "bars").exists()


def test_drafts_are_no_versions(registry: ModelRegistry, trained: TrainedModel) -> None:
    """While one is being written the store looks as before."""
    trained.publish(registry)
    with registry.draft("bars"), registry.draft("new"):
        assert registry.versions("bars") == ["1"]
        assert registry.names() == ["bars"]


def test_drafts_of_the_dead_are_removed(registry: ModelRegistry, trained: TrainedModel) -> None:
    """A killed training leaves one that nobody holds; what still lives, or is none, stays."""
    trained.publish(registry)
    folder = registry.store / "bars"
    (folder / ".draft-abcd1234" / "golden").mkdir(parents=True)
    (folder / ".draft-by-hand").mkdir()
    with registry.draft("bars") as living, registry.draft("bars"):
        assert living.is_dir()
        assert len([entry for entry in folder.iterdir() if entry.name.startswith(".draft-")]) == 3
    assert {entry.name for entry in folder.iterdir()} == {"1", ".draft-by-hand"}


def test_versions_published_at_once_get_different_numbers(registry: ModelRegistry, trained: TrainedModel) -> None:
    """Four trainings that end together make four versions, each of which knows its number."""
    together = threading.Barrier(4)

    def work() -> None:
        together.wait()
        trained.publish(registry)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.versions("bars") == ["1", "2", "3", "4"]
    for version in registry.versions("bars"):
        assert registry.read("bars", version).ref.version == version


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a@b", "..", "a" * 65, "a b", "ä"])
def test_unusable_names_are_refused(registry: ModelRegistry, name: str) -> None:
    """A name is a folder and part of a reference."""
    with pytest.raises(UsageError, match="model name"), registry.draft(name):
        pytest.fail("no draft is lent")


def test_threshold_is_set_on_a_copy_and_on_nothing_else(registry: ModelRegistry, trained: TrainedModel) -> None:
    """A version of the same parent and threshold may differ in all else; one that is copied in has nothing yet."""
    trained.publish(registry)
    package = registry.read("bars", "1")
    recipe = package.manifest.recipe
    other = recipe.model_copy(update={"score": recipe.score.model_copy(update={"statistic": ScoreStatistic.P95})})
    manifest = trained.manifest.model_copy(update={"parent": package.id, "tau": 0.75, "recipe": other})
    TrainedModel(manifest, trained.vectors, trained.golden).publish(registry)
    (registry.store / "bars" / "9").mkdir()
    assert registry.add_with_threshold("bars", 0.75, judging=package.ref) == "10"
    assert registry.add_with_threshold("bars", 0.75, judging=package.ref) == "10"
    assert registry.read("bars", "10").manifest.recipe == recipe


def test_another_threshold_makes_another_version(registry: ModelRegistry, trained: TrainedModel) -> None:
    """Setting tau by hand never changes a package; the new one names its parent and judges by the new tau."""
    trained.publish(registry)
    registry.activate("bars", "1")
    before = read_package(registry.resolve("bars"))
    assert registry.add_with_threshold("bars", 0.75) == "2"
    assert registry.active("bars") == "1"
    registry.activate("bars", "2")
    after = read_package(registry.resolve("bars"))
    assert (after.manifest.tau, after.manifest.parent) == (0.75, before.id)
    assert after.manifest.calibration == before.manifest.calibration
    assert read_package(before.path).id == before.id


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_threshold_is_refused(registry: ModelRegistry, trained: TrainedModel, tau: float) -> None:
    """Nothing is published for it."""
    trained.publish(registry)
    registry.activate("bars", "1")
    with pytest.raises(PackageRefused, match="threshold"):
        registry.add_with_threshold("bars", tau)
    assert registry.versions("bars") == ["1"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let writing fail as on a full disk, in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 5_000])
def test_a_full_disk_is_named_and_leaves_no_half_a_package(
    registry: ModelRegistry, trained: TrainedModel, size: int
) -> None:
    """One line, no version, no draft; what was there before stays active."""
    trained.publish(registry)
    registry.activate("bars", "1")
    with files_of_at_most(size), pytest.raises(UsageError, match=f"^cannot write {registry.store}/bars/.*: File too"):
        registry.add_with_threshold("bars", 0.75)
    with files_of_at_most(size), pytest.raises(UsageError, match=f"^cannot write {registry.store}/bars/.*: File too"):
        trained.publish(registry)
    assert sorted(entry.name for entry in (registry.store / "bars").iterdir()) == ["1", "active.json"]
    assert registry.active("bars") == "1"


def test_weights_that_the_disk_does_not_take_are_named(registry: ModelRegistry, trained: TrainedModel) -> None:
    """The library that writes them has errors of its own."""
    heavy = TrainedModel(trained.manifest, trained.vectors, trained.golden, {"weight": torch.zeros(10_000)})
    with files_of_at_most(5_000), pytest.raises(CangateError, match=r"^cannot write .*/backbone\.safetensors: "):
        heavy.publish(registry)
    assert registry.names() == []


def test_pointer_names_version_and_id(registry: ModelRegistry, trained: TrainedModel) -> None:
    """What the pointer says can be read by anyone."""
    path = trained.publish(registry)
    registry.activate("bars", "1")
    pointer = json.loads((path.parent / "active.json").read_text())
    assert pointer == {"active": {"version": "1", "sha256": read_package(path).id}, "previous": []}
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["1", "active.json"]
