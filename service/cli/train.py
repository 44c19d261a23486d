"""`cangate train`: OK frames in, the next version of a model out."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from schemas.recipe import Recipe, RoiMethod
from service.cli.common import (
    EMBEDDERS,
    ConfigOption,
    StoreOption,
    console,
    load_settings,
    same_store,
    say,
    stage_bars,
    tell_active,
    with_embedder,
)
from service.cli.frame_folders import listed_frames, tell_ignored
from service.cli.from_settings import device_of, frame_decoder, registry_of
from service.model.calibration import LimitMethod
from service.model.dataset import FrameSet
from service.model.manifest import ModelManifest
from service.model.package import read_package
from service.model.registry import check_model_name
from service.model.training import TrainingOptions
from service.model.training import train as train_model

UNUSUAL = 3
"""How many of the least usual OK frames are named, for somebody to look at."""


def train(
    ok_dir: Annotated[
        Path, typer.Argument(metavar="OK_DIR", help="Folder with frames of good parts, searched with its subfolders.")
    ],
    *,
    name: Annotated[str, typer.Option(help="Name of the model; an existing name gets its next version.")],
    store: StoreOption = None,
    roi: Annotated[
        RoiMethod | None, typer.Option(help="How the canister is cut out.", show_default="of the recipe, grabcut")
    ] = None,
    embedder: Annotated[str | None, typer.Option(help=f"{EMBEDDERS}.", show_default="of the recipe, starter")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint of a timm backbone, or of the starter's network.",
            dir_okay=False,
            show_default="the hub, or what ships with the starter",
        ),
    ] = None,
    pack_weights: Annotated[
        bool, typer.Option("--pack-weights", help="Carry the backbone's weights in the package.")
    ] = False,
    false_reject: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Share of good parts that tau may reject.")
    ] = 0.01,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Damaged frames may be among them: do not believe the least usual ones.")
    ] = False,
    activate: Annotated[
        bool, typer.Option("--activate", help="Activate the new version; where none is active it always is.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Learn what good parts look like, and set the threshold tau from frames held back.

    Every frame must be readable and show a canister; those that do not are named.
    Then, and after Ctrl-C, nothing is written.
    The recipe is that of the configuration; --roi and --embedder come before it.

    Example: cangate train frames/ok --name canister --false-reject 0.005
    """
    settings = load_settings(config)
    recipe = with_embedder(_with_roi(settings.recipe, roi), embedder, weights, pack_weights=pack_weights)
    registry = registry_of(settings, store)
    check_model_name(name)
    found = listed_frames(ok_dir)
    device = device_of(settings)
    with registry.draft(name) as directory:  # before the training: a store that cannot be written is told now
        with stage_bars() as progress:
            trained = train_model(
                name,
                found.frames,
                recipe,
                TrainingOptions(false_reject=false_reject, mixed=mixed, workers=settings.compute.prepare_workers),
                decode=frame_decoder(settings),
                device=device,
                progress=progress,
            )
        trained.write(directory)
        path = registry.publish(directory, trained.manifest)
    package = read_package(path)
    try:  # before anything is printed: that may fail
        (registry.activate if activate else registry.activate_first)(name, path.name, device=device)
    finally:
        _report(package.manifest, found)
        say(f"model {name}@{path.name} in {path}, id {package.id}")
    tell_active(registry, path, same_store(store, config))


def _with_roi(recipe: Recipe, roi: RoiMethod | None) -> Recipe:
    if roi is None:
        return recipe
    return recipe.model_copy(update={"roi": recipe.roi.model_copy(update={"method": roi})})


def _tell_unpacked(recipe: Recipe) -> None:
    """Name the files that the package needs besides itself."""
    weights = recipe.embed.weights if not recipe.embed.pack_weights else ""
    checkpoint = recipe.roi.sam_checkpoint if recipe.roi.method is RoiMethod.SAM else ""
    for file in filter(None, (weights, checkpoint)):
        say(f"{file} is not in the package, and must stay there")


def _report(manifest: ModelManifest, found: FrameSet) -> None:
    training, calibration = manifest.training, manifest.calibration
    tell_ignored(found)
    for duplicate in training.duplicates:
        say(f"left out: {duplicate.name} shows the very pixels of {duplicate.same_as}")
    console.print(
        f"{len(training.frames)} frames, {training.patches} patches, {training.patches_held} of them in memory, "
        f"{training.bank_size} in the bank"
    )
    statistic = manifest.recipe.score.statistic
    table = Table("statistic", "median", "largest", f"limit at {calibration.false_reject:g}", box=None)
    for name, limit in calibration.limits.items():
        scores = calibration.scores(name)
        mark = "  = tau" if name == statistic else ""
        table.add_row(name.value, f"{statistics.median(scores):.4f}", f"{max(scores):.4f}", f"{limit:.4f}{mark}")
    console.print(table)
    least_usual = sorted(calibration.held_back, key=lambda frame: -frame.scores[statistic])[:UNUSUAL]
    named = ", ".join(f"{frame.name} {frame.scores[statistic]:.4f}" for frame in least_usual)
    say(f"least usual when held back: {named}")
    _tell_unpacked(manifest.recipe)
    if calibration.method is LimitMethod.CENSORED:
        doubtful = math.ceil(manifest.doubtful * len(calibration.held_back))
        console.print(
            f"the {doubtful} least usual frames are not believed: tau comes from the others, and errs towards passing; "
            "sort the frames, or calibrate on clean ones",
            soft_wrap=True,
        )
    if calibration.method is LimitMethod.EXTRAPOLATED:
        console.print(
            f"[yellow]tau is extrapolated: a false-reject rate of {calibration.false_reject:g} takes "
            f"{calibration.frames_needed} frames, there are {len(calibration.held_back)}[/]",
            soft_wrap=True,
        )
