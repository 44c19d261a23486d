"""Model packages on disk."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from schemas.recipe import RoiMethod, RoiRecipe
from service.errors import PackageNotFound, PackageRefused
from service.model.manifest import PIPELINE_VERSION, ModelManifest
from service.model.package import read_package, seal, write_package
from service.model.training import TrainedModel
from service.pipeline.patch_scores import RINGS

CPU = torch.device("cpu")


@pytest.fixture
def package(trained: TrainedModel, tmp_path: Path) -> Path:
    """A fresh package of it."""
    return rewritten(trained, tmp_path / "package")


def rewritten(trained: TrainedModel, path: Path, **changes: object) -> Path:
    """Write a package whose manifest has `changes`, with digests that fit."""
    path.mkdir()
    write_package(path, trained.manifest.model_copy(update=changes), trained.vectors, dict(trained.golden))
    return path


def test_package_reads_as_it_was_written(trained: TrainedModel, package: Path) -> None:
    """Manifest and vectors come back unchanged, and verdicts can name the package."""
    read = read_package(package)
    assert read.manifest == ModelManifest.model_validate_json(trained.manifest.model_dump_json())
    np.testing.assert_array_equal(read.vectors, trained.vectors)
    assert (read.ref.name, read.ref.version, read.ref.sha256) == ("bars", "0", read.id)


def test_package_reproduces_its_golden_scores(package: Path) -> None:
    """From the pixels in the package to the score, through the whole pipeline, to 1e-5."""
    read = read_package(package)
    assert len(read.manifest.golden) == 3
    assert read.check_golden(read.build_pipeline(CPU)) <= 1e-5


def test_package_id_covers_every_byte(trained: TrainedModel, package: Path, tmp_path: Path) -> None:
    """The same contents have the same id; another threshold has another."""
    assert read_package(rewritten(trained, tmp_path / "same")).id == read_package(package).id
    assert read_package(rewritten(trained, tmp_path / "other", tau=9.0)).id != read_package(package).id


def test_package_digests_are_those_of_sha256sum(package: Path) -> None:
    """An engineer can check a package with nothing but coreutils."""
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=package, check=True)


@pytest.mark.parametrize("name", ["model.json", "memory.safetensors", "golden/2.png", "SHA256SUMS"])
def test_package_without_a_file_is_refused_by_its_name(package: Path, name: str) -> None:
    """Whatever is missing is named."""
    (package / name).unlink()
    with pytest.raises(PackageRefused, match=f"{name} is missing"):
        read_package(package)


@pytest.mark.parametrize("name", ["model.json", "memory.safetensors", "golden/2.png"])
def test_package_with_a_changed_byte_is_refused_by_its_name(package: Path, name: str) -> None:
    """One flipped bit in any file is found."""
    data = bytearray((package / name).read_bytes())
    data[len(data) // 2] ^= 1
    (package / name).write_bytes(data)
    with pytest.raises(PackageRefused, match=f"{name} is not what was packed, or SHA256SUMS is not"):
        read_package(package)


def test_package_whose_digests_have_a_changed_byte_is_refused(package: Path) -> None:
    """The file is whole: the list is named, beside it where the digest might have been one."""
    sums = (package / "SHA256SUMS").read_text()
    for changed, said in (("x", "SHA256SUMS is damaged"), ("0" if sums[0] != "0" else "1", "or SHA256SUMS is not")):
        (package / "SHA256SUMS").write_text(changed + sums[1:])
        with pytest.raises(PackageRefused, match=said):
            read_package(package)


def test_package_with_a_strange_file_is_refused_by_its_name(package: Path) -> None:
    """What was not packed does not belong there."""
    (package / "golden" / "extra.bin").touch()
    with pytest.raises(PackageRefused, match=r"golden/extra\.bin does not belong"):
        read_package(package)


@pytest.mark.parametrize("sums", ["", "no digests here\n", "\xff\x00"])
def test_package_with_broken_digests_is_refused(package: Path, sums: str) -> None:
    """An empty or unreadable list of digests vouches for nothing."""
    (package / "SHA256SUMS").write_text(sums)
    with pytest.raises(PackageRefused):
        read_package(package)


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_no_package_is_not_found(tmp_path: Path, kind: str) -> None:
    """A path that is not there, and a folder without a package."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(PackageNotFound, match=kind):
        read_package(tmp_path / kind)


def test_package_of_a_newer_format_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    """A format, or a setting, that this version does not know is named, not guessed."""
    path = rewritten(trained, tmp_path / "newer", format="cangate/model/2")
    with pytest.raises(PackageRefused, match=r"model\.json: format"):
        read_package(path)


@pytest.mark.parametrize("rim", [(1.0,) * (RINGS - 1), (1.0,) * (RINGS + 1), (0.0,) * RINGS, (float("inf"),) * RINGS])
def test_package_whose_rim_cannot_be_is_refused(trained: TrainedModel, tmp_path: Path, rim: tuple[float, ...]) -> None:
    """Too few levels, too many, or such that every score would be nothing."""
    with pytest.raises(PackageRefused, match=r"model\.json: rim"):
        read_package(rewritten(trained, tmp_path / "odd", rim=rim))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: {"pipeline_version": PIPELINE_VERSION + 1}, "preprocessing"),
        (lambda m: {"embedder": m.embedder.model_copy(update={"digest": "0" * 64})}, "made with filters 000000000000"),
        (lambda m: {"recipe": m.recipe.model_copy(update={"roi": RoiRecipe(method=RoiMethod.FIXED)})}, "polygon"),
    ],
)
def test_package_for_another_pipeline_is_refused_by_name(
    trained: TrainedModel, tmp_path: Path, change: Callable[[ModelManifest], dict[str, object]], words: str
) -> None:
    """Other preprocessing, other weights, an ROI method that cannot be had: nothing is scored by accident."""
    read = read_package(rewritten(trained, tmp_path / "other", **change(trained.manifest)))
    with pytest.raises(PackageRefused, match=f"model bars@0: .*{words}"):
        read.build_pipeline(CPU)


def test_package_whose_golden_frames_score_otherwise_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    """The export-parity trap: everything is intact, and yet the scores are not those of the training."""
    swapped = trained.manifest.recipe.model_copy(
        update={"normalize": trained.manifest.recipe.normalize.model_copy(update={"clahe_clip": 8.0})}
    )
    read = read_package(rewritten(trained, tmp_path / "drifted", recipe=swapped))
    with pytest.raises(PackageRefused, match=r"golden frame golden/\d\.png scores"):
        read.check_golden(read.build_pipeline(CPU))


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros((0, 4), np.float32),
        np.zeros((3, 4), np.float64),
        np.zeros((3, 4), np.float32),
        None,
    ],
)
def test_package_with_an_unusable_bank_is_refused(
    trained: TrainedModel, tmp_path: Path, vectors: np.ndarray | None
) -> None:
    """An empty bank, another type or length of vector, no vectors at all."""
    path = tmp_path / "package"
    path.mkdir()
    trained.write(path)
    save_file({"other": np.zeros(1)} if vectors is None else {"vectors": vectors}, path / "memory.safetensors")
    digests = (path / "SHA256SUMS").read_text().splitlines()
    sealed = subprocess.run(["sha256sum", "memory.safetensors"], cwd=path, check=True, capture_output=True, text=True)
    kept = [line for line in digests if "memory" not in line]
    (path / "SHA256SUMS").write_text("\n".join([*kept, sealed.stdout.strip()]) + "\n")
    with pytest.raises(PackageRefused, match=r"memory\.safetensors"):
        read_package(path)


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "F4", "F64"])
def test_package_with_a_bank_of_another_type_is_refused(package: Path, kind: str) -> None:
    """Also where numpy has no such type."""
    size = {"BF16": 16, "F8_E4M3": 8, "F4": 4, "F64": 64}[kind]
    header = json.dumps({"vectors": {"dtype": kind, "shape": [2, 4], "data_offsets": [0, size]}}).encode()
    (package / "memory.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    seal(package, ModelManifest.model_validate_json((package / "model.json").read_bytes()))
    with pytest.raises(PackageRefused, match=r"memory\.safetensors"):
        read_package(package)


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.mark.parametrize("picture", [b"", b"\x89PNG\r\n\x1a\n", b"no picture, but long enough", png_of(60_000, 60_000)])
def test_package_with_a_golden_frame_that_is_none_is_refused(
    trained: TrainedModel, tmp_path: Path, picture: bytes
) -> None:
    """No bytes, no picture, or one that declares more pixels than may be."""
    (tmp_path / "odd").mkdir()
    write_package(tmp_path / "odd", trained.manifest, trained.vectors, {**trained.golden, "golden/2.png": picture})
    read = read_package(tmp_path / "odd")
    with pytest.raises(PackageRefused, match=r"golden/2\.png is no whole PNG"):
        list(read.golden_frames())


def test_package_with_a_pipe_is_refused(package: Path) -> None:
    """Nobody waits for its other end."""
    (package / "golden" / "2.png").unlink()
    os.mkfifo(package / "golden" / "2.png")
    with pytest.raises(PackageRefused, match=r"golden/2\.png is no file"):
        read_package(package)


def test_manifest_is_readable_json(package: Path) -> None:
    """Anyone can see how tau came about: every statistic, every held-back frame, every training frame."""
    document = json.loads((package / "model.json").read_text())
    assert set(document["calibration"]["limits"]) == {"p95", "p98", "p99", "max", "top1_mean"}
    assert len(document["calibration"]["held_back"]) == len(document["training"]["frames"]) == 5
    assert all(len(frame["sha256"]) == 64 for frame in document["training"]["frames"])
    assert document["created_at"].endswith("Z")
