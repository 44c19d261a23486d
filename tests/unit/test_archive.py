"""Packages as one file."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from service.errors import CangateError, PackageNotFound, PackageRefused, UsageError
from service.model import archive
from service.model.archive import export_package, import_package
from service.model.package import read_package, write_package
from service.model.registry import ModelRegistry
from service.model.training import TrainedModel
from tests.support.cli import CommandLine


@pytest.fixture
def registry(trained: TrainedModel, tmp_path: Path) -> ModelRegistry:
    """A store with one version."""
    registry = ModelRegistry(tmp_path / "models")
    trained.publish(registry)
    return registry


@pytest.fixture
def exported(registry: ModelRegistry, tmp_path: Path) -> Path:
    """That version as a file."""
    file = tmp_path / "bars.zip"
    export_package(registry.read("bars", "1"), file)
    return file


@pytest.mark.parametrize("name", [None, "rods"])
def test_archive_carries_a_package_to_another_store(
    registry: ModelRegistry, exported: Path, tmp_path: Path, name: str | None
) -> None:
    """Bank, thresholds and golden frames are the same, and its parent is the package that was exported."""
    before = registry.read("bars", "1")
    after = read_package(import_package(exported, ModelRegistry(tmp_path / "line2"), name))
    assert (after.ref.name, after.ref.version) == (name or "bars", "1")
    assert after.manifest.parent == before.id
    assert after.manifest.model_copy(update={"name": "bars", "parent": None}) == before.manifest
    np.testing.assert_array_equal(after.vectors, before.vectors)
    assert after.check_golden(after.build_pipeline(torch.device("cpu"))) < 1e-5


def test_archive_of_a_package_is_always_the_same(registry: ModelRegistry, exported: Path, tmp_path: Path) -> None:
    """Byte for byte, and nothing is left beside it."""
    export_package(registry.read("bars", "1"), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == exported.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"models", "bars.zip", "again.zip"}


def test_archive_that_cannot_be_written_is_named(registry: ModelRegistry, tmp_path: Path) -> None:
    """In one line."""
    with pytest.raises(UsageError, match="nowhere"):
        export_package(registry.read("bars", "1"), tmp_path / "nowhere" / "bars.zip")


@pytest.mark.parametrize(
    "member", ["../evil.py", "/tmp/evil.py", "golden/../../evil.py", "golden\\..\\evil.png", "golden/", "notes.txt", ""]
)
def test_archive_with_a_strange_member_is_refused(exported: Path, tmp_path: Path, member: str) -> None:
    """Nothing is written anywhere, least of all outside of the store."""
    with zipfile.ZipFile(exported, "a") as changed:
        changed.writestr(zipfile.ZipInfo(member), b"evil")
    with pytest.raises(PackageRefused, match="does not belong to a package"):
        import_package(exported, ModelRegistry(tmp_path / "line2"))
    assert not (tmp_path / "line2").exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archive_packed_otherwise_is_refused(
    registry: ModelRegistry, exported: Path, tmp_path: Path, compression: int
) -> None:
    """Nothing but what the export writes is unpacked: every further decoder has errors of its own."""
    folder = registry.store / "bars" / "1"
    with zipfile.ZipFile(exported, "w", compression) as changed:
        for path in (path for path in folder.rglob("*") if path.is_file()):
            changed.write(path, path.relative_to(folder).as_posix())
    with pytest.raises(PackageRefused, match="neither stored nor deflated"):
        import_package(exported, ModelRegistry(tmp_path / "line2"))


def test_archive_with_a_golden_frame_that_is_none_is_refused(
    trained: TrainedModel, tmp_path: Path, exported: Path
) -> None:
    """Its digest is right, so that only a look at the frame tells; nothing is published."""
    folder = tmp_path / "odd"
    folder.mkdir()
    write_package(folder, trained.manifest, trained.vectors, {**trained.golden, "golden/1.png": b""})
    with zipfile.ZipFile(exported, "w") as changed:
        for path in (path for path in folder.rglob("*") if path.is_file()):
            changed.write(path, path.relative_to(folder).as_posix())
    with pytest.raises(PackageRefused, match=r"golden/1\.png is no whole PNG"):
        import_package(exported, ModelRegistry(tmp_path / "line2"))
    assert not (tmp_path / "line2").exists()


def test_export_follows_a_link(registry: ModelRegistry, exported: Path, tmp_path: Path) -> None:
    """What it names is written; the link stays."""
    link = tmp_path / "link.zip"
    link.symlink_to(tmp_path / "target.zip")
    export_package(registry.read("bars", "1"), link)
    assert link.is_symlink()
    assert (tmp_path / "target.zip").read_bytes() == exported.read_bytes()


def test_export_replaces_a_file_only_when_told_to(registry: ModelRegistry, exported: Path, tmp_path: Path) -> None:
    """Somebody's other package is not lost to a slip; an empty file, as `mktemp` makes it, holds nothing to lose."""
    package, file, link = registry.read("bars", "1"), tmp_path / "other.zip", tmp_path / "link.zip"
    file.write_text("somebody's")
    link.symlink_to(file)
    for target in (file, link):
        with pytest.raises(UsageError, match=rf"{target.name} is there already: .*--replace"):
            export_package(package, target)
    assert file.read_text() == "somebody's"
    export_package(package, file, replace=True)
    assert file.read_bytes() == exported.read_bytes()
    file.write_bytes(b"")
    export_package(package, file)
    assert file.read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("version", ["1", "2"])
def test_export_into_a_package_is_refused(registry: ModelRegistry, trained: TrainedModel, version: str) -> None:
    """Be it the exported one or another: a file that was not packed breaks it."""
    trained.publish(registry)
    package = registry.read("bars", "1")
    with pytest.raises(UsageError, match="would lie in the package"):
        export_package(package, registry.store / "bars" / version / "golden" / "bars.zip")
    assert registry.read("bars", version).ref.version == version


def test_archive_that_was_tampered_with_is_refused(registry: ModelRegistry, exported: Path, tmp_path: Path) -> None:
    """By the name of the file that is not what was packed, or is missing."""
    folder = registry.store / "bars" / "1"
    for file, content in (("model.json", b"{}"), ("golden/1.png", b"x"), ("SHA256SUMS", b"")):
        with zipfile.ZipFile(exported, "w") as changed:
            for path in (path for path in folder.rglob("*") if path.is_file()):
                name = path.relative_to(folder).as_posix()
                changed.writestr(name, content if name == file else path.read_bytes())
        with pytest.raises(PackageRefused, match="is not what was packed"):
            import_package(exported, ModelRegistry(tmp_path / "line2"))


def test_archive_that_is_none_is_refused(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncated, empty, a directory, too large, without a package, not there."""
    store, document = ModelRegistry(tmp_path / "line2"), exported.read_bytes()
    monkeypatch.setattr(archive, "LARGEST_PACKAGE", 100)
    with pytest.raises(PackageRefused, match="larger than 100 bytes"):
        import_package(exported, store)
    for content in (b"", document[:-30], document[: len(document) // 2]):
        exported.write_bytes(content)
        with pytest.raises(PackageRefused, match="no ZIP"):
            import_package(exported, store)
    with pytest.raises(PackageRefused, match="cannot be read: Is a directory"):
        import_package(tmp_path, store)
    zipfile.ZipFile(exported, "w").close()
    with pytest.raises(PackageRefused, match="no model package"):
        import_package(exported, store)
    with pytest.raises(PackageNotFound, match="gone"):
        import_package(tmp_path / "gone.zip", store)


def test_sound_archive_is_not_called_damaged(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be read, or not be unpacked beside the other models: that is said, and nothing is left."""

    def failing(number: int) -> Callable[..., NoReturn]:
        def fail(*_: object) -> NoReturn:
            raise OSError(number, os.strerror(number))

        return fail

    store = ModelRegistry(tmp_path / "line2")
    for owner, name, number, said in (
        (zipfile.ZipFile, "read", errno.EIO, f"{exported}: cannot be read: Input/output error"),
        (zipfile.ZipFile, "read", errno.EINVAL, "damaged, or no ZIP"),
        (Path, "write_bytes", errno.ENOSPC, f"cannot write {store.store}/.draft-.*: No space left on device"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, failing(number))
            with pytest.raises(CangateError, match=said) as refusal:
                import_package(exported, store)
            assert isinstance(refusal.value, UsageError) == (number != errno.ENOSPC)  # a run that failed
        assert not store.store.exists()


def test_models_export_and_import(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands say how to go on."""
    cangate = CommandLine(monkeypatch, capsys)
    file, other = tmp_path / "carried.zip", tmp_path / "line2"
    assert cangate("models", "export", "bars@1", file, "--store", registry.store).status == 0
    again = ("models", "export", "bars@1", file, "--store", registry.store)
    assert "is there already" in cangate(*again).one_line_error()
    assert cangate(*again, "--replace").status == 0
    outcome = cangate("models", "import", file, "--store", other)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert f"cangate models activate bars 1 --store {other}" in outcome.stdout
    assert "model name" in cangate("models", "import", file, "--name", "a/b", "--store", other).one_line_error()
