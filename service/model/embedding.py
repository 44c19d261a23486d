"""OK frames as patch vectors: read, cut out, normalise, embed, one frame after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from schemas.messages import Reason
from schemas.recipe import Recipe
from service.errors import FrameError, TrainingError
from service.model.calibration import HeldBackFrame, fold_of_frames
from service.model.dataset import Decode, FrameFile, read_frame
from service.model.manifest import Duplicate, TrainingFrame
from service.model.patches import PatchStore
from service.pipeline.normalize import normalize
from service.pipeline.patch_scores import Rim, patch_scores
from service.pipeline.scoring import all_statistics
from service.pipeline.types import FloatArray, Mask, NormalizedRoi, StageProgress
from service.prefetch import prefetched

if TYPE_CHECKING:
    from service.pipeline.embed import Embedder
    from service.pipeline.memory_bank import MemoryBank
    from service.pipeline.roi import RoiFinder


@dataclass(frozen=True, slots=True)
class EmbeddedFrames:
    """Frames whose patches are in the store, in its order, and those left out because they are copies.

    insides: the grid of each frame, (rows, cols) bool.
    """

    files: tuple[FrameFile, ...]
    frames: tuple[TrainingFrame, ...]
    insides: tuple[Mask, ...]
    duplicates: tuple[Duplicate, ...]


@dataclass(frozen=True, slots=True)
class _Prepared:
    sha256: str
    pixels: bytes
    roi: str
    normalized: NormalizedRoi


@dataclass(frozen=True, slots=True)
class FrameEmbedder:
    """The way of a training frame up to its patches. workers: threads that read, cut out and normalise."""

    recipe: Recipe
    roi_finder: RoiFinder
    embedder: Embedder
    decode: Decode
    workers: int

    def embed_all(
        self,
        files: Sequence[FrameFile],
        patches: PatchStore,
        progress: StageProgress,
        known: Mapping[str, str] | None = None,
    ) -> EmbeddedFrames:
        """Put the patches of every frame but copies into `patches`.

        A frame that shows the very pixels of an earlier one is a copy, as is one whose file is `known`: SHA-256 and the
        name by which it is known. Once a frame is refused, the rest is only searched for others that must be named as
        well.

        Raises TrainingError: frames that cannot be read or hold no part; all of them are named.
        """
        known = known or {}
        kept: list[FrameFile] = []
        frames: list[TrainingFrame] = []
        insides: list[Mask] = []
        duplicates: list[Duplicate] = []
        refused = RefusedFrames()
        seen: dict[bytes, str] = {}
        for done, (file, future) in enumerate(prefetched(self._prepare, files, self.workers), 1):
            progress("frames", done, len(files))
            try:
                prepared = future.result()
            except FrameError as exc:
                refused.add(file.name, exc)
                continue
            twin = known.get(prepared.sha256) or seen.get(prepared.pixels)
            if twin is not None:
                duplicates.append(Duplicate(name=file.name, same_as=twin))
            elif not refused:
                seen[prepared.pixels] = file.name
                grid = self.embedder.embed([prepared.normalized])[0]
                patches.append(grid.vectors)
                insides.append(grid.inside)
                kept.append(file)
                frames.append(TrainingFrame(name=file.name, sha256=prepared.sha256, roi=prepared.roi))
        if refused:
            raise TrainingError(f"{len(refused)} of {len(files)} frames cannot be used: {refused}")
        return EmbeddedFrames(tuple(kept), tuple(frames), tuple(insides), tuple(duplicates))

    def _prepare(self, file: FrameFile) -> _Prepared:
        read = read_frame(file, self.decode)
        roi = self.roi_finder.find(read.frame.bgr)
        normalized = normalize(read.frame.bgr, roi, self.recipe.normalize)
        shape = str(read.frame.bgr.shape).encode()
        pixels = hashlib.blake2b(np.ascontiguousarray(read.frame.bgr).data, key=shape).digest()
        return _Prepared(read.sha256, pixels, roi.path, normalized)


class RefusedFrames:
    """Frames that cannot be used, by what is wrong with them."""

    def __init__(self) -> None:
        self._names: dict[tuple[Reason, str], list[str]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._names.values()))

    def __str__(self) -> str:
        groups = [f"{', '.join(names)} ({reason}: {text})" for (reason, text), names in self._names.items()]
        without_part = sum(len(names) for (reason, _), names in self._names.items() if reason is Reason.ROI_NOT_FOUND)
        if without_part > len(self) / 2:
            groups.append("where parts fill the frame, train with --roi none")
        return "; ".join(groups)

    def add(self, name: str, error: FrameError) -> None:
        """Count a frame, under what is wrong with it."""
        self._names.setdefault((error.reason, str(error)), []).append(name)


def held_back_distances(
    patches: PatchStore,
    vectors: FloatArray,
    frame_of_patch: npt.NDArray[np.int64],
    make_bank: Callable[[FloatArray], MemoryBank],
    progress: StageProgress,
) -> list[FloatArray]:
    """Return the distances of each frame's patches, (N,) float32, to a bank that has never seen its fold.

    vectors: (R, D) float32, what banks are made from; frame_of_patch: (R,) the frame of each. make_bank: called with
    the vectors of the other folds.
    """
    fold_of = fold_of_frames(patches.frames)
    distances: list[FloatArray] = []
    for fold in range(int(fold_of[-1]) + 1):
        bank = make_bank(vectors[fold_of[frame_of_patch] != fold])
        for frame in np.flatnonzero(fold_of == fold).tolist():
            distances.append(bank.distances(patches.of_frame(frame)))
            progress("held-back scores", len(distances), patches.frames)
    return distances


def held_back_frames(
    embedded: EmbeddedFrames, distances: Sequence[FloatArray], rim: Rim, neighbourhood: int
) -> list[HeldBackFrame]:
    """Return the scores of frames whose distances are those of `held_back_distances`."""
    folds = fold_of_frames(len(distances)).tolist()
    return [
        HeldBackFrame(
            name=frame.name,
            sha256=frame.sha256,
            fold=fold,
            scores=all_statistics(patch_scores(each, inside, rim, neighbourhood)),
        )
        for frame, fold, each, inside in zip(embedded.frames, folds, distances, embedded.insides, strict=True)
    ]
