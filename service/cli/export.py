"""`cangate export`: what integrators load into their own tools."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from schemas.messages import MESSAGES
from schemas.tags import NAMESPACE_URI, Access, Tag
from service.cli.asyncapi import render_asyncapi
from service.cli.common import ConfigOption, load_settings, say
from service.cli.reference import render_reference
from service.errors import UsageError
from service.files import made_folder, naming, whole_file

app = typer.Typer(help="Write what integrators load into their own tools.", no_args_is_help=True, add_completion=False)


OutOption = Annotated[Path, typer.Option("--out", "-o", help="File to write.", dir_okay=False)]


@app.command()
def reference(out: OutOption = Path("reference.md")) -> None:
    """Write the reference of topics, messages, tags and settings as Markdown."""
    _write(out, render_reference())


@app.command()
def asyncapi(config: ConfigOption = None, out: OutOption = Path("asyncapi.json")) -> None:
    """Write the MQTT side as an AsyncAPI 3 document: topics, messages, who sends what.

    Station, prefix and broker come from the configuration. Code generators, documentation and mocks take it as it is.

    Example: cangate export asyncapi -c config.toml -o asyncapi.json
    """
    _write(out, json.dumps(render_asyncapi(load_settings(config)), indent=2) + "\n", config)


@app.command()
def opcua_tags(config: ConfigOption = None, out: OutOption = Path("opcua-tags.csv")) -> None:
    """Write the OPC UA tags of the station as CSV, one a line, for the tag import of a PLC or SCADA tool.

    NodeIds name the namespace by its URI (nsu=...), since its index is the server's to choose.

    Example: cangate export opcua-tags -c config.toml -o tags.csv
    """
    station = load_settings(config).station.id
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("tag", "node_id", "browse_path", "data_type", "array", "access", "meaning"))
    for tag in Tag:
        table.writerow(
            (
                tag.name,
                f"nsu={NAMESPACE_URI};s={tag.node_id(station)}",
                f"Objects/Cangate/{station}/{tag.name}",
                tag.spec.type.removesuffix("[]"),
                str(tag.spec.type.endswith("[]")).lower(),
                "ReadWrite" if tag.spec.access is Access.PLC_WRITES else "Read",
                tag.spec.meaning,
            )
        )
    _write(out, text.getvalue(), config)


@app.command()
def opcua_nodeset(config: ConfigOption = None, out: OutOption = Path("cangate.NodeSet2.xml")) -> None:
    """Write the nodes of our own OPC UA namespace as a NodeSet2 file, for engineering tools that work offline.

    With opcua.server.machine_vision it needs the NodeSet of OPC 40100-1 beside it, for the types.

    Example: cangate export opcua-nodeset -c config.toml -o cangate.NodeSet2.xml
    """
    from adapters.opcua.server.nodeset import render_nodeset  # noqa: PLC0415 - asyncua takes a second that others need not wait

    settings = load_settings(config)
    _write(out, render_nodeset(settings.station.id, machine_vision=settings.opcua.server.machine_vision), config)


@app.command()
def json_schema(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.", file_okay=False)] = Path(
        "schemas-json"
    ),
) -> None:
    """Write a JSON Schema (2020-12) for each message, generated from the models the service itself uses."""
    with made_folder(out):
        for message in MESSAGES:
            identifier = message.model_fields["schema_"].default
            schema = {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "$id": f"urn:{identifier.replace('/', ':')}",
                **message.model_json_schema(mode="serialization" if message.__name__ != "ImageReady" else "validation"),
            }
            _write(out / f"{identifier.split('/')[1]}.schema.json", json.dumps(schema, indent=2) + "\n")


def _write(out: Path, text: str, config: Path | None = None) -> None:
    """Write a file whole or not at all. Raises CangateError, also where it is the configuration that was read."""
    if config is not None and os.path.realpath(out) == os.path.realpath(config):
        raise UsageError(f"cannot write {out}: it is the configuration file")
    with whole_file(out) as draft, naming(out):
        draft.write_text(text, encoding="utf-8")
    say(str(out))
