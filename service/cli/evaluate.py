"""`cangate evaluate`: how good a model is on frames whose answer is known, or on a folder that nobody has sorted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from adapters.frames import decode_image
from service.cli.common import ConfigOption, ModelArgument, StoreOption, console, load_settings, stage_bars
from service.device import compute_device
from service.errors import UsageError
from service.evaluation.evaluator import Evaluator
from service.evaluation.metrics import Evaluation, Label
from service.evaluation.report import METRICS, PAGE, RESULTS, write_report
from service.evaluation.truth import MaskFolder
from service.model.dataset import FrameSet, list_frames
from service.model.package import read_package
from service.model.registry import ModelRegistry


def evaluate(
    model: ModelArgument,
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
        typer.Option(metavar="DIR", help="Masks of damaged frames: PNG, 255 on the damage, the frame's stem."),
    ] = None,
    frames: Annotated[Path | None, typer.Option(metavar="DIR", help="Frames of which nothing is known.")] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Judge folders of frames, with their subfolders, and write what the model is worth.

    A frame that cannot be judged gets a row ERROR with its reason, a mask that does not fit is named.
    The others are judged, and the exit status is 1.

    Example: cangate evaluate canister --ok test/ok --damaged test/damaged --masks test/masks -o report
    """
    settings = load_settings(config)
    given = {Label.OK: ok, Label.DAMAGED: damaged, Label.UNKNOWN: frames}
    folders = {label: _listed(folder) for label, folder in given.items() if folder is not None}
    if not folders:
        raise UsageError("nothing to judge: give --ok, --damaged or --frames")
    if masks is not None and damaged is None:
        raise UsageError("--masks belongs to --damaged")
    mask_folder = MaskFolder.open(masks) if masks is not None else None
    package = read_package(ModelRegistry(store or settings.model.store).resolve(model))
    pipeline = package.build_pipeline(compute_device(settings.compute))
    decode = partial(decode_image, max_pixels=settings.images.max_pixels)
    evaluator = Evaluator(package, pipeline, decode=decode, masks=mask_folder)
    with _writing():
        report.mkdir(parents=True, exist_ok=True)
        for name in (RESULTS, METRICS, PAGE):
            (report / name).touch()
    with stage_bars() as progress:
        for label, found in folders.items():
            evaluator.judge_all(found.frames, label, partial(progress, f"frames: {label}"))
    summary = evaluator.summary()
    with _writing():
        write_report(report, summary, evaluator.frames, evaluator.galleries)
    _print(summary, folders, report)
    if mask_folder is not None and not any(frame.mask for frame in evaluator.frames):
        console.print(f"[yellow]no mask in {masks} has the stem of a judged damaged frame[/]", soft_wrap=True)
    if summary.masks_refused or any(counts.error for counts in summary.sets.values()):
        raise typer.Exit(1)


def _listed(folder: Path) -> FrameSet:
    found = list_frames(folder)
    if not found.frames:
        raise UsageError(f"no pictures in {folder}")
    return found


@contextmanager
def _writing() -> Iterator[None]:
    """Map what goes wrong while the report is written to one line."""
    try:
        yield
    except OSError as exc:
        raise UsageError(f"cannot write {exc.filename}: {exc.strerror}") from exc


def _print(summary: Evaluation, folders: dict[Label, FrameSet], report: Path) -> None:
    for found in folders.values():
        if found.ignored:
            console.print(
                f"passed over, no pictures by their name: {', '.join(found.ignored)}", soft_wrap=True, markup=False
            )
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
        console.print(known, soft_wrap=True)
    if summary.masks_refused:
        console.print(
            f"[yellow]masks that do not fit their frames: {summary.masks_refused}, see {RESULTS}[/]", soft_wrap=True
        )
    trained_on = sum(counts.trained_on for counts in summary.sets.values())
    if trained_on:
        console.print(f"[yellow]frames of the model's own training set: {trained_on}; the figures flatter[/]")
    console.print(f"report in {report / PAGE}", soft_wrap=True, markup=False)
