"""The interface reference, written from the models that the service itself uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from adapters.telemetry import Metrics
from schemas.messages import COMMAND_MEANINGS, FAULT_MEANINGS, MESSAGES, FaultCode
from schemas.settings import Settings
from schemas.tags import NAMESPACE_URI, Access, Tag
from service.cli.topic_table import TOPICS

HTTP = {
    "/": "the operators' page",
    "/history?event=&part=&decision=&before=": "its history; `event` opens one part",
    "/api/verdicts?limit=&before=&decision=&part_id=": (
        "stored verdicts, a list, newest first: at most `limit` (1 to 500, else 50), with a `seq` below `before`, "
        "with that `decision`, of that `part_id`; 422 for what these cannot be and for other words, "
        "503 where the journal cannot be read"
    ),
    "/api/verdicts/{event_id}": "the verdict on one event, with its exact bytes; 404 where there is none",
    "/api/verdicts/{event_id}/image?overlay=boxes|heatmap|none": "its picture, JPEG; 404 where none is kept",
    "/api/status": "Status",
    "/healthz": "200 while the process and its loop live",
    "/readyz": "200 where parts can be judged, else 503; `reasons` say what is missing",
    "/metrics": "for Prometheus",
}
"""Every address and what it answers."""


def render_reference() -> str:
    """Return the reference of topics, messages, tags and settings as Markdown."""
    return "\n".join(
        [
            "# Interface reference",
            "",
            "Written by `cangate export reference` from the models that the service uses; do not edit.",
            "",
            "## MQTT topics",
            "",
            "`{prefix}/{station}/{leaf}`, `prefix` from `mqtt.prefix`.",
            "",
            *_table(
                ("leaf", "from", "QoS, retain", "payload"),
                (
                    (f"`{leaf}`", topic.sender, "1, yes" if topic.retain else "1, no", topic.payload)
                    for leaf, topic in TOPICS.items()
                ),
            ),
            "",
            "## Messages",
            "",
            "JSON, UTF-8. Times are RFC 3339 UTC with `Z`. A reader ignores fields it does not know.",
            *(line for message in MESSAGES for line in _message(message.__name__, message.model_json_schema())),
            *(line for name, schema in _parts().items() for line in _message(name, schema)),
            "",
            "### Raw frames",
            "",
            "On `image-ready/raw` the payload is the picture, JPEG or PNG. The fields of `ImageReady`, but for",
            "`image` and `schema`, are MQTT 5 user properties, as text.",
            "",
            "### Commands",
            "",
            "The reply's `result` names the model after the first three, else the state.",
            "",
            *_table(
                ("command", "`args`, for example", "effect"),
                ((f"`{name}`", f"`{args}`", effect) for name, (args, effect) in COMMAND_MEANINGS.items()),
            ),
            "",
            "### Fault codes",
            "",
            "Below 100 nothing can be judged, from 100 on decisions still flow.",
            "",
            *_table(
                ("code", "name", "meaning", "`reset_fault`"),
                ((str(code.value), code.name.lower(), *FAULT_MEANINGS[code]) for code in FaultCode),
            ),
            "",
            "## OPC UA tags",
            "",
            f"NodeIds `ns=<{NAMESPACE_URI}>;s={{station}}.{{Tag}}` under `Objects/Cangate/{{station}}`.",
            "",
            *_table(
                ("tag", "type", "access", "meaning"),
                (
                    (
                        f"`{tag.name}`",
                        tag.spec.type.value,
                        "PLC writes" if tag.spec.access is Access.PLC_WRITES else "read",
                        tag.spec.meaning,
                    )
                    for tag in Tag
                ),
            ),
            "",
            "## HTTP",
            "",
            "At `http.host`:`http.port`; where `http.anonymous` is false with an HTTP Basic login, `/healthz` apart.",
            "An event id in an address is percent-encoded, slashes included. HEAD is answered like GET.",
            "`/openapi.json` describes it for programs (OpenAPI).",
            "",
            *_table(("GET", "answer"), ((f"`{path}`", answer) for path, answer in HTTP.items())),
            "",
            "### Metrics",
            "",
            "Of the station; `/metrics` says those of Python and the process as well.",
            "",
            *_table(("name", "type", "meaning"), _metrics()),
            "",
            "## Settings",
            "",
            "TOML; each key also as `CANGATE_SECTION__KEY` in the environment.",
            "",
            *_table(("key", "default", "meaning"), _settings(Settings, "")),
            "",
        ]
    )


def _parts() -> dict[str, dict[str, Any]]:
    """Return the schemas of what the messages are made of, by name, in alphabetical order."""
    found: dict[str, dict[str, Any]] = {}
    for message in MESSAGES:
        found |= message.model_json_schema().get("$defs", {})
    return {name: schema for name, schema in sorted(found.items()) if "description" in schema}


def _message(name: str, schema: dict[str, Any]) -> Iterator[str]:
    """Yield the section of one model or enumeration."""
    yield from ("", f"### {name}", "", schema.get("description", "").strip().splitlines()[0], "")
    if "enum" in schema:
        yield ", ".join(f"`{value}`" for value in schema["enum"])
        return
    required = schema.get("required", [])
    yield from _table(
        ("field", "type", "required"),
        (
            (f"`{field}`", _type(of_field), "yes" if field in required else "no")
            for field, of_field in schema["properties"].items()
        ),
    )


def _metrics() -> Iterator[tuple[str, str, str]]:
    for family in text_string_to_metric_families(Metrics().text().decode()):
        if family.name.startswith("cangate_") and not family.name.endswith("_created"):
            counts = family.type == "counter"
            yield f"`{family.name}{'_total' if counts else ''}`", family.type, family.documentation


def _type(field: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "$ref" in field:
        return str(field["$ref"]).rsplit("/", 1)[-1]
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    return str(field.get("format") or field.get("type") or "any")


def _settings(model: type[BaseModel], path: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _settings(inner, f"{path}{name}.")
        else:
            yield f"`{path}{name}`", f"`{_plain(field.default)}`", field.description or _choices(inner)


def _choices(annotation: object) -> str:
    """Return what a setting may be where that is one of a few words."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(str(choice.value) for choice in annotation)
    return ""


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(value) if value != "" else '""'


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
