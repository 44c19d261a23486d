"""What the commands share: options, settings, consoles."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from schemas.settings import Settings
from service.errors import UsageError

console = Console(highlight=False)
"""Standard output, for results."""

errors = Console(stderr=True, highlight=False, soft_wrap=True)
"""Standard error, for progress bars and the one line that says what is wrong."""

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file (TOML); without it the defaults hold.", dir_okay=False),
]


def load_settings(path: Path | None) -> Settings:
    """Read settings from `path` and the environment. Raises UsageError, naming file and key."""
    where = "environment" if path is None else str(path)
    try:
        return Settings.load(path)
    except OSError as exc:
        raise UsageError(f"configuration file not readable: {where}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"{where}: not TOML: {' '.join(str(exc).split())}") from exc
    except ValidationError as exc:
        raise UsageError(f"{where}: {describe(exc)}") from exc


def describe(exc: ValidationError) -> str:
    """Return the findings of `exc` in one line, each with the key it is about."""
    findings = []
    for error in exc.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            findings.append(f"unknown key {key}")
        else:
            findings.append(f"{key}: {' '.join(error['msg'].split())}")
    return "; ".join(findings)
