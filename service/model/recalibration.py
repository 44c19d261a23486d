"""Another threshold for a model that exists: judge known frames, choose tau, and describe the package that has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from schemas.recipe import ScoreStatistic
from service.errors import FrameError, UsageError
from service.model.calibration import Calibration, HeldBackFrame, LimitMethod, Sweep, calibrate
from service.model.dataset import Decode, FrameFile, read_frame
from service.model.embedding import RefusedFrames
from service.model.manifest import GoldenFrame, Metrics, ModelManifest
from service.model.package import ModelPackage, write_package
from service.model.registry import ModelRegistry
from service.model.sweep import (
    OperatingPoint,
    RateInterval,
    Target,
    clopper_pearson,
    conformal_interval,
    operating_point,
    threshold_for,
)
from service.pipeline.pipeline import Pipeline
from service.pipeline.scoring import all_statistics
from service.pipeline.types import BgrImage, Progress

NAMED = 5
"""How many of the frames that are known already are named."""


@dataclass(frozen=True, slots=True)
class JudgedFrame:
    """A frame of which it is known whether it is OK, with every statistic of its score."""

    file: FrameFile
    sha256: str
    scores: dict[ScoreStatistic, float]


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """Frames that differ from each other, and the names of those left out because they are copies."""

    frames: tuple[JudgedFrame, ...] = ()
    copies: tuple[str, ...] = ()

    def scores(self, statistic: ScoreStatistic) -> list[float]:
        """Return the score of each frame, in their order."""
        return [frame.scores[statistic] for frame in self.frames]


@dataclass(frozen=True, slots=True)
class Choice:
    """A calibration, and what each statistic would do at its threshold; None where its threshold does not exist."""

    calibration: Calibration
    statistic: ScoreStatistic
    points: dict[ScoreStatistic, OperatingPoint | None]

    @property
    def point(self) -> OperatingPoint:
        """What the model will do. Raises UsageError where no threshold reaches the target."""
        point = self.points[self.statistic]
        if point is None:
            raise UsageError(f"no threshold of {self.statistic} reaches the wanted precision on these frames")
        return point

    def interval(self, point: OperatingPoint) -> RateInterval:
        """Return the interval of the false-reject rate at a threshold of `points`."""
        if self.calibration.sweep is None and self.calibration.method is LimitMethod.CONFORMAL:
            return conformal_interval(point.false_rejects, point.ok_frames)
        return clopper_pearson(point.false_rejects, point.ok_frames)


def judge_frames(
    files: Sequence[FrameFile],
    package: ModelPackage,
    pipeline: Pipeline,
    decode: Decode,
    progress: Progress,
    *,
    other: JudgedSet | None = None,
) -> JudgedSet:
    """Judge frames that the model has never seen; a copy of an earlier one is left out.

    Once a frame is refused, the rest is only searched for others that must be counted as well.

    Raises UsageError, naming them: frames that the model was trained on, that are in `other` as well, or that cannot be
    judged.
    """
    known = {frame.sha256: f"{frame.name} of the training set" for frame in package.manifest.training.frames}
    known |= {frame.sha256: f"{frame.file.path} of the other folder" for frame in (other.frames if other else ())}
    judged: dict[str, JudgedFrame] = {}
    copies: list[str] = []
    seen: list[str] = []
    refused = RefusedFrames()
    for done, file in enumerate(files, 1):
        try:
            read = read_frame(file, decode)
            if read.sha256 in known:
                seen.append(f"{file.name} is {known[read.sha256]}")
            elif read.sha256 in judged:
                copies.append(f"{file.name} is {judged[read.sha256].file.name}")
            else:
                normalized = pipeline.prepare(read.frame).normalized
                if not (seen or refused):
                    grid = pipeline.embedder.embed([normalized])[0]
                    scores = all_statistics(pipeline.patch_scores(grid))
                    judged[read.sha256] = JudgedFrame(file, read.sha256, scores)
        except FrameError as exc:
            refused.add(file.name, exc)
        progress(done, len(files))
    if seen or refused:
        more = [f"and {len(seen) - NAMED} more"] if len(seen) > NAMED else []
        why = [*seen[:NAMED], *more, *([str(refused)] if refused else [])]
        raise UsageError(
            f"{len(seen) + len(refused)} of {len(files)} frames cannot calibrate "
            f"{package.ref.reference}: {'; '.join(why)}"
        )
    return JudgedSet(tuple(judged.values()), tuple(copies))


def choose(
    held_back: Sequence[HeldBackFrame],
    damaged: JudgedSet,
    statistic: ScoreStatistic,
    *,
    false_reject: float,
    target: Target | None,
    folds: int,
    doubtful: float = 0.0,
) -> Choice:
    """Choose the threshold of every statistic: the limit of the OK frames alone, or what `target` takes.

    doubtful: share of `held_back` that may be damaged. Raises UsageError: fewer than two OK frames, or no threshold of
    `statistic` reaches the target.
    """
    calibration = calibrate(held_back, false_reject, folds=folds, doubtful=doubtful)
    points: dict[ScoreStatistic, OperatingPoint | None] = {}
    for each in ScoreStatistic:
        ok, bad = calibration.scores(each), damaged.scores(each)
        tau = calibration.limits[each] if target is None else threshold_for(target, ok, bad)
        points[each] = None if tau is None else operating_point(tau, ok, bad)
    choice = Choice(calibration, statistic, points)
    if target is None:
        return choice
    point = choice.point
    sweep = Sweep(
        target=target,
        damaged_frames=point.damaged_frames,
        recall=point.recall or 0.0,
        precision=point.precision or 0.0,
    )
    return Choice(calibration.model_copy(update={"sweep": sweep}), statistic, points)


def as_held_back(judged: JudgedSet) -> tuple[HeldBackFrame, ...]:
    """Return frames that were none of the training's as a calibration records them."""
    return tuple(
        HeldBackFrame(name=frame.file.name, sha256=frame.sha256, fold=0, scores=frame.scores) for frame in judged.frames
    )


def publish_choice(
    registry: ModelRegistry,
    package: ModelPackage,
    pipeline: Pipeline,
    choice: Choice,
    ok: JudgedSet,
    decode: Decode,
) -> Path:
    """Publish the next version of the model, with the bank of `package` and the threshold of `choice`.

    The golden scores are those of the new statistic. A package that came without golden frames or without the limit of
    a patch, as imported ones do, gets them from the frames of `ok`.
    """
    old, point = package.manifest, choice.point
    recipe = old.recipe.model_copy(
        update={"score": old.recipe.score.model_copy(update={"statistic": choice.statistic})}
    )
    if old.golden:
        golden, pictures = _same_golden(package, replace(pipeline, recipe=recipe))
    else:
        golden, pictures = _new_golden(ok, choice.statistic, decode)
    scores = choice.calibration.scores(choice.statistic)
    changes = {
        "created_at": datetime.now(UTC),
        "recipe": recipe,
        "tau": point.tau,
        "patch_tau": old.patch_tau if old.calibration.held_back else choice.calibration.patch_tau,
        "calibration": choice.calibration,
        "metrics": Metrics(
            held_back_frames=point.ok_frames,
            held_back_rejected=point.false_rejects,
            score_median=float(np.median(scores)),
            score_max=max(scores),
        ),
        "golden": tuple(golden),
        "parent": package.id,
    }
    try:
        manifest = ModelManifest.model_validate(dict(old) | changes)
    except ValidationError as exc:
        raise UsageError(f"model {old.name}: {point.tau} cannot be a threshold") from exc
    with registry.draft(old.name) as directory:
        write_package(directory, manifest, package.vectors, pictures, package.backbone)
        return registry.publish(directory, manifest)


def _same_golden(package: ModelPackage, pipeline: Pipeline) -> tuple[list[GoldenFrame], dict[str, BgrImage | bytes]]:
    """Return the golden frames of `package` with the scores that `pipeline` gives where its statistic is another."""
    changed = pipeline.recipe.score.statistic is not package.manifest.recipe.score.statistic
    golden = [
        item.model_copy(update={"score": pipeline.inspect([frame])[0].score}) if changed else item
        for item, frame in package.golden_frames()
    ]
    return golden, {item.file: (package.path / item.file).read_bytes() for item in golden}


def _new_golden(
    ok: JudgedSet, statistic: ScoreStatistic, decode: Decode
) -> tuple[list[GoldenFrame], dict[str, BgrImage | bytes]]:
    """Choose the frames with the lowest, middle and highest score."""
    ordered = sorted(ok.frames, key=lambda frame: frame.scores[statistic])
    golden: list[GoldenFrame] = []
    pictures: dict[str, BgrImage | bytes] = {}
    for number, index in enumerate(sorted({0, len(ordered) // 2, len(ordered) - 1}), 1):
        chosen = ordered[index]
        read = read_frame(chosen.file, decode)
        if read.sha256 != chosen.sha256:
            raise UsageError(f"{chosen.file.path} was changed while calibrating")
        golden.append(GoldenFrame(file=f"golden/{number}.png", name=chosen.file.name, score=chosen.scores[statistic]))
        pictures[golden[-1].file] = read.frame.bgr
    return golden, pictures
