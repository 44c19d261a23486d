"""From OK frames to a model: embed, hold back, calibrate, choose the bank."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from schemas.recipe import Recipe, RoiMethod
from service.errors import TrainingError
from service.model.calibration import HeldBackFrame, calibrate
from service.model.dataset import Decode, FrameFile, read_frame
from service.model.embedding import EmbeddedFrames, FrameEmbedder, held_back_distances, held_back_frames
from service.model.manifest import (
    EmbedderRecord,
    GoldenFrame,
    Metrics,
    ModelManifest,
    TrainingRecord,
    doubtful_share,
    library_versions,
)
from service.model.package import write_package
from service.model.patches import PatchStore
from service.model.registry import ModelRegistry
from service.pipeline.embed import build_embedder
from service.pipeline.memory_bank import MemoryBank, build_memory_bank, density_filter
from service.pipeline.patch_scores import rim_of
from service.pipeline.pipeline import Pipeline
from service.pipeline.roi import build_roi_finder
from service.pipeline.types import BgrImage, FloatArray, Mask, Progress, StageProgress

FEWEST_FRAMES = 2
"""A threshold needs a frame outside the bank and one inside it."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train, apart from the recipe.

    false_reject: wanted share of OK parts that are rejected. mixed: damaged frames may be among the OK ones, so the
    least usual frames are not believed (`density_keep`). workers: threads that read, cut out and normalise frames.
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

    def publish(self, registry: ModelRegistry) -> Path:
        """Add the package to a store as the next version of its name; return its path. Raises CangateError."""
        with registry.draft(self.manifest.name) as directory:
            self.write(directory)
            return registry.publish(directory, self.manifest)


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
    recipe = frozen_recipe(recipe)
    roi_finder = build_roi_finder(recipe.roi, device)
    embedder = build_embedder(recipe.embed, device)
    reader = FrameEmbedder(recipe, roi_finder, embedder, decode, options.workers)
    trainer = _Trainer(recipe, options, reader, device, progress)
    with PatchStore(embedder.dim) as patches:
        return trainer.run(name, files, patches)


@dataclass(frozen=True, slots=True)
class _Trainer:
    recipe: Recipe
    options: TrainingOptions
    reader: FrameEmbedder
    device: torch.device
    progress: StageProgress

    def run(self, name: str, files: Sequence[FrameFile], patches: PatchStore) -> TrainedModel:
        embedded = self.reader.embed_all(files, patches, self.progress)
        frames, embedder = embedded.frames, self.reader.embedder
        if len(frames) < FEWEST_FRAMES:
            found = f"{len(frames)} different" if embedded.duplicates else str(len(frames))
            raise TrainingError(
                f"a model needs {FEWEST_FRAMES} OK frames at least, and many more to be good; got {found}"
            )
        memory = self.recipe.memory
        vectors, frame_of_patch = patches.sample(memory.reservoir, memory.seed)
        held = len(vectors)
        distances = held_back_distances(
            patches, vectors, frame_of_patch, lambda others: self._bank(others, "held-back bank"), self.progress
        )
        score = self.recipe.score
        sound = self._surely_sound(distances)
        rim = rim_of([distances[row] for row in sound], [embedded.insides[row] for row in sound], score.rim_evenness)
        held_back = held_back_frames(embedded, distances, rim, score.neighbourhood)
        doubtful = doubtful_share(memory, mixed=self.options.mixed)
        calibration = calibrate(held_back, self.options.false_reject, doubtful=doubtful)
        if self.options.mixed:
            vectors = vectors[self._pseudo_ok(vectors, frame_of_patch, held_back)]
        bank = self._bank(vectors, "memory bank")
        tau = calibration.limits[score.statistic]
        pipeline = Pipeline(
            self.recipe, self.reader.roi_finder, embedder, bank, tau=tau, patch_tau=calibration.patch_tau, rim=rim
        )
        scores = [frame.scores[score.statistic] for frame in calibration.held_back]
        golden, pictures = self._golden(pipeline, embedded, scores)
        manifest = ModelManifest(
            name=name,
            created_at=datetime.now(UTC),
            libraries=library_versions(),
            recipe=self.recipe,
            embedder=EmbedderRecord(name=embedder.name, dim=embedder.dim, digest=embedder.digest),
            tau=tau,
            patch_tau=calibration.patch_tau,
            rim=rim,
            calibration=calibration,
            training=TrainingRecord(
                frames=frames,
                duplicates=embedded.duplicates,
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
        backbone = embedder.state() if self.recipe.embed.pack_weights else {}
        return TrainedModel(manifest, bank.vectors, pictures, backbone)

    def _surely_sound(self, distances: Sequence[FloatArray]) -> list[int]:
        """Return which frames say what sound parts are like: of a mixed set those whose largest distance is small."""
        share = self.recipe.memory.density_keep if self.options.mixed else 1.0
        order = np.argsort([float(each.max()) for each in distances], kind="stable")
        return sorted(order[: math.ceil(share * len(order))].tolist())

    def _pseudo_ok(
        self, vectors: FloatArray, frame_of_patch: npt.NDArray[np.int64], held_back: Sequence[HeldBackFrame]
    ) -> Mask:
        """Mark the patches that may enter the bank: of the least usual frames only the dense ones.

        Good parts have rare patches too, a highlight or an edge; dropped from every frame they would be missed by the
        bank and found by the score.
        """
        memory, statistic = self.recipe.memory, self.recipe.score.statistic
        dense = density_filter(
            vectors, memory.density_k, memory.density_keep, self._stage("patch density"), self.device
        )
        usual = math.ceil(memory.density_keep * len(held_back))
        doubtful = np.argsort([frame.scores[statistic] for frame in held_back], kind="stable")[usual:]
        return np.asarray(dense | ~np.isin(frame_of_patch, doubtful))

    def _bank(self, vectors: FloatArray, stage: str) -> MemoryBank:
        return build_memory_bank(vectors, self.recipe.memory, progress=self._stage(stage), device=self.device)

    def _stage(self, stage: str) -> Progress:
        return lambda done, total: self.progress(stage, done, total)

    def _golden(
        self,
        pipeline: Pipeline,
        embedded: EmbeddedFrames,
        scores: list[float],
    ) -> tuple[list[GoldenFrame], dict[str, BgrImage]]:
        """Choose the frames with the lowest, middle and highest held-back score, and judge them as they ship."""
        order = np.argsort(scores, kind="stable")
        golden: list[GoldenFrame] = []
        pictures: dict[str, BgrImage] = {}
        for index in sorted({int(order[0]), int(order[len(order) // 2]), int(order[-1])}):
            read = read_frame(embedded.files[index], self.reader.decode)
            known = embedded.frames[index]
            if read.sha256 != known.sha256:
                raise TrainingError(f"{known.name} was changed while training")
            file = f"golden/{len(golden) + 1}.png"
            score = pipeline.inspect([read.frame])[0].score
            golden.append(GoldenFrame(file=file, name=known.name, score=score))
            pictures[file] = read.frame.bgr
            self.progress("golden frames", len(golden), min(3, len(order)))
        return golden, pictures


def frozen_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe as a package keeps it: what it names by path is found from any folder, and not swapped unseen.

    Weights have their digest from the embedder; the checkpoint of SAM gets it here.
    """
    embed, roi = recipe.embed, recipe.roi
    if embed.weights:
        embed = embed.model_copy(update={"weights": str(Path(embed.weights).absolute())})
    if roi.sam_checkpoint:
        checkpoint = Path(roi.sam_checkpoint).absolute()
        roi = roi.model_copy(update={"sam_checkpoint": str(checkpoint)})
        if roi.method is RoiMethod.SAM and not roi.sam_sha256 and checkpoint.is_file():
            with checkpoint.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            roi = roi.model_copy(update={"sam_sha256": digest})
    return recipe.model_copy(update={"embed": embed, "roi": roi})
