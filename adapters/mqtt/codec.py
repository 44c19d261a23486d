"""What MQTT payloads mean: bytes in, values out; no connection, no clock.

Nothing here raises on what it is given: a payload may come from anyone who may publish.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from pydantic import JsonValue, ValidationError
from pydantic_core import to_json

from schemas.base import Message
from schemas.messages import Command, ImageEvent, ImageReady, ImageRef, RawImageReady, Reason
from schemas.topics import Leaf
from service.ports import Refusal

_MAX_DETAIL = 200
_REPLY_LEVELS = 32
_REPLY_TOPIC_BYTES = 1024
_TAKEN_LEAVES = frozenset(leaf.value for leaf in Leaf if leaf is not Leaf.REPLY)
_DECIMAL = re.compile(r"[0-9]{1,10}")
_INTEGERS = frozenset({"trigger_id", "deadline_ms"})
_FLAGS = {"true": True, "false": False}
_LONGEST_COMMAND = 64
_LONGEST_INTEGER = 4_000
"""Digits; Python turns no more than 4,300 into a number."""

_PIECE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}:,]|[^\s"\[\]{}:,]++', re.DOTALL)
"""What JSON is made of, and what it is not; a text without an end goes to the end, so that nothing is read twice."""


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

    A wrong byte in a text, an end that is missing, or more levels than can be read refuse the event and do not hide its
    name. Its event id is kept where it is any text at all (`EventName`), or a whole number, which is taken by its text.
    """
    try:
        ready = ImageReady.model_validate_json(payload)
    except ValidationError as exc:
        try:
            ready = ImageReady.model_validate_json(_without_strangers(payload, ImageReady))
        except (ValueError, RecursionError):
            return _salvage(_members(payload.decode("utf-8-sig", "surrogateescape")), exc)
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
        return _salvage(given, exc)
    if len(payload) > max_bytes:
        return Request(event, refusal=_refused(f"raw image has {len(payload)} bytes, {max_bytes} are allowed"))
    return Request(event, frame_bytes=payload)


def read_command(payload: bytes) -> Command | InvalidCommand:
    """Read a JSON `Command`, as leniently as an event."""
    try:
        return Command.model_validate_json(payload)
    except ValidationError as exc:
        with suppress(ValueError, RecursionError):
            return Command.model_validate_json(_without_strangers(payload, Command))
        name = _members(payload.decode("utf-8-sig", "surrogateescape")).get("command")
        if not isinstance(name, str) or len(name) > _LONGEST_COMMAND or not name.isprintable():
            name = None
        return InvalidCommand(name, first_error(exc))


def is_reply_topic(topic: str) -> bool:
    """Tell whether a reply may be published to `topic`: a name without wildcards (MQTT 5 section 3.3.2.1).

    At a name with more levels than it takes (mosquitto: 200), or with what is no text, a broker closes the connection:
    whoever may command a station could keep it from its gate.
    """
    named = bool(topic) and topic.isprintable() and not topic.startswith("$") and not any(c in topic for c in "+#")
    return named and topic.count("/") < _REPLY_LEVELS and len(topic.encode()) <= _REPLY_TOPIC_BYTES


def is_taken_topic(topic: str, prefix: str) -> bool:
    """Tell whether some station speaks or listens on `topic`, where a reply would be taken for a gate command, say."""
    _, _, leaf = topic.removeprefix(f"{prefix}/").partition("/")
    return topic.startswith(f"{prefix}/") and leaf in _TAKEN_LEAVES


def first_error(error: ValidationError) -> str:
    """Return the first thing that is wrong, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    text = f"{where}: {first['msg']}" if where else first["msg"]
    return " ".join(text.split())[:_MAX_DETAIL]


def _salvage(document: Mapping[str, JsonValue], error: ValidationError) -> Request | Unusable:
    named = document.get("event_id")
    if isinstance(named, int) and not isinstance(named, bool):  # bool is an int to Python, and no number to JSON
        document = {**document, "event_id": str(named)}
    kept = {
        name: document[name] for name in ImageEvent.model_fields if name in document and _fits(name, document[name])
    }
    if "event_id" not in kept:
        is_read = "event_id" in document or error.errors()[0]["loc"]
        return Unusable("no_event_id" if is_read else "not_json", first_error(error))
    return Request(ImageEvent.model_validate_json(to_json(kept)), refusal=_refused(first_error(error)))


def _fits(name: str, value: JsonValue) -> bool:
    """Tell whether an event can have this value; half a surrogate pair, say, can be written in JSON and never said."""
    try:
        ImageEvent.model_validate_json(to_json({"event_id": "any", name: value}))
    except ValueError:
        return False
    return True


def _without_strangers(payload: bytes, message: type[Message]) -> bytes:
    """Return the JSON object `payload` without what is no field of `message`: some of that no strict reader takes.

    Raises ValueError, RecursionError: it is no JSON object, too deep, or a known field is too hard to read, too.
    """
    document = json.loads(payload.decode("utf-8-sig"), parse_int=_integer)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - a value is wrong, as all else that json may find
    known = {*message.model_fields, "schema"}
    return to_json({name: value for name, value in document.items() if name in known})


def _members(text: str) -> Mapping[str, JsonValue]:
    """Return what a JSON object has on its first level, as far as it can be read; null in place of lists and objects.

    What is no UTF-8 came as half a surrogate pair, and is one in what is returned. A number may have been cut off: it
    counts only where its end is seen.
    """
    found: dict[str, JsonValue] = {}
    last, depth, unended = deque[str](maxlen=3), 0, False
    for piece in (each[0] for each in _PIECE.finditer(text)):
        if unended and piece in ",}":
            found |= _member(last[0], last[2])
        unended = False
        depth -= piece in "]}"
        if depth == 1 or (depth == 0 and piece == "{"):
            last.append("null" if piece in "[{" else piece)
            if len(last) == 3 and last[1] == ":" and last[0][0] == '"':
                unended = piece[0] not in '"[{'
                found |= {} if unended else _member(last[0], last[2])
        elif depth < 1:  # the object has ended, or none began
            break
        depth += piece in "[{"
    return found


def _member(name: str, value: str) -> dict[str, JsonValue]:
    """Return a member of an object by its two texts; none where they are no JSON."""
    try:
        return {json.loads(name, strict=False): json.loads(value, parse_int=_integer, strict=False)}
    except ValueError:
        return {}


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else digits


def _event(ready: ImageReady | RawImageReady) -> ImageEvent:
    return ImageEvent.model_validate(ready.model_dump(include=set(ImageEvent.model_fields)))


def _typed(name: str, text: str) -> JsonValue:
    if name in _INTEGERS:
        return int(text) if _DECIMAL.fullmatch(text) else text
    # neither is a property of the contract: another word is somebody else's
    return _FLAGS.get(text) if name in {"simulated", "replayed"} else text


def _refused(detail: str) -> Refusal:
    return Refusal(Reason.FRAME_REFUSED, detail)
