"""`cangate export`: what integrators load into their own tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from schemas.messages import MESSAGES
from service.cli.common import console
from service.cli.reference import render_reference
from service.errors import UsageError

app = typer.Typer(help="Write what integrators load into their own tools.", no_args_is_help=True)


@app.command()
def reference(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.", dir_okay=False)] = Path("reference.md"),
) -> None:
    """Write the reference of topics, messages, tags and settings as Markdown."""
    try:
        out.write_text(render_reference())
    except OSError as exc:
        raise UsageError(f"{out}: {exc.strerror}") from exc
    console.print(str(out))


@app.command()
def json_schema(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.", file_okay=False)] = Path(
        "schemas-json"
    ),
) -> None:
    """Write a JSON Schema (2020-12) for each message, generated from the models the service itself uses."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for message in MESSAGES:
            identifier = message.model_fields["schema_"].default
            path = out / f"{identifier.split('/')[1]}.schema.json"
            schema = {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "$id": f"urn:{identifier.replace('/', ':')}",
                **message.model_json_schema(mode="serialization" if message.__name__ != "ImageReady" else "validation"),
            }
            path.write_text(json.dumps(schema, indent=2) + "\n")
            console.print(str(path))
    except OSError as exc:
        raise UsageError(f"{out}: {exc.strerror}") from exc
