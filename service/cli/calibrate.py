"""`cangate calibrate`: another threshold for a model, as its next version."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Annotated

import cv2
import typer
from rich.table import Table

from schemas.recipe import ScoreStatistic
from service.cli.common import (
    ConfigOption,
    ModelArgument,
    StoreOption,
    console,
    load_settings,
    same_store,
    say,
    stage_bars,
    tell_active,
)
from service.cli.frame_folders import listed_frames, tell_ignored
from service.cli.from_settings import device_of, frame_decoder, registry_of
from service.cli.report_folder import refuse_within
from service.errors import UsageError
from service.evaluation.threshold_picture import threshold_picture
from service.files import made_folder, naming, whole_file
from service.model.calibration import LimitMethod
from service.model.package import ModelPackage, read_package
from service.model.recalibration import Choice, JudgedSet, as_held_back, choose, judge_frames, publish_choice
from service.model.sweep import CONFIDENCE, Measure, Target, frames_to_claim

PICTURE = "calibration.png"
FALSE_REJECT = 0.01


def calibrate(
    model: ModelArgument,
    *,
    ok: Annotated[
        Path | None,
        typer.Option(
            help="Folder with OK frames that the model was not trained on.",
            show_default="the frames held back in training",
        ),
    ] = None,
    damaged: Annotated[Path | None, typer.Option(help="Folder with damaged frames.")] = None,
    false_reject: Annotated[
        float | None,
        typer.Option(
            min=1e-6, max=0.5, help="Share of good parts that tau may reject.", show_default=f"{FALSE_REJECT:g}"
        ),
    ] = None,
    target_recall: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the damaged frames that tau must reject.")
    ] = None,
    target_precision: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of damaged frames among all that tau rejects.")
    ] = None,
    statistic: Annotated[
        ScoreStatistic | None,
        typer.Option(help="How patch distances become the score.", show_default="of the model"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=f"Folder for the picture {PICTURE}.", file_okay=False)
    ] = None,
    activate: Annotated[bool, typer.Option("--activate", help="Activate the new version.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would come out.")] = False,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Set the threshold tau of a model; the result is its next version.

    From OK frames alone: the limit that new ones reach with the wanted rate.
    From OK and damaged frames: by --target-recall or --target-precision.

    Example: cangate calibrate canister --ok frames/ok2 --damaged frames/damaged --target-recall 0.95 -o report
    """
    target = _target(target_recall, target_precision, false_reject)
    if target and damaged is None:
        raise UsageError(f"--target-{target.measure} needs --damaged")
    refuse_within(out, ok, damaged)
    settings = load_settings(config)
    registry = registry_of(settings, store)
    package = read_package(registry.resolve(model))
    calibration = package.manifest.calibration
    if ok is None and not calibration.held_back:
        raise UsageError(f"{package.ref.reference} holds no scores of OK frames: give --ok")
    device = device_of(settings)
    pipeline = package.build_pipeline(device)
    package.check_golden(pipeline)  # a threshold taken where the scores are others would be worth nothing
    decode = frame_decoder(settings)
    ok_frames, damaged_frames = (None if folder is None else listed_frames(folder) for folder in (ok, damaged))
    good, bad = JudgedSet(), JudgedSet()
    with stage_bars() as progress:
        if ok_frames is not None:
            good = judge_frames(ok_frames.frames, package, pipeline, decode, partial(progress, "OK frames"))
        if damaged_frames is not None:
            told = partial(progress, "damaged frames")
            other = good if good.frames else None
            bad = judge_frames(damaged_frames.frames, package, pipeline, decode, told, other=other)
    choice = choose(
        calibration.held_back if ok is None else as_held_back(good),
        bad,
        statistic or package.manifest.recipe.score.statistic,
        false_reject=FALSE_REJECT if false_reject is None else false_reject,
        target=target,
        folds=calibration.folds if ok is None else 0,
        doubtful=package.manifest.doubtful if ok is None else 0.0,
    )
    if out is not None:
        _draw(out / PICTURE, package, choice, bad)
    name = package.ref.name
    path = None if dry_run else publish_choice(registry, package, pipeline, choice, good, decode)
    try:  # before anything is printed: that may fail
        if path is not None and activate:
            registry.activate(name, path.name, device=device)
    finally:
        tell_ignored(*(found for found in (ok_frames, damaged_frames) if found is not None))
        _report(package, choice, (*good.copies, *bad.copies))
        if out is not None:
            say(f"curves in {out / PICTURE}")
        if path is not None:
            say(f"model {name}@{path.name} in {path}, id {read_package(path).id}")
    if path is None:
        console.print("dry run: no version was written")
    else:
        tell_active(registry, path, same_store(store, config))


def _target(recall: float | None, precision: float | None, false_reject: float | None) -> Target | None:
    options = {"--target-recall": recall, "--target-precision": precision, "--false-reject": false_reject}
    given = [option for option, value in options.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other")
    if recall is not None:
        return Target(measure=Measure.RECALL, wanted=recall)
    if precision is not None:
        return Target(measure=Measure.PRECISION, wanted=precision)
    return None


def _report(package: ModelPackage, choice: Choice, copies: tuple[str, ...]) -> None:
    for copy in copies:
        say(f"left out: {copy} once more")
    point, calibration = choice.point, choice.calibration
    manifest = package.manifest
    known = "none of them in the bank" if calibration.folds == 0 else f"held back in {calibration.folds} folds"
    damaged = f", {point.damaged_frames} damaged ones" if point.damaged_frames else ""
    console.print(f"{point.ok_frames} OK frames, {known}{damaged}")
    interval_name = f"{CONFIDENCE:.0%} interval"
    table = Table("  score", "median", "largest", "tau", "rejects", interval_name, box=None, pad_edge=False)
    if point.damaged_frames:
        table.add_column("recall")
        table.add_column("precision")
    for statistic, each in choice.points.items():
        scores = calibration.scores(statistic)
        mark = ">" if statistic is choice.statistic else " "
        row = [f"{mark} {statistic}", f"{statistics.median(scores):.4f}", f"{max(scores):.4f}"]
        if each is None:
            table.add_row(*row, "none")
            continue
        interval = choice.interval(each)
        row += [f"{each.tau:.4f}", f"{each.false_rejects}/{each.ok_frames}", f"{interval.low:.2%}-{interval.high:.2%}"]
        if each.recall is not None:
            row += [f"{each.recall:.3f}", "-" if each.precision is None else f"{each.precision:.3f}"]
        table.add_row(*row)
    console.print(table)
    console.print(
        f"tau {manifest.tau:.4f} ({manifest.recipe.score.statistic}) becomes {point.tau:.4f} ({choice.statistic})"
    )
    _report_certainty(choice)


def _report_certainty(choice: Choice) -> None:
    """Say what the frames prove about the false-reject rate, and what they do not."""
    point, calibration = choice.point, choice.calibration
    interval, rate = choice.interval(point), calibration.false_reject
    console.print(
        f"false-reject rate between {interval.low:.2%} and {interval.high:.2%} "
        f"with {CONFIDENCE:.0%} confidence ({interval.method})",
        soft_wrap=True,
    )
    if calibration.sweep is not None or rate is None:
        return
    if calibration.method is LimitMethod.EXTRAPOLATED:
        console.print(
            f"[yellow]tau is extrapolated: a false-reject rate of {rate:g} takes {calibration.frames_needed} frames, "
            f"there are {point.ok_frames}[/]",
            soft_wrap=True,
        )
    if point.ok_frames < frames_to_claim(rate):
        console.print(
            f"[yellow]too few frames to claim a false-reject rate of {rate:g}: that takes {frames_to_claim(rate)} "
            f"and none of them rejected, there are {point.ok_frames}[/]",
            soft_wrap=True,
        )


def _draw(file: Path, package: ModelPackage, choice: Choice, damaged: JudgedSet) -> None:
    title = f"{package.ref.reference}, score {choice.statistic}"
    scores = choice.calibration.scores(choice.statistic), damaged.scores(choice.statistic)
    picture = cv2.imencode(".png", threshold_picture(title, *scores, choice.point))[1].tobytes()
    with made_folder(file.parent), whole_file(file) as draft, naming(file):
        draft.write_bytes(picture)
