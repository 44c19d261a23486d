"""`cangate models`: what is in the store, and which version judges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from schemas.base import rfc3339
from schemas.recipe import ScoreStatistic
from service.cli.acceptance import refuse_unless_accepted, refuse_unused_labels
from service.cli.common import (
    EMBEDDERS,
    ConfigOption,
    ModelArgument,
    StoreOption,
    console,
    load_settings,
    same_store,
    say,
    with_embedder,
)
from service.cli.extend import extend
from service.cli.from_settings import device_of, registry_of
from service.cli.tables import result_table
from service.errors import PackageRefused, UsageError
from service.model.archive import export_package, import_package
from service.model.package import read_package, write_package
from service.model.pickles import imported_manifest, read_pickled_bank
from service.model.registry import check_model_name
from service.replay.acceptance import Expectation

UNIT_TOLERANCE = 0.01
"""How far from 1 the length of a vector may be that was rounded to half precision."""

app = typer.Typer(
    help="List, look at, verify, activate, extend, export and import model packages.",
    no_args_is_help=True,
    add_completion=False,
)
app.command()(extend)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a model in the store.")]


@app.command("list")
def list_models(store: StoreOption = None, config: ConfigOption = None) -> None:
    """List every model and version; the active one of a name is marked, and why one is refused stands below.

    Example: cangate models list
    """
    registry = registry_of(load_settings(config), store)
    if registry.store.exists() and not registry.store.is_dir():
        raise UsageError(f"{registry.store} is no folder of models")
    table = result_table("model", "active", "created", "frames", "tau", "embedder", "id")
    refused: list[str] = []

    def refuse(reference: str, mark: str, exc: PackageRefused) -> None:
        table.add_row(reference, mark, "[red]refused[/]")
        refused.append(f"{reference} is refused: {exc}")

    for name in registry.names():
        try:
            active = registry.active(name)
        except PackageRefused as exc:
            active = None
            refuse(name, "", exc)
        for version in registry.versions(name):
            reference, mark = f"{name}@{version}", "yes" if version == active else ""
            try:
                package = registry.read(name, version)
            except PackageRefused as exc:
                refuse(reference, mark, exc)
                continue
            manifest = package.manifest
            table.add_row(
                reference,
                mark,
                rfc3339(manifest.created_at)[:19],
                str(len(manifest.training.frames)),
                f"{manifest.tau:.4f}",
                manifest.embedder.name,
                package.id[:12],
            )
    if table.row_count:
        console.print(table)
        for line in refused:
            say(line)
    else:
        say(f"no models in {registry.store}")


@app.command()
def show(model: ModelArgument, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Print the manifest of a package as JSON: recipe, thresholds, calibration, training frames.

    Example: cangate models show canister@2
    """
    package = read_package(registry_of(load_settings(config), store).resolve(model))
    console.out(package.manifest.model_dump_json(indent=2))


@app.command()
def verify(model: ModelArgument, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Check every file of a package, and that its golden frames score here what they scored when it was trained.

    Example: cangate models verify canister
    """
    settings = load_settings(config)
    package = read_package(registry_of(settings, store).resolve(model))
    worst = package.check_golden(package.build_pipeline(device_of(settings)))
    say(
        f"{package.ref.reference} is intact, id {package.id}; "
        f"{len(package.manifest.golden)} golden frames reproduce within {worst:.1e}"
    )


@app.command()
def activate(
    name: NameArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version to judge with.")],
    require_replay: Annotated[
        Path | None,
        typer.Option(metavar="SESSION", help="Only if a replay of this session is accepted, see cangate replay."),
    ] = None,
    expect: Annotated[
        Expectation | None, typer.Option(help="What that replay is held against.", show_default="recorded")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="What its parts really were, for --expect labels.")
    ] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a version the active one; refused where its golden frames do not reproduce.

    A running service takes it at its next start, or at once by the command activate_model.

    Example: cangate models activate canister 3 --require-replay data/recordings/reference
    """
    if require_replay is None and not (expect is None and labels is None):
        raise UsageError("--expect and --labels belong to --require-replay")
    refuse_unused_labels(expect, labels)
    settings = load_settings(config)
    registry = registry_of(settings, store)
    if require_replay is not None:
        expect = expect or Expectation.RECORDED
        refuse_unless_accepted(settings, require_replay, store, f"{name}@{version}", expect, labels)
    registry.activate(name, version, device=device_of(settings))
    console.print(f"{name}@{version} is active")


@app.command()
def rollback(name: NameArgument, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Go back to the version that was active before.

    Example: cangate models rollback canister
    """
    settings = load_settings(config)
    registry = registry_of(settings, store)
    version = registry.rollback(name, device=device_of(settings))
    console.print(f"{name}@{version} is active again")


@app.command("import-pickle")
def import_pickle(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study's patchcore_memory.pkl.")],
    name: Annotated[str, typer.Option(help="Name of the model; an existing name gets its next version.")],
    tau: Annotated[float | None, typer.Option(help="Threshold.", show_default="of the pickle")] = None,
    statistic: Annotated[
        ScoreStatistic, typer.Option(help="The score that tau belongs to; the study's was p95.")
    ] = ScoreStatistic.P95,
    embedder: Annotated[
        str | None,
        typer.Option(help=f"What made the vectors: {EMBEDDERS}.", show_default="of the recipe, starter"),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint of a timm backbone.", dir_okay=False)] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a package from a memory bank of the canister study.

    Plain types and arrays of numbers are read; a pickle that asks for anything else is refused.
    No frame stands behind such a model; cangate calibrate --ok gives it a threshold and golden frames.

    Example: cangate models import-pickle patchcore_memory.pkl --name study --embedder timm:resnet18
    """
    # as in `device_of`
    from service.model.training import frozen_recipe  # noqa: PLC0415
    from service.pipeline.embed import build_embedder  # noqa: PLC0415

    settings = load_settings(config)
    recipe = frozen_recipe(with_embedder(settings.recipe, embedder, weights))
    recipe = recipe.model_copy(update={"score": recipe.score.model_copy(update={"statistic": statistic})})
    registry = registry_of(settings, store)
    check_model_name(name)
    _refuse_special(file)
    bank = read_pickled_bank(file)
    device = device_of(settings)
    manifest = imported_manifest(name, bank, tau, recipe, build_embedder(recipe.embed, device))
    with registry.draft(name) as directory:
        write_package(directory, manifest, bank.vectors, {})
        path = registry.publish(directory, manifest)
    package = read_package(path)
    is_first = registry.activate_first(name, path.name, device=device)
    say(f"model {name}@{path.name} in {path}, id {package.id}")
    longest = float(np.linalg.norm(bank.vectors, axis=1).max())
    if abs(longest - 1) > UNIT_TOLERANCE:
        console.print(
            f"[yellow]its longest vector measures {longest:.3g}, those of {manifest.embedder.name} 1: "
            "it was made by another embedder[/]",
            soft_wrap=True,
        )
    if is_first:
        console.print(f"{name}@{path.name} is active, though unproven: it has no golden frames")
    say(f"next: cangate calibrate {name}@{path.name} --ok FOLDER{same_store(store, config)}")


@app.command("export")
def export_model(
    model: ModelArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="Where to write it.", dir_okay=False)],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Also where a file is there already.")] = False,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a package as one file, to carry it to another store.

    Example: cangate models export canister@2 canister-2.zip
    """
    package = read_package(registry_of(load_settings(config), store).resolve(model))
    export_package(package, file, replace=replace)
    say(f"{package.ref.reference}, id {package.id}, is in {file}")


@app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="What cangate models export wrote.")],
    name: Annotated[str | None, typer.Option(help="Name of the model.", show_default="as exported")] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Verify an exported package and add it to the store as the next version of its name.

    Example: cangate models import canister-2.zip
    """
    registry = registry_of(load_settings(config), store)
    _refuse_special(file)
    package = read_package(import_package(file, registry, name))
    say(f"model {package.ref.reference} in {package.path}, id {package.id}")
    say(
        f"to judge with it: cangate models activate {package.ref.name} {package.ref.version}{same_store(store, config)}"
    )


def _refuse_special(file: Path) -> None:
    """Raise PackageRefused for a pipe or a device: those may never come to an end."""
    if file.exists() and not file.is_file():
        raise PackageRefused(f"{file}: no regular file")
