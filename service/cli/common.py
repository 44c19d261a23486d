"""What the commands share: options, settings, consoles."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from schemas.messages import StationId
from schemas.recipe import PRESETS, EmbedRecipe, Recipe
from schemas.settings import ENVIRONMENT_PREFIX, Settings
from service.errors import UsageError, one_line
from service.text import without_controls

if TYPE_CHECKING:  # numpy behind it takes a while that `--help` need not spend
    from service.model.registry import ModelRegistry
    from service.pipeline.types import StageProgress

_NAMED = 5
"""So many of many are named, and the others counted."""

console = Console(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 1000)
"""Standard output, for results; what is no terminal has no width that names and paths would have to fit."""

error_console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Standard error, for progress bars and the one line that says what is wrong."""

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file (TOML); without it the defaults hold.", dir_okay=False),
]

ConfigsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        "-c",
        help="Configuration file (TOML); without it the defaults hold. Once for each station of this process.",
        dir_okay=False,
    ),
]

LabelsOption = Annotated[
    Path | None, typer.Option(metavar="CSV", help="What parts really were: label, and event_id, filename or part_id.")
]

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Where models are kept.", show_default="model.store, models"),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="NAME, NAME@VERSION, or the path of a package.")]


def load_settings(path: Path | None) -> Settings:
    """Read settings from `path` and the environment. Raises UsageError, naming file and key."""
    where = "environment" if path is None else str(path)
    try:
        return Settings.load(path)
    except OSError as exc:
        raise UsageError(f"configuration file not readable: {where}: {one_line(exc)}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"{where}: not TOML: {' '.join(str(exc).split())}") from exc
    except ValidationError as exc:
        raise UsageError(f"{where}: {describe(exc, _with_variable)}") from exc
    except SettingsError as exc:
        raise UsageError(f"environment: {_no_json(exc)}") from exc


def load_stations(paths: list[Path] | None) -> list[Settings]:
    """Read the settings of every station of a process. Raises UsageError, naming file and key."""
    return [load_settings(path) for path in paths] if paths else [load_settings(None)]


def checked_station(text: str) -> str:
    """Return the id of a station that `--station` names. Raises UsageError."""
    try:
        return TypeAdapter(StationId).validate_python(text)
    except ValidationError as exc:
        raise UsageError(f"--station {text!r} must match [a-z0-9_-]{{1,64}}") from exc


def _no_json(error: SettingsError) -> str:
    """Return which variable should hold JSON; pydantic-settings names only its section, and the text that it is not."""
    cause = error.__cause__
    if not isinstance(cause, json.JSONDecodeError):
        return " ".join(str(error).split())
    names = [
        name
        for name, text in sorted(os.environ.items())
        if text == cause.doc and f'"{name.lower().removeprefix("cangate_").partition("__")[0]}"' in str(error)
    ]
    return f'{" or ".join(names)} must be JSON: a list is written ["a", "b"], a section {{"key": "value"}}'


def _with_variable(key: str) -> str:
    """Return the key, and which variable of the environment has set it: no file is to blame for that."""
    variable = ENVIRONMENT_PREFIX + key.replace(".", "__").upper()
    setting = [name for name in sorted(os.environ) if name.upper() == variable or name.startswith(f"{variable}__")]
    return f"{key} (from {setting[0]})" if setting else key


def describe(exc: ValidationError, named: Callable[[str], str] = str) -> str:
    """Return the findings of `exc` in one line, each with the key it is about, as `named` calls it."""
    findings = []
    for error in exc.errors(include_url=False, include_input=False):
        key = named(".".join(str(part) for part in error["loc"]))
        if error["type"] == "extra_forbidden":
            findings.append(f"unknown key {key}")
        else:
            said = " ".join(error["msg"].split()).removeprefix("Value error, ")
            findings.append(f"{key}: {said}" if key else said)
    return "; ".join(findings)


EMBEDDERS = f"starter, filters, timm:BACKBONE, {' or '.join(PRESETS)}"
"""What --embedder takes."""


def with_embedder(
    recipe: Recipe, embedder: str | None, weights: Path | None = None, *, pack_weights: bool = False
) -> Recipe:
    """Return `recipe` with what the options of a command say of its embedder. Raises UsageError."""
    given = {
        "embedder": embedder,
        "weights": None if weights is None else str(weights),
        "pack_weights": pack_weights or None,
    }
    try:
        embed = EmbedRecipe.model_validate(
            dict(recipe.embed) | {key: value for key, value in given.items() if value is not None}
        )
    except ValidationError as exc:
        raise UsageError(f"--embedder {embedder or recipe.embed.embedder}: {describe(exc)}") from exc
    return recipe.model_copy(update={"embed": embed})


def parsed_size(text: str, sides_px: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of `--size`. sides_px: the shortest and the longest side. Raises UsageError."""
    shortest, longest = sides_px
    width, times, height = text.partition("x")
    whole = times and all(side.isascii() and side.isdecimal() and len(side) <= 5 for side in (width, height))
    if not (whole and all(shortest <= int(side) <= longest for side in (width, height))):
        raise UsageError(f"--size {text!r} is no WIDTHxHEIGHT of {shortest} to {longest} pixels each")
    return int(width), int(height)


def say(text: str) -> None:
    """Print one line: names and paths are neither wrapped nor read as markup nor obeyed by the terminal."""
    console.print(without_controls(text), markup=False, soft_wrap=True)


def some(names: Sequence[str]) -> str:
    """Return the first few of `names`, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def tell_report(path: Path) -> None:
    """Say where a report is."""
    say(f"report in {path}")


def tell_troubles(troubles: Iterable[str]) -> None:
    """Print what of a session cannot be read."""
    for trouble in troubles:
        console.print(without_controls(trouble), style="yellow", markup=False, soft_wrap=True)


def same_store(store: Path | None, config: Path | None) -> str:
    """Return the options that lead a command to the store that this one used, to end its line."""
    option, file = ("--store", store) if store is not None else ("-c", config)
    return "" if file is None else f" {option} {shlex.quote(str(file))}"


def tell_active(registry: ModelRegistry, path: Path, again: str) -> None:
    """Say whether the new version in `path` is active, and what makes it so. again: see `same_store`."""
    name, version = path.parts[-2:]
    active = registry.active(name)
    if active == version:
        console.print(f"{name}@{version} is active: its golden frames reproduce")
        return
    still = "no version is active" if active is None else f"active is still {name}@{active}"
    say(f"{still}; to change that: cangate models activate {name} {version}{again}")


@contextmanager
def stage_bars() -> Iterator[StageProgress]:
    """Lend one progress bar a stage, on a terminal only: elsewhere standard error is for what went wrong."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=error_console, transient=True, disable=not error_console.is_terminal) as bars:

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance
