"""What MQTT payloads mean: bytes in, values out; no connection, no clock.

Nothing here raises on what it is given: a payload may come from anyone who may publish.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue, ValidationError
from pydantic_core import from_json, to_json

from schemas.messages import Command, ImageEvent, ImageReady, ImageRef, RawImageReady, Reason
from service.ports import Refusal

_MAX_DETAIL = 200
_DECIMAL = re.compile(r"[0-9]{1,10}")
_INTEGERS = frozenset({"trigger_id", "deadline_ms"})
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Request:
    """An image-ready event that can be answered; `refusal` says why it is answered without being looked at."""

    event: ImageEvent
    image: ImageRef | None = None
    frame_bytes: bytes | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Unusable:
    """An input that cannot be answered; `reason` is a label for the counter."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class InvalidCommand:
    """A command that is answered with `error`; `name` is what it called itself, where that is text."""

    name: str | None
    error: str


def read_image_ready(payload: bytes) -> Request | Unusable:
    """Read a JSON `ImageReady`. What is valid in an invalid one is kept, so that its answer finds the part.

    Its event id is kept where it is any text at all (`EventName`), or a whole number, which is taken by its text.
    """
    try:
        ready = ImageReady.model_validate_json(payload)
    except ValidationError as exc:
        return _salvage(payload, exc)
    return Request(_event(ready), ready.image)


def read_raw_image(payload: bytes, properties: Iterable[tuple[str, str]], *, max_bytes: int) -> Request | Unusable:
    """Read an encoded image whose metadata are MQTT 5 user properties; of a repeated one the last counts.

    An empty payload is an image of no bytes, which the frame loader calls corrupt.
    """
    given = {name: _typed(name, text) for name, text in properties if name in ImageEvent.model_fields}
    try:
        metadata = to_json(given)
    except ValueError:  # MQTT 5 allows no half surrogates (section 1.5.4), and not every broker looks
        return Unusable("no_event_id", "a user property is no UTF-8")
    try:
        event = _event(RawImageReady.model_validate_json(metadata))
    except ValidationError as exc:
        return _salvage(metadata, exc)
    if len(payload) > max_bytes:
        return Request(event, refusal=_refused(f"raw image has {len(payload)} bytes, {max_bytes} are allowed"))
    return Request(event, frame_bytes=payload)


def read_command(payload: bytes) -> Command | InvalidCommand:
    """Read a JSON `Command`."""
    try:
        return Command.model_validate_json(payload)
    except ValidationError as exc:
        name = (_document(payload) or {}).get("command")
        return InvalidCommand(name if isinstance(name, str) and len(name) <= 64 else None, first_error(exc))


def is_reply_topic(topic: str) -> bool:
    """Tell whether a reply may be published to `topic` (MQTT 5 section 3.3.2.3.5: no wildcards)."""
    return bool(topic) and not topic.startswith("$") and not any(character in topic for character in "+#\0")


def first_error(error: ValidationError) -> str:
    """Return the first thing that is wrong, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    text = f"{where}: {first['msg']}" if where else first["msg"]
    return " ".join(text.split())[:_MAX_DETAIL]


def _salvage(document_json: bytes, error: ValidationError) -> Request | Unusable:
    document = _document(document_json)
    if document is None:
        return Unusable("not_json", first_error(error))
    wrong = {detail["loc"][0] for detail in error.errors(include_url=False, include_input=False) if detail["loc"]}
    kept = {name: document[name] for name in ImageEvent.model_fields if name in document and name not in wrong}
    named = document.get("event_id")
    # bool is an int to Python, and no number to JSON
    kept["event_id"] = str(named) if isinstance(named, int) and not isinstance(named, bool) else named
    try:
        event = ImageEvent.model_validate_json(to_json(kept))
    except ValidationError:
        return Unusable("no_event_id", first_error(error))
    return Request(event, refusal=_refused(first_error(error)))


def _document(payload: bytes) -> Mapping[str, JsonValue] | None:
    """Return the JSON object that `payload` is, None where it is anything else."""
    try:
        document: JsonValue = from_json(payload)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _event(ready: ImageReady | RawImageReady) -> ImageEvent:
    return ImageEvent.model_validate(ready.model_dump(include=set(ImageEvent.model_fields)))


def _typed(name: str, text: str) -> JsonValue:
    if name in _INTEGERS:
        return int(text) if _DECIMAL.fullmatch(text) else text
    return _FLAGS.get(text, text) if name in {"simulated", "replayed"} else text


def _refused(detail: str) -> Refusal:
    return Refusal(Reason.FRAME_REFUSED, detail)
