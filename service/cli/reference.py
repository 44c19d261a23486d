"""The interface reference, written from the models that the service itself uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

from pydantic import BaseModel

from schemas.base import Message
from schemas.messages import FAULT_MEANINGS, MESSAGES, FaultCode, Gate, Reason
from schemas.settings import Settings
from schemas.tags import NAMESPACE_URI, Access, Tag
from schemas.topics import Leaf

_TOPICS = {
    Leaf.IMAGE_READY: ("camera", "1, no", "ImageReady"),
    Leaf.IMAGE_READY_RAW: ("camera", "1, no", "JPEG or PNG bytes; metadata as MQTT 5 user properties"),
    Leaf.VERDICT: ("service", "1, no", "Verdict; correlation data echoed; expires with the deadline, at least 1 s"),
    Leaf.GATE: ("service", "1, no", "GateCommand; the same expiry"),
    Leaf.STATUS: ("service", "1, yes", "Status; the last will says offline"),
    Leaf.COMMAND: ("anyone allowed", "1, no", "Command"),
    Leaf.REPLY: ("service", "1, no", "CommandReply; to the response topic where one is given"),
}


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
                ((f"`{leaf}`", *_TOPICS[leaf]) for leaf in Leaf),
            ),
            "",
            "## Messages",
            "",
            "JSON, UTF-8. Times are RFC 3339 UTC with `Z`. A reader ignores fields it does not know.",
            *(line for message in MESSAGES for line in _message(message)),
            "",
            "### Reasons",
            "",
            ", ".join(f"`{reason}`" for reason in Reason),
            "",
            "### Gate",
            "",
            ", ".join(f"`{gate}`" for gate in Gate),
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
            "## Settings",
            "",
            "TOML; each key also as `CANGATE_SECTION__KEY` in the environment.",
            "",
            *_table(("key", "default", "meaning"), _settings(Settings, "")),
            "",
        ]
    )


def _message(message: type[Message]) -> Iterator[str]:
    schema = message.model_json_schema(mode="validation")
    yield from ("", f"### {message.__name__}", "", (message.__doc__ or "").strip().splitlines()[0], "")
    required = schema.get("required", [])
    yield from _table(
        ("field", "type", "required"),
        (
            (f"`{name}`", _type(field), "yes" if name in required else "no")
            for name, field in schema["properties"].items()
        ),
    )


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
            yield f"`{path}{name}`", f"`{_plain(field.default)}`", field.description or ""


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
