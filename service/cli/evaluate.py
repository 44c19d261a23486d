"""`cangate evaluate`: how good models are on frames whose answer is known, or on a folder that nobody has sorted."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from rich.table import Table

from service.cli.common import ConfigOption, StoreOption, console, load_settings, say, stage_bars, tell_report
from service.cli.evaluate_several import compare_models
from service.cli.frame_folders import listed_frames, tell_ignored
from service.cli.from_settings import frame_decoder, registry_of
from service.cli.report_folder import refuse_within, report_folder, writing
from service.errors import UsageError
from service.evaluation.comparison_report import COMPARISON_PAGE
from service.evaluation.metrics import Evaluation, Label
from service.evaluation.report import METRICS, PAGE, RESULTS, write_report
from service.evaluation.trial import Trial, run_trial
from service.evaluation.truth import MaskFolder
from service.model.dataset import FrameSet
from service.model.package import read_package


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="NAME, NAME@VERSION, or the path of a package; several with --compare."),
    ],
    report: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="REPORT", help=f"Folder for {RESULTS}, {METRICS} and {PAGE}.", file_okay=False
        ),
    ],
    ok: Annotated[Path | None, typer.Option(metavar="DIR", help="Frames of good parts.")] = None,
    damaged: Annotated[Path | None, typer.Option(metavar="DIR", help="Frames of damaged parts.")] = None,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Masks of damaged frames: grey PNG, 255 on the damage, the frame's stem."),
    ] = None,
    frames: Annotated[Path | None, typer.Option(metavar="DIR", help="Frames of which nothing is known.")] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help=f"Several models on the same frames: {COMPARISON_PAGE}, and each one's report below it."
        ),
    ] = False,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Judge folders of frames, with their subfolders, and write what the model is worth.

    A frame that cannot be judged gets a row ERROR with its reason, a mask that does not fit is named.
    The others are judged, and the exit status is 1.
    With --compare each model is judged in a process of its own: accuracy beside time and memory.
    Nothing is written before all frames are judged, nor after Ctrl-C.

    Example: cangate evaluate canister --ok test/ok --damaged test/damaged --masks test/masks -o report
    Example: cangate evaluate --compare canister@1 canister@2 --ok test/ok --damaged test/damaged -o report
    """
    settings = load_settings(config)
    given = {Label.OK: ok, Label.DAMAGED: damaged, Label.UNKNOWN: frames}
    refuse_within(report, ok, damaged, masks, frames)
    folders = {label: listed_frames(folder) for label, folder in given.items() if folder is not None}
    if not folders:
        raise UsageError("nothing to judge: give --ok, --damaged or --frames")
    if masks is not None and damaged is None:
        raise UsageError("--masks belongs to --damaged")
    if len(models) > 1 and not compare:
        raise UsageError(f"{len(models)} models: to judge the same frames with each of them give --compare")
    registry = registry_of(settings, store)
    packages = [read_package(registry.resolve(model)) for model in models]
    trial = partial(
        Trial,
        frames={label: found.frames for label, found in folders.items()},
        masks=None if masks is None else _masks_of(folders[Label.DAMAGED], masks),
        decode=frame_decoder(settings),
        compute=settings.compute,
    )
    trials = [trial(package=package.path, recipe=package.manifest.recipe) for package in packages]
    tell_ignored(*folders.values())
    summaries = compare_models(packages, trials, report) if compare else [_evaluate_one(trials[0], report)]
    if any(summary.masks_refused or any(counts.error for counts in summary.sets.values()) for summary in summaries):
        raise typer.Exit(1)


def _masks_of(damaged: FrameSet, directory: Path) -> MaskFolder:
    """Return the masks in `directory`. Raises UsageError where they are those of other frames, or of several."""
    masks = MaskFolder.open(directory, damaged.frames)
    if not len(masks):
        example = f"{PurePosixPath(damaged.frames[0].name).stem}.png"
        raise UsageError(f"no mask in {directory} has the stem of a damaged frame, as {example} would")
    return masks


def _evaluate_one(trial: Trial, report: Path) -> Evaluation:
    with report_folder(report, RESULTS, METRICS, PAGE) as draft:
        with stage_bars() as progress:
            result = run_trial(trial, lambda stage, done, total: progress(f"frames: {stage}", done, total))
        with writing(report):
            write_report(draft, result.evaluation, result.frames, result.galleries)
    _print(result.evaluation, report)
    return result.evaluation


def _print(summary: Evaluation, report: Path) -> None:
    table = Table("label", "frames", "OK", "damaged", "error", box=None)
    for label, counts in summary.sets.items():
        table.add_row(label, *map(str, (counts.frames, counts.ok, counts.damaged, counts.error)))
    console.print(table)
    image, pixel, boxes = summary.image, summary.pixel, summary.boxes
    figures = {
        "AUROC": image.auroc,
        "AUPRC": image.auprc,
        "recall at 1% false rejects": image.recall_at_1pct_false_reject,
        "false rejects at tau": image.false_reject_at_tau,
        "recall at tau": image.recall_at_tau,
        "pixel AUROC": pixel and pixel.auroc,
        "AUPRO": pixel and pixel.aupro,
        "box precision": boxes and boxes.precision,
        "box recall": boxes and boxes.recall,
    }
    known = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
    if known:
        say(known)
    if summary.masks_refused:
        console.print(
            f"[yellow]masks that do not fit their frames: {summary.masks_refused}, see {RESULTS}[/]", soft_wrap=True
        )
    trained_on = sum(counts.trained_on for counts in summary.sets.values())
    if trained_on:
        console.print(f"[yellow]frames of the model's own training set: {trained_on}; the figures flatter[/]")
    copies = sum(counts.copies for counts in summary.sets.values())
    if copies:
        console.print(
            f"[yellow]copies of frames judged before, maybe with another label: {copies}, see copy_of in {RESULTS}[/]",
            soft_wrap=True,
        )
    tell_report(report / PAGE)
