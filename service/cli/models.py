"""`cangate models`: what is in the store, and which version judges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from schemas.base import rfc3339
from service.cli.common import ConfigOption, console, load_settings
from service.device import compute_device
from service.errors import PackageRefused
from service.model.package import read_package
from service.model.registry import ModelRegistry

app = typer.Typer(help="List, look at, verify and activate model packages.", no_args_is_help=True)

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Where models are kept.", show_default="model.store, models"),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="NAME, NAME@VERSION, or the path of a package.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a model in the store.")]


@app.command("list")
def list_models(store: StoreOption = None, config: ConfigOption = None) -> None:
    """List every model and version; the active one of a name is marked.

    Example: cangate models list
    """
    registry = open_registry(store, config)
    table = Table("model", "active", "created", "frames", "tau", "embedder", "id", box=None)
    for name in registry.names():
        active = registry.active(name)
        for version in registry.versions(name):
            reference, mark = f"{name}@{version}", "yes" if version == active else ""
            try:
                package = registry.read(name, version)
            except PackageRefused as exc:
                table.add_row(reference, mark, f"[red]refused: {escape(str(exc))}[/]")
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
    else:
        console.print(f"no models in {registry.store}")


@app.command()
def show(model: ModelArgument, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Print the manifest of a package as JSON: recipe, thresholds, calibration, training frames.

    Example: cangate models show canister@2
    """
    package = read_package(open_registry(store, config).resolve(model))
    console.out(package.manifest.model_dump_json(indent=2))


@app.command()
def verify(model: ModelArgument, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Check every file of a package, and that its golden frames score here what they scored when it was trained.

    Example: cangate models verify canister
    """
    settings = load_settings(config)
    package = read_package(ModelRegistry(store or settings.model.store).resolve(model))
    worst = package.check_golden(package.build_pipeline(compute_device(settings.compute)))
    console.print(
        f"{package.ref.name}@{package.ref.version} is intact, id {package.id}; "
        f"{len(package.manifest.golden)} golden frames reproduce within {worst:.1e}",
        soft_wrap=True,
    )


@app.command()
def activate(
    name: NameArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version to judge with.")],
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a version the active one; refused where its golden frames do not reproduce.

    A running service takes it at its next start, or at once by the command activate_model.

    Example: cangate models activate canister 3
    """
    settings = load_settings(config)
    registry = ModelRegistry(store or settings.model.store)
    registry.activate(name, version, device=compute_device(settings.compute))
    console.print(f"{name}@{version} is active")


@app.command()
def rollback(name: NameArgument, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Go back to the version that was active before.

    Example: cangate models rollback canister
    """
    settings = load_settings(config)
    registry = ModelRegistry(store or settings.model.store)
    version = registry.rollback(name, device=compute_device(settings.compute))
    console.print(f"{name}@{version} is active again")


def open_registry(store: Path | None, config: Path | None) -> ModelRegistry:
    """Return the registry that the options name."""
    return ModelRegistry(store or load_settings(config).model.store)
