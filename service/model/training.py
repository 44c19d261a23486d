"""From OK frames to a model: embed, hold back, calibrate, choose the bank."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from schemas.recipe import Recipe, RoiMethod
from service.errors import FrameError, TrainingError
from service.model.calibration import Calibration, HeldBackFrame, calibrate, fold_of_frames
from service.model.dataset import Decode, FrameFile, read_frame
from service.model.manifest import (
    Duplicate,
    EmbedderRecord,
    GoldenFrame,
    Metrics,
    ModelManifest,
    TrainingFrame,
    TrainingRecord,
    library_versions,
)
from service.model.package import write_package
from service.model.patches import PatchStore
from service.pipeline.embed import Embedder, build_embedder
from service.pipeline.memory_bank import MemoryBank, build_memory_bank, density_filter
from service.pipeline.normalize import normalize
from service.pipeline.pipeline import Pipeline
from service.pipeline.roi import RoiFinder, build_roi_finder
from service.pipeline.scoring import all_statistics
from service.pipeline.types import BgrImage, FloatArray, NormalizedRoi, Progress

FEWEST_FRAMES = 2
"""A threshold needs a frame outside the bank and one inside it."""

StageProgress = Callable[[str, int, int], None]
"""Told (stage, done, total) from time to time; what it raises cancels the training."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train, apart from the recipe.

    false_reject: wanted share of OK parts that are rejected. mixed: damaged frames may be among the OK ones, so the
    rarest patches are dropped. workers: threads that read, cut out and normalise frames.
    """

    false_reject: float = 0.01
    mixed: bool = False
    workers: int = 2


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """What goes into a package.

    vectors: the bank, (M, D) float32. golden: frames by file name. backbone: the weights that the package carries;
    empty where it only names them.
    """

    manifest: ModelManifest
    vectors: FloatArray
    golden: dict[str, BgrImage]
    backbone: dict[str, torch.Tensor] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write the package into an empty directory."""
        write_package(directory, self.manifest, self.vectors, self.golden, self.backbone)


@dataclass(frozen=True, slots=True)
class _Prepared:
    sha256: str
    pixels: bytes
    roi: str
    normalized: NormalizedRoi


def train(
    name: str,
    files: Sequence[FrameFile],
    recipe: Recipe,
    options: TrainingOptions,
    *,
    decode: Decode,
    device: torch.device,
    progress: StageProgress,
) -> TrainedModel:
    """Make a model from OK frames, streamed in the order of `files`; the same frames make the same model.

    A frame that shows the very pixels of an earlier one is left out and reported: its twin in the bank would make its
    held-back score too good. Frames are held back in contiguous folds, each scored against a bank made from the others;
    the bank that ships is made from all. Memory is bounded by `recipe.memory.reservoir` patches; the others wait in
    TMPDIR, up to some MB a frame. The density filter of a mixed set runs once, over all frames.

    Raises:
        TrainingError: too few frames, or frames that cannot be read or hold no canister; all of them are named.
        UsageError: the ROI method or the backbone cannot be had.
    """
    recipe = _frozen(recipe)
    roi_finder = build_roi_finder(recipe.roi, device)
    embedder = build_embedder(recipe.embed, device)
    trainer = _Trainer(recipe, options, roi_finder, embedder, decode, device, progress)
    with PatchStore(embedder.dim) as patches:
        return trainer.run(name, files, patches)


@dataclass(frozen=True, slots=True)
class _Trainer:
    recipe: Recipe
    options: TrainingOptions
    roi_finder: RoiFinder
    embedder: Embedder
    decode: Decode
    device: torch.device
    progress: StageProgress

    def run(self, name: str, files: Sequence[FrameFile], patches: PatchStore) -> TrainedModel:
        kept, frames, duplicates = self._embed_all(files, patches)
        memory = self.recipe.memory
        vectors, frame_of_patch = patches.sample(memory.reservoir, memory.seed)
        held = len(vectors)
        if self.options.mixed:
            dense = density_filter(
                vectors, memory.density_k, memory.density_keep, self._stage("patch density"), self.device
            )
            vectors, frame_of_patch = vectors[dense], frame_of_patch[dense]
        calibration = self._hold_back([frame.name for frame in frames], patches, vectors, frame_of_patch)
        bank = self._bank(vectors, "memory bank")
        tau = calibration.limits[self.recipe.score.statistic]
        pipeline = Pipeline(self.recipe, self.roi_finder, self.embedder, bank, tau=tau, patch_tau=calibration.patch_tau)
        scores = [frame.scores[self.recipe.score.statistic] for frame in calibration.held_back]
        golden, pictures = self._golden(pipeline, kept, frames, scores)
        manifest = ModelManifest(
            name=name,
            created_at=datetime.now(UTC),
            libraries=library_versions(),
            recipe=self.recipe,
            embedder=EmbedderRecord(name=self.embedder.name, dim=self.embedder.dim, digest=self.embedder.digest),
            tau=tau,
            patch_tau=calibration.patch_tau,
            calibration=calibration,
            training=TrainingRecord(
                frames=tuple(frames),
                duplicates=tuple(duplicates),
                mixed=self.options.mixed,
                patches=len(patches),
                patches_held=held,
                bank_size=len(bank),
            ),
            metrics=Metrics(
                held_back_frames=len(scores),
                held_back_rejected=sum(score >= tau for score in scores),
                score_median=float(np.median(scores)),
                score_max=max(scores),
            ),
            golden=tuple(golden),
        )
        backbone = self.embedder.state() if self.recipe.embed.pack_weights else {}
        return TrainedModel(manifest, bank.vectors, pictures, backbone)

    def _embed_all(
        self, files: Sequence[FrameFile], patches: PatchStore
    ) -> tuple[list[FrameFile], list[TrainingFrame], list[Duplicate]]:
        """Embed every frame but duplicates; once one is refused, only look for others that must be named as well."""
        kept: list[FrameFile] = []
        frames: list[TrainingFrame] = []
        duplicates: list[Duplicate] = []
        refused: list[str] = []
        seen: dict[bytes, str] = {}
        for done, (file, future) in enumerate(_in_order(self._prepare, files, self.options.workers), 1):
            self.progress("frames", done, len(files))
            try:
                prepared = future.result()
            except FrameError as exc:
                refused.append(f"{file.name} ({exc.reason}: {exc})")
                continue
            if prepared.pixels in seen:
                duplicates.append(Duplicate(name=file.name, same_as=seen[prepared.pixels]))
            elif not refused:
                seen[prepared.pixels] = file.name
                patches.append(self.embedder.embed([prepared.normalized])[0].vectors)
                kept.append(file)
                frames.append(TrainingFrame(name=file.name, sha256=prepared.sha256, roi=prepared.roi))
        if refused:
            raise TrainingError(f"{len(refused)} of {len(files)} frames cannot be used: {'; '.join(refused)}")
        if len(frames) < FEWEST_FRAMES:
            found = f"{len(frames)} different" if duplicates else str(len(frames))
            raise TrainingError(
                f"a model needs {FEWEST_FRAMES} OK frames at least, and many more to be good; got {found}"
            )
        return kept, frames, duplicates

    def _prepare(self, file: FrameFile) -> _Prepared:
        read = read_frame(file, self.decode)
        roi = self.roi_finder.find(read.frame.bgr)
        normalized = normalize(read.frame.bgr, roi, self.recipe.normalize)
        shape = str(read.frame.bgr.shape).encode()
        pixels = hashlib.blake2b(np.ascontiguousarray(read.frame.bgr).data, key=shape).digest()
        return _Prepared(read.sha256, pixels, roi.path, normalized)

    def _hold_back(
        self, names: Sequence[str], patches: PatchStore, vectors: FloatArray, frame_of_patch: npt.NDArray[np.int64]
    ) -> Calibration:
        """Score each frame against a bank that has never seen its fold."""
        fold_of = fold_of_frames(len(names))
        held_back: list[HeldBackFrame] = []
        for fold in range(int(fold_of[-1]) + 1):
            bank = self._bank(vectors[fold_of[frame_of_patch] != fold], "held-back bank")
            for frame in np.flatnonzero(fold_of == fold).tolist():
                scores = all_statistics(bank.distances(patches.of_frame(frame)))
                held_back.append(HeldBackFrame(name=names[frame], fold=fold, scores=scores))
                self.progress("held-back scores", len(held_back), len(names))
        return calibrate(held_back, self.options.false_reject)

    def _bank(self, vectors: FloatArray, stage: str) -> MemoryBank:
        return build_memory_bank(
            vectors, self.recipe.memory, clean=True, progress=self._stage(stage), device=self.device
        )

    def _stage(self, stage: str) -> Progress:
        return lambda done, total: self.progress(stage, done, total)

    def _golden(
        self,
        pipeline: Pipeline,
        files: Sequence[FrameFile],
        frames: Sequence[TrainingFrame],
        scores: list[float],
    ) -> tuple[list[GoldenFrame], dict[str, BgrImage]]:
        """Choose the frames with the lowest, middle and highest held-back score, and judge them as they ship."""
        order = np.argsort(scores, kind="stable")
        golden: list[GoldenFrame] = []
        pictures: dict[str, BgrImage] = {}
        for index in sorted({int(order[0]), int(order[len(order) // 2]), int(order[-1])}):
            read = read_frame(files[index], self.decode)
            if read.sha256 != frames[index].sha256:
                raise TrainingError(f"{frames[index].name} was changed while training")
            file = f"golden/{len(golden) + 1}.png"
            score = pipeline.inspect([read.frame])[0].score
            golden.append(GoldenFrame(file=file, name=frames[index].name, score=score))
            pictures[file] = read.frame.bgr
            self.progress("golden frames", len(golden), min(3, len(order)))
        return golden, pictures


def _frozen(recipe: Recipe) -> Recipe:
    """Return the recipe with the digest of what it names by path, so that the package can tell a swapped checkpoint."""
    roi = recipe.roi
    checkpoint = Path(roi.sam_checkpoint)
    if roi.method is not RoiMethod.SAM or roi.sam_sha256 or not checkpoint.is_file():
        return recipe
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return recipe.model_copy(update={"roi": roi.model_copy(update={"sam_sha256": digest})})


def _in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yield each item with its finished or running work, in order; only a few are held at a time."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > 2 * workers:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
