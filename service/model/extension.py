"""More OK frames for a model that exists, with what that changes, before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from service.errors import FrameError, TrainingError
from service.model.calibration import Calibration, HeldBackFrame, calibrate
from service.model.dataset import Decode, FrameFile, read_frame
from service.model.embedding import FrameEmbedder, held_back_distances, held_back_frames
from service.model.manifest import Duplicate, GoldenFrame, Metrics, ModelManifest
from service.model.package import InspectionPipeline, ModelPackage, write_package
from service.model.patches import PatchStore
from service.model.registry import ModelRegistry
from service.pipeline.memory_bank import MemoryBank, extend_memory_bank
from service.pipeline.scoring import all_statistics, image_score
from service.pipeline.types import BgrImage, FloatArray, Frame, PatchGrid, StageProgress

FALSE_REJECT = 0.01
"""Wanted rate for a model whose threshold was given, with no rate known."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What frames that should be judged alike get from the model as it is and as it would be.

    before, after: (N,) image score of each; a limit of its own for each side.
    """

    before: Sequence[float]
    after: Sequence[float]
    tau_before: float
    tau_after: float

    @property
    def rejected_before(self) -> int:
        """How many reach the threshold as it is."""
        return sum(score >= self.tau_before for score in self.before)

    @property
    def rejected_after(self) -> int:
        """How many would reach the threshold as it would be."""
        return sum(score >= self.tau_after for score in self.after)


@dataclass(frozen=True, slots=True, eq=False)
class Extension:
    """A model with more frames, not yet published.

    added: of the new frames, scores against the bank as it is, and held back from the one that would be. damaged: of
    known damaged frames, where there were any.
    """

    package: ModelPackage
    manifest: ModelManifest
    vectors: FloatArray
    golden: dict[str, BgrImage | bytes]
    duplicates: tuple[Duplicate, ...]
    added: Effect
    damaged: Effect | None

    @property
    def frames(self) -> int:
        """How many frames are new."""
        return len(self.added.before)

    def publish(self, registry: ModelRegistry) -> Path:
        """Publish it as the next version of its name; return that. Raises CangateError."""
        with registry.draft(self.manifest.name) as directory:
            write_package(directory, self.manifest, self.vectors, self.golden, self.package.backbone)
            return registry.publish(directory, self.manifest)


def extend(
    package: ModelPackage,
    pipeline: InspectionPipeline,
    files: Sequence[FrameFile],
    damaged: Sequence[FrameFile],
    *,
    decode: Decode,
    workers: int,
    progress: StageProgress,
) -> Extension:
    """Add OK frames to a model, with the recipe it was trained with. Frames it knows, and copies, are left out.

    The bank keeps its vectors and gets as many for each new patch as it has for each old one: those farthest from it.
    The old frames are not at hand, so their held-back scores stand as they were recorded: more vectors can only lower
    them, and the limit errs towards passing. The new frames are held back in folds of their own.

    Raises TrainingError: nothing new, or frames that cannot be read or hold no part; all of them are named.
    """
    old, memory = package.manifest, pipeline.recipe.memory
    known = {frame.sha256: f"{frame.name} of {package.ref.reference}" for frame in old.training.frames}
    reader = FrameEmbedder(pipeline.recipe, pipeline.roi_finder, pipeline.embedder, decode, workers)
    with PatchStore(pipeline.embedder.dim) as patches:
        embedded = reader.embed_all(files, patches, progress, known)
        if not embedded.frames:
            raise TrainingError(f"none of the {len(files)} frames is new to {package.ref.reference}")
        vectors, frame_of_patch = patches.sample(memory.reservoir, memory.seed)
        density = len(package.vectors) / old.training.patches if old.training.patches else memory.coreset_frac

        def extended(some: FloatArray, stage: str) -> MemoryBank:
            if not len(some):
                return pipeline.bank
            count = min(math.ceil(density * len(patches) * len(some) / len(vectors)), len(some))
            return extend_memory_bank(
                pipeline.bank, some, count, memory, progress=lambda done, total: progress(stage, done, total)
            )

        distances = held_back_distances(
            patches, vectors, frame_of_patch, lambda others: extended(others, "held-back bank"), progress
        )
        # what evens out the rim stays: the scores of the old frames were taken with it
        held_back = held_back_frames(embedded, distances, pipeline.rim, pipeline.recipe.score.neighbourhood)
        bank = extended(vectors, "memory bank")
        before = [
            all_statistics(pipeline.patch_scores(PatchGrid(patches.of_frame(row), inside)))
            for row, inside in enumerate(embedded.insides)
        ]
        seen = len(patches)

    statistic = pipeline.recipe.score.statistic
    calibration = _calibrated(old.calibration, held_back, old.doubtful)
    tau = calibration.limits[statistic]
    longer = replace(pipeline, bank=bank, tau=tau, patch_tau=calibration.patch_tau)
    golden, pictures = _golden(package, longer, embedded.files, held_back, decode)
    scores = calibration.scores(statistic)
    manifest = ModelManifest.model_validate(
        dict(old)
        | {
            "created_at": datetime.now(UTC),
            "tau": tau,
            "patch_tau": calibration.patch_tau,
            "calibration": calibration,
            "training": old.training.model_copy(
                update={
                    "frames": old.training.frames + embedded.frames,
                    "duplicates": old.training.duplicates + embedded.duplicates,
                    "patches": old.training.patches + seen,
                    "patches_held": old.training.patches_held + len(vectors),
                    "bank_size": len(bank),
                }
            ),
            "metrics": Metrics(
                held_back_frames=len(scores),
                held_back_rejected=sum(score >= tau for score in scores),
                score_median=float(np.median(scores)),
                score_max=max(scores),
            ),
            "golden": golden,
            "parent": package.id,
        }
    )
    return Extension(
        package=package,
        manifest=manifest,
        vectors=bank.vectors,
        golden=pictures,
        duplicates=embedded.duplicates,
        added=Effect(
            before=[each[statistic] for each in before],
            after=[frame.scores[statistic] for frame in held_back],
            tau_before=pipeline.tau,
            tau_after=tau,
        ),
        damaged=_on_damaged(damaged, pipeline, longer, decode, progress) if damaged else None,
    )


def _calibrated(old: Calibration, new: Sequence[HeldBackFrame], doubtful: float) -> Calibration:
    """Return the limits over the frames of both, at the rate wanted so far.

    A new frame that the old limits were taken from counts once, with its new score.
    """
    folds = max((frame.fold for frame in old.held_back), default=-1) + 1
    later = [frame.model_copy(update={"fold": folds + frame.fold}) for frame in new]
    added = {frame.sha256 for frame in new}
    earlier = [frame for frame in old.held_back if frame.sha256 not in added]
    return calibrate([*earlier, *later], old.false_reject or FALSE_REJECT, doubtful=doubtful)


def _golden(
    package: ModelPackage,
    pipeline: InspectionPipeline,
    files: Sequence[FrameFile],
    held_back: Sequence[HeldBackFrame],
    decode: Decode,
) -> tuple[tuple[GoldenFrame, ...], dict[str, BgrImage | bytes]]:
    """Keep the golden frames and add the new one with the highest held-back score, all scored as they will be."""
    golden: list[GoldenFrame] = []
    pictures: dict[str, BgrImage | bytes] = {}

    def add(name: str, frame: Frame, picture: BgrImage | bytes) -> None:
        file = f"golden/{len(golden) + 1}.png"
        golden.append(GoldenFrame(file=file, name=name, score=pipeline.inspect([frame])[0].score))
        pictures[file] = picture

    for item, frame in package.golden_frames():
        add(item.name, frame, (package.path / item.file).read_bytes())
    statistic = pipeline.recipe.score.statistic
    highest = max(range(len(files)), key=lambda index: held_back[index].scores[statistic])
    read = read_frame(files[highest], decode)
    add(files[highest].name, read.frame, read.frame.bgr)
    return tuple(golden), pictures


def _on_damaged(
    files: Sequence[FrameFile],
    before: InspectionPipeline,
    after: InspectionPipeline,
    decode: Decode,
    progress: StageProgress,
) -> Effect:
    """Judge damaged frames with both banks. Raises TrainingError, naming the first that cannot be judged."""
    statistic = before.recipe.score.statistic
    scores: tuple[list[float], list[float]] = ([], [])
    for done, file in enumerate(files, 1):
        try:
            prepared = before.prepare(read_frame(file, decode).frame)
        except FrameError as exc:
            raise TrainingError(f"{file.name} cannot be judged ({exc.reason}: {exc})") from exc
        grid = before.embedder.embed([prepared.normalized])[0]
        for into, pipeline in zip(scores, (before, after), strict=True):
            into.append(image_score(pipeline.patch_scores(grid), statistic))
        progress("damaged frames", done, len(files))
    return Effect(*scores, tau_before=before.tau, tau_after=after.tau)
