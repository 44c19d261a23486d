"""`cangate models extend`: more OK frames for a model, its effect shown before it is accepted."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from service.cli.common import (
    ConfigOption,
    ModelArgument,
    StoreOption,
    console,
    error_console,
    load_settings,
    same_store,
    say,
    stage_bars,
    tell_active,
)
from service.cli.frame_folders import listed_frames, tell_ignored
from service.cli.from_settings import device_of, frame_decoder, registry_of
from service.errors import CangateError, UsageError
from service.model.package import read_package

if TYPE_CHECKING:
    from service.model.extension import Effect, Extension


def extend(
    model: ModelArgument,
    ok_dir: Annotated[
        Path, typer.Argument(metavar="OK_DIR", help="Folder with more frames of good parts, with its subfolders.")
    ],
    *,
    damaged: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Damaged frames: show how many are still rejected.")
    ] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Write the new version without asking.")] = False,
    activate: Annotated[bool, typer.Option("--activate", help="Activate the new version once it is accepted.")] = False,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Add OK frames to a model, and show what that changes before it is accepted as the next version.

    Another light, another supplier's sheet: what good parts look like now and did not before.
    On a terminal you are asked; elsewhere nothing is written without --accept, and the exit status is 2.

    Example: cangate models extend canister frames/ok-new --damaged frames/damaged
    """
    # as in `device_of`
    from service.model.extension import extend as extend_model  # noqa: PLC0415

    settings = load_settings(config)
    registry = registry_of(settings, store)
    package = read_package(registry.resolve(model))
    device = device_of(settings)
    pipeline = package.build_pipeline(device)
    package.check_golden(pipeline)  # scores recorded where others come out could not be mixed with new ones
    found = [listed_frames(folder) for folder in (ok_dir, damaged) if folder is not None]
    with stage_bars() as progress:
        extension = extend_model(
            package,
            pipeline,
            found[0].frames,
            found[1].frames if damaged is not None else (),
            decode=frame_decoder(settings),
            workers=settings.compute.prepare_workers,
            progress=progress,
        )
    if not accept:
        tell_ignored(*found)
        _report(extension)
        # what follows in a script, an activation, is for a version that is there
        if not (console.is_terminal and error_console.is_terminal):
            raise UsageError("nothing was written: give --accept to write the new version")
        if not typer.confirm("accept it as a new version?"):
            raise CangateError("nothing was written: the new version was not accepted")
    path = extension.publish(registry)
    reference = f"{package.ref.name}@{path.name}"
    try:  # before anything is printed: that may fail
        if activate:
            registry.activate(package.ref.name, path.name, device=device)
    finally:
        if accept:
            tell_ignored(*found)
            _report(extension)
        say(f"model {reference} in {path}, id {read_package(path).id}")
    tell_active(registry, path, same_store(store, config))


def _report(extension: Extension) -> None:
    old, new = extension.package.manifest, extension.manifest
    for duplicate in extension.duplicates:
        say(f"left out: {duplicate.name} is {duplicate.same_as}")
    table = Table("", "now", "then", box=None)
    table.add_row("OK frames", str(len(old.training.frames)), str(len(new.training.frames)))
    table.add_row("bank", str(old.training.bank_size), str(new.training.bank_size))
    table.add_row("tau", f"{old.tau:.4f}", f"{new.tau:.4f}")
    _add_effect(table, "new OK frames", extension.added)
    if extension.damaged is not None:
        _add_effect(table, "damaged frames", extension.damaged)
    console.print(table)
    console.print("the new OK frames then: held back, each scored without its neighbours", style="dim", soft_wrap=True)
    if old.calibration.sweep is not None:
        console.print(
            "[yellow]tau was set for a recall or precision; then it is the limit of the OK frames: calibrate again[/]",
            soft_wrap=True,
        )


def _add_effect(table: Table, what: str, effect: Effect) -> None:
    count = len(effect.before)
    table.add_row(f"{what} rejected", f"{effect.rejected_before} of {count}", f"{effect.rejected_after} of {count}")
    for name, take in (("median score", statistics.median), ("highest score", max)):
        table.add_row(f"  {name}", f"{take(effect.before):.4f}", f"{take(effect.after):.4f}")
