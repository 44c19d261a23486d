"""A model package on disk, verified whenever it is read.

    model.json            the manifest
    memory.safetensors    the memory bank: `vectors` (M, D) float32
    golden/*.png          frames with the scores they must get, losslessly
    backbone.safetensors  the weights of the backbone, where the recipe says `pack_weights`
    SHA256SUMS            the digest of each of these files, as `sha256sum -c` reads them

The id of a package is the SHA-256 of SHA256SUMS, so it covers every byte. A package is never changed once published.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import safetensors
from pydantic import ValidationError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from schemas.messages import ModelRef
from service.errors import CangateError, FrameError, PackageNotFound, PackageRefused, UsageError
from service.files import unwritable
from service.model.manifest import PIPELINE_VERSION, GoldenFrame, ModelManifest
from service.pipeline.pipeline import Pipeline
from service.pipeline.types import BgrImage, FloatArray, Frame

if TYPE_CHECKING:
    import torch

__all__ = [
    "GOLDEN_TOLERANCE",
    "InspectionPipeline",
    "ModelManifest",
    "ModelPackage",
    "package_id",
    "read_package",
    "write_package",
]

MANIFEST, BANK, BACKBONE, SUMS = "model.json", "memory.safetensors", "backbone.safetensors", "SHA256SUMS"

GOLDEN_TOLERANCE = 1e-3
"""How far a golden score may be off, as a distance. The same machine repeats it to 1e-5; another CPU or a GPU rounds
differently and may move a pixel of the mask; a wrong colour order, resize or weight moves it by far more."""

LARGEST_GOLDEN_PX = 1 << 28
"""Of a golden frame: several times what `images.max_pixels` lets any other frame have."""
_DIGEST = re.compile("[0-9a-f]{64}")
_PNG_HEADER = struct.Struct(">8x4x4sII")


@dataclass(frozen=True, slots=True, eq=False)
class ModelPackage:
    """A package whose every file was found to be what was packed: vectors (M, D) float32."""

    path: Path
    id: str
    manifest: ModelManifest
    vectors: FloatArray

    @property
    def ref(self) -> ModelRef:
        """How verdicts name this package."""
        return ModelRef(name=self.manifest.name, version=self.manifest.version, sha256=self.id)

    @property
    def backbone(self) -> Path | None:
        """The file with the weights of the backbone, where the package carries them."""
        return self.path / BACKBONE if self.manifest.recipe.embed.pack_weights else None

    def build_pipeline(self, device: torch.device | str) -> InspectionPipeline:
        """Return the pipeline of this model on `device`.

        Raises:
            UsageError: the device is not there.
            PackageRefused: made for another version of the preprocessing, another backbone or other weights, or those
                cannot be had here.
        """
        # torch takes seconds that a look at a package need not spend
        from service.device import present_device  # noqa: PLC0415
        from service.pipeline.embed import build_embedder  # noqa: PLC0415
        from service.pipeline.memory_bank import MemoryBank  # noqa: PLC0415
        from service.pipeline.roi import build_roi_finder  # noqa: PLC0415

        here = present_device(device)
        manifest = self.manifest
        if manifest.pipeline_version != PIPELINE_VERSION:
            raise self._refused(
                f"made for version {manifest.pipeline_version} of the preprocessing, running is {PIPELINE_VERSION}"
            )
        try:
            roi_finder = build_roi_finder(manifest.recipe.roi, here)
            embedder = build_embedder(manifest.recipe.embed, here, self.backbone)
        except UsageError as exc:
            raise self._refused(str(exc)) from exc
        if (embedder.digest, embedder.dim) != (manifest.embedder.digest, manifest.embedder.dim):
            raise self._refused(
                f"made with {manifest.embedder.name} {manifest.embedder.digest[:12]}, "
                f"running is {embedder.name} {embedder.digest[:12]}"
            )
        return InspectionPipeline(
            recipe=manifest.recipe,
            roi_finder=roi_finder,
            embedder=embedder,
            bank=MemoryBank(self.vectors, here),
            tau=manifest.tau,
            patch_tau=manifest.patch_tau,
            rim=manifest.rim,
            ref=self.ref,
        )

    def golden_frames(self) -> Iterator[tuple[GoldenFrame, Frame]]:
        """Yield each golden frame with what is expected of it. Raises PackageRefused where one cannot be decoded."""
        for golden in self.manifest.golden:
            bgr = _decode_png((self.path / golden.file).read_bytes())
            if bgr is None:
                raise self._refused(f"{golden.file} is no whole PNG of up to {LARGEST_GOLDEN_PX} pixels")
            yield golden, Frame(bgr, uri=golden.name)

    def check_golden(self, pipeline: Pipeline) -> float:
        """Return the largest deviation of a golden score. Raises PackageRefused where it is above the tolerance."""
        worst = 0.0
        for golden, frame in self.golden_frames():
            try:
                score = pipeline.inspect([frame])[0].score
            except FrameError as exc:
                raise self._refused(f"golden frame {golden.file} cannot be judged: {exc}") from exc
            deviation = abs(score - golden.score)
            if not deviation <= GOLDEN_TOLERANCE:
                raise self._refused(f"golden frame {golden.file} scores {score:.5f} here, not {golden.score:.5f}")
            worst = max(worst, deviation)
        return worst

    def _refused(self, why: str) -> PackageRefused:
        return PackageRefused(f"model {self.manifest.name}@{self.manifest.version}: {why}")


@dataclass(frozen=True, slots=True)
class InspectionPipeline(Pipeline):
    """The pipeline of one model package: what the service runs, usable without it (docs/library.md)."""

    ref: ModelRef

    @classmethod
    def from_package(cls, path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> InspectionPipeline:
        """Read and verify the package in the directory `path`, and build its pipeline on `device`.

        Raises:
            UsageError: the device is not there.
            PackageNotFound: there is no package.
            PackageRefused: it was tampered with, its backbone or its preprocessing is not the one running here, or its
                golden frames score otherwise than where it was trained.
        """
        package = read_package(Path(path))
        pipeline = package.build_pipeline(device)
        package.check_golden(pipeline)
        return pipeline


def read_package(path: Path) -> ModelPackage:
    """Read and verify the package in `path`.

    Raises:
        PackageNotFound: there is no package.
        PackageRefused: a file is missing, strange or not what was packed, or the manifest cannot be understood.
    """
    identity = package_id(path)
    try:
        _verify(path)
        manifest = _parse_manifest(path, (path / MANIFEST).read_bytes())
        vectors = _read_vectors(path)
    except OSError as exc:
        raise PackageRefused(f"package {path}: cannot read {exc.filename}: {exc.strerror}") from exc
    if vectors.shape[1] != manifest.embedder.dim or not np.isfinite(vectors).all():
        raise PackageRefused(f"package {path}: {BANK} does not hold finite vectors of length {manifest.embedder.dim}")
    wanted = {golden.file for golden in manifest.golden} | ({BACKBONE} if manifest.recipe.embed.pack_weights else set())
    missing = wanted - _files(path)
    if missing:
        raise PackageRefused(f"package {path}: {', '.join(sorted(missing))} is missing")
    return ModelPackage(path, identity, manifest, vectors)


def is_package(path: Path) -> bool:
    """Tell whether a package, perhaps a damaged one, lies in `path`."""
    return (path / MANIFEST).is_file() or (path / SUMS).is_file()


def _in_order(version: Path) -> tuple[int, str]:
    return len(version.name), version.name  # 9 comes before 10


def package_id(path: Path) -> str:
    """Return the id of the package in `path` without verifying its files. Raises PackageNotFound, PackageRefused."""
    if not is_package(path):
        versions = sorted((folder for folder in path.glob("[!.]*") if is_package(folder)), key=_in_order)
        below = f"; its versions are packages: {versions[-1]}" if versions else ""
        raise PackageNotFound(f"no model package in {path}{below}")
    try:
        return hashlib.sha256((path / SUMS).read_bytes()).hexdigest()
    except OSError as exc:
        raise PackageRefused(f"package {path}: {SUMS} is missing") from exc


def write_package(
    directory: Path,
    manifest: ModelManifest,
    vectors: FloatArray,
    golden: Mapping[str, BgrImage | bytes],
    backbone: Mapping[str, torch.Tensor] | Path | None = None,
) -> None:
    """Write a package into an empty directory.

    vectors: (M, D) float32. golden: a picture, or the bytes of its PNG, for each file that `manifest.golden` names.
    backbone: the weights to carry, or the file of another package that holds them.

    Raises CangateError: the disk takes no more.
    """
    with _writing(directory):
        weights = directory / BACKBONE
        if isinstance(backbone, Path):
            _link_or_copy(backbone, weights)
        elif backbone:
            weights.touch()
            mode = weights.stat().st_mode
            from safetensors.torch import save_file  # noqa: PLC0415 - as above

            save_file(dict(backbone), weights)
            weights.chmod(mode)  # safetensors lets none but its owner read it; the service is another user
        (directory / BANK).write_bytes(save_tensors({"vectors": np.ascontiguousarray(vectors, np.float32)}))
        for file, picture in golden.items():
            path = directory / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(picture if isinstance(picture, bytes) else cv2.imencode(".png", picture)[1].tobytes())
    seal(directory, manifest)


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:  # the second name is that of a copy; a full disk, found while bytes go out, names none
        raise unwritable(exc.filename2 or exc.filename or directory, exc) from exc
    except safetensors.SafetensorError as exc:
        raise CangateError(f"cannot write {directory / BACKBONE}: {exc}") from exc


def _link_or_copy(file: Path, target: Path) -> None:
    """Share the bytes of a file that never changes with another package, where both lie on one file system."""
    try:
        target.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, target)


def seal(directory: Path, manifest: ModelManifest) -> None:
    """Write manifest and digests, and have everything on the disk before the directory gets its name.

    Raises CangateError: the disk takes no more.
    """
    with _writing(directory):
        (directory / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        names = sorted(_files(directory) - {SUMS})
        (directory / SUMS).write_text("".join(f"{_digest(directory / name)}  {name}\n" for name in names))
        for name in (*names, SUMS):
            with (directory / name).open("rb") as file:
                os.fsync(file.fileno())


def _verify(path: Path) -> None:
    listed: dict[str, str] = {}
    for line in (path / SUMS).read_text(errors="replace").splitlines():
        digest, separator, name = line.partition("  ")
        if not (separator and _DIGEST.fullmatch(digest)):
            raise PackageRefused(f"package {path}: {SUMS} is damaged")
        listed[name] = digest
    present = _files(path) - {SUMS}
    for name in sorted({MANIFEST, BANK} | listed.keys()):
        if name not in present:
            raise PackageRefused(f"package {path}: {name} is missing")
        if not (path / name).is_file():  # a pipe would never end
            raise PackageRefused(f"package {path}: {name} is no file")
        if _digest(path / name) != listed.get(name):
            raise PackageRefused(
                f"package {path}: {name} is not what was packed, or {SUMS} is not (tampered with or damaged)"
            )
    strangers = sorted(present - listed.keys())
    if strangers:
        raise PackageRefused(f"package {path}: {', '.join(strangers)} does not belong to it")


def _read_vectors(path: Path) -> FloatArray:
    """Return the vectors (M, D) float32 of the bank. Raises OSError, PackageRefused."""
    try:
        vectors = load_tensors((path / BANK).read_bytes()).get("vectors")
    except safetensors.SafetensorError as exc:
        raise PackageRefused(f"package {path}: {BANK}: {exc}") from exc
    except (KeyError, TypeError, ValueError):  # of a type that numpy has not, as bfloat16 and the small floats are
        vectors = None
    if vectors is None or vectors.dtype != np.float32 or vectors.ndim != 2 or not len(vectors):
        raise PackageRefused(f"package {path}: {BANK} holds no (M, D) float32 vectors")
    return vectors


def _parse_manifest(path: Path, document: bytes) -> ModelManifest:
    try:
        return ModelManifest.model_validate_json(document)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise PackageRefused(f"package {path}: {MANIFEST}: {key}: {first['msg']}") from exc


def _decode_png(content: bytes) -> BgrImage | None:
    """Return a picture, None for what is none; what declares more than may be is not decoded."""
    try:
        kind, width, height = _PNG_HEADER.unpack_from(content)
        if kind != b"IHDR" or width * height > LARGEST_GOLDEN_PX:
            return None
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except (struct.error, cv2.error):
        return None
    return None if bgr is None else np.asarray(bgr, np.uint8)


def _files(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
