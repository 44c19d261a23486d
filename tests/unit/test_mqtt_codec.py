"""What MQTT payloads mean, whatever they are."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.mqtt.codec import (
    InvalidCommand,
    Request,
    Unusable,
    read_command,
    read_image_ready,
    read_raw_image,
)
from schemas.messages import Command, CommandName, CommandReply, GateCommand, ImageEvent, ImageRef, Reason, Verdict
from tests.support.line import arrival
from tests.support.verdicts import failed_answer

_WHOLE = {
    "schema": "cangate/image-ready/1",
    "event_id": "e1",
    "part_id": "C-1",
    "trigger_id": 7,
    "captured_at": "2026-01-31T08:00:00.000Z",
    "deadline_ms": 500,
    "image": {"uri": "file:///frame.png", "sha256": "a" * 64},
    "simulated": False,
}
_EVENT = ImageEvent(
    event_id="e1", part_id="C-1", trigger_id=7, captured_at=datetime(2026, 1, 31, 8, tzinfo=UTC), deadline_ms=500
)
_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def _read(**changes: object) -> Request | Unusable:
    return read_image_ready(json.dumps({**_WHOLE, **changes}).encode())


def _event_without(name: str) -> ImageEvent:
    return ImageEvent.model_validate({**_EVENT.model_dump(), name: None})


def test_image_ready_is_read_whole() -> None:
    """Every field of the contract arrives."""
    image = ImageRef(uri="file:///frame.png", sha256="a" * 64)
    assert read_image_ready(json.dumps(_WHOLE).encode()) == Request(_EVENT, image)


def test_image_ready_needs_an_event_id_and_an_image_only() -> None:
    """The rest has defaults, and unknown fields are ignored."""
    payload = b'{"event_id":"e1","image":{"uri":"x"},"colour":[1,{"a":null}]}'
    assert read_image_ready(payload) == Request(ImageEvent(event_id="e1"), ImageRef(uri="x"))


@pytest.mark.parametrize(
    "stranger",
    [{"simulated": None}, {"replayed": None}, {"replayed": "yes"}, {"replayed": 1}, {"schema_": "x", "reason": 7}],
)
def test_what_says_nothing_changes_nothing(stranger: dict[str, object]) -> None:
    """Null is what some libraries write for a flag that is not set, and the contract knows no `replayed`."""
    named = {name: value for name, value in _WHOLE.items() if name not in {"schema", "simulated"}}
    assert read_image_ready(json.dumps({**named, **stranger}).encode()) == read_image_ready(json.dumps(_WHOLE).encode())


def test_no_name_makes_a_replay_of_an_event() -> None:
    """Over MQTT it says so itself; what the camera calls its parts is its own business, and each moves the gate."""
    for request in (_read(event_id="replay/1"), read_raw_image(b"JPEG", [("event_id", "replay/1")], max_bytes=10)):
        assert isinstance(request, Request)
        assert not request.event.replayed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("part_id", 7),
        ("part_id", "line\nbreak"),
        ("part_id", "x" * 257),
        ("trigger_id", -1),
        ("trigger_id", 2**32),
        ("trigger_id", 7.5),
        ("trigger_id", True),
        ("trigger_id", "7"),
        ("captured_at", "yesterday"),
        ("captured_at", "2026-01-31T08:00:00"),
        ("captured_at", "0001-01-01T00:00:00+14:00"),
        ("captured_at", "9999-12-31T23:59:59-14:00"),
        ("captured_at", 1e300),
        ("deadline_ms", 0),
        ("deadline_ms", -500),
        ("deadline_ms", 3_600_001),
        ("deadline_ms", 500.5),
        ("deadline_ms", math.inf),
        ("deadline_ms", math.nan),
        ("simulated", "no"),
    ],
)
def test_wrong_field_refuses_the_event_and_keeps_the_others(name: str, value: object) -> None:
    """An event that names itself is answered, with everything that was right about it."""
    request = _read(**{name: value})
    expected = _EVENT if name == "simulated" else _event_without(name)
    assert isinstance(request, Request)
    assert (request.event, request.image, request.frame_bytes) == (expected, None, None)
    assert request.refusal is not None
    assert request.refusal.reason is Reason.FRAME_REFUSED
    assert name in request.refusal.detail


@pytest.mark.parametrize(
    "changes",
    [{"schema": "cangate/image-ready/2"}, {"image": None}, {"image": "x"}, {"image": {}}, {"image": {"uri": ""}}],
)
def test_wrong_image_or_schema_refuses_the_event(changes: dict[str, object]) -> None:
    """What is known about the part stays known."""
    request = _read(**changes)
    assert isinstance(request, Request)
    assert request.event == _EVENT
    assert request.refusal is not None


_NAMES = ["x" * 257, "x" * 60_000, "tab\t", "\x1b[2J", "\x7f", "\n", "a\r\nb", "\x01sha256:0", "ü" * 300]
"""They name an event, and no valid one."""


@pytest.mark.parametrize("event_id", _NAMES, ids=ascii)
def test_event_that_has_a_name_is_refused_by_it(event_id: str) -> None:
    """Too long, or with control characters: it is no valid id, but a name all the same, and all else is kept."""
    request = _read(event_id=event_id)
    assert isinstance(request, Request)
    expected = ImageEvent.model_validate({**_EVENT.model_dump(), "event_id": event_id})
    assert (request.event, request.image) == (expected, None)
    assert request.refusal is not None
    assert request.refusal.reason is Reason.FRAME_REFUSED
    assert "event_id" in request.refusal.detail
    assert len(request.refusal.detail) <= 200
    raw = read_raw_image(b"JPEG", [("event_id", event_id), ("part_id", "C-1")], max_bytes=4)
    assert isinstance(raw, Request)
    assert (raw.event, raw.frame_bytes) == (ImageEvent(event_id=event_id, part_id="C-1"), None)
    assert raw.refusal is not None
    assert raw.refusal.reason is Reason.FRAME_REFUSED


@pytest.mark.parametrize("number", ["7", "0", "-5", "1" * 40, "1" * 4000])
def test_whole_number_is_a_name_by_its_text(number: str) -> None:
    """A counter that a camera forgot to quote."""
    request = read_image_ready(b'{"event_id":%s,"image":{"uri":"x"},"part_id":"C-1"}' % number.encode())
    assert isinstance(request, Request)
    assert request.event == ImageEvent(event_id=number, part_id="C-1")
    assert request.refusal is not None


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_any_text_is_a_name_and_is_echoed_exactly(event_id: str) -> None:
    """Every text but one with NUL: through the event, its record, the verdict and the gate command."""
    request = _read(event_id=event_id)
    assert isinstance(request, Request)
    assert ImageEvent.model_validate_json(request.event.to_json()).event_id == event_id
    verdict = failed_answer(replace(arrival(), event=request.event), 1).verdict
    assert json.loads(verdict.to_json())["event_id"] == event_id
    assert Verdict.model_validate_json(verdict.to_json()).event_id == event_id
    assert json.loads(GateCommand.of(verdict).to_json())["event_id"] == event_id


@pytest.mark.parametrize("event_id", [None, True, 7.5, 7.0, 1e30, "", ["e1"], {"id": "e1"}, "a\0", "\0"])
def test_unusable_event_id_cannot_be_answered(event_id: object) -> None:
    """Without a name that can be stored and said nobody could tell whose verdict it is."""
    unusable = _read(event_id=event_id)
    assert isinstance(unusable, Unusable)
    assert unusable.reason == "no_event_id"
    assert "event_id" in unusable.detail


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf[]",
        b"null",
        b"7",
        b'"event_id"',
        b'[{"event_id":"e1"}]',
        b'e {"event_id":"e1"}',
        b'{"event_id":"e1',
        b'{"event_id":e1}',
        b'{"event_id":12',
        b'{"event_id":12 3}',
        b'{"event_id"}:"e1"',
        b'{"x":{"event_id":"e1"',
        b'{"x":"\\"event_id\\":1',
        b"[" * 50_000,
        b'"' + b'\\"' * 30_000,
    ],
)
def test_no_json_object_cannot_be_answered(payload: bytes) -> None:
    """Whatever else it is, it names no event."""
    unusable = read_image_ready(payload)
    assert isinstance(unusable, Unusable)
    assert unusable.reason == "not_json"
    assert len(unusable.detail.splitlines()) == 1


_STRANGERS = [
    b'"x":"\\ud83d"',
    b'"\\ud83d":1',
    b'"x":' + b"9" * 50_000,
    b'"x":' + b"[" * 300 + b"]" * 300,
    b'"x":{"y":[{"z":"\\udc00"}]}',
]
"""Fields that are JSON, and too hard for a strict reader."""


@pytest.mark.parametrize("stranger", _STRANGERS)
def test_unknown_field_is_ignored_however_hard_it_is_to_read(stranger: bytes) -> None:
    """A reader ignores what it does not know: the part is judged."""
    payload = json.dumps(_WHOLE).encode()
    assert read_image_ready(payload[:-1] + b"," + stranger + b"}") == read_image_ready(payload)


def test_byte_order_mark_is_ignored() -> None:
    """Some libraries write one, and a parser may ignore it (RFC 8259 section 8.1)."""
    payload = json.dumps(_WHOLE).encode()
    assert read_image_ready(b"\xef\xbb\xbf" + payload) == read_image_ready(payload)


@pytest.mark.parametrize(
    "wrong",
    [
        b'"part_id":"\\ud83d"',
        b'"part_id":"\xe4"',
        b'"part_id":"C-1\r"',
        b'"part_id":' + b"9" * 5000,
        b'"part_id":' + b"[" * 20_000 + b"]" * 20_000,
        b'"part_id":[[null]]',
    ],
)
def test_known_field_that_is_hard_to_read_refuses_the_event(wrong: bytes) -> None:
    """The camera hears of it, and by the trigger id that was right the gate does."""
    request = read_image_ready(b'{"event_id":"e1","trigger_id":7,' + wrong + b',"image":{"uri":"x"}}')
    assert isinstance(request, Request)
    assert (request.event, request.image) == (ImageEvent(event_id="e1", trigger_id=7), None)
    assert request.refusal is not None
    assert request.refusal.reason is Reason.FRAME_REFUSED
    assert len(request.refusal.detail.splitlines()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        b'"x":"\xe4"',
        b'"\xe4":1',
        b'"x":"\t"',
        b'"x":' + b"[" * 30_000 + b"]" * 30_000,
        b'"x":[{"y":' + b"[" * 20_000 + b'"]\\"]"' + b"]" * 20_000 + b"}]",
    ],
)
def test_damage_anywhere_refuses_the_event_by_its_name(wrong: bytes) -> None:
    """It is no JSON any more, or deeper than can be read, and names its event and its part all the same."""
    request = read_image_ready(b'{"event_id":"e1",' + wrong + b',"part_id":"C-1","image":{"uri":"x"}}')
    assert isinstance(request, Request)
    assert (request.event, request.image) == (ImageEvent(event_id="e1", part_id="C-1"), None)
    assert request.refusal is not None
    assert request.refusal.reason is Reason.FRAME_REFUSED


@pytest.mark.parametrize(
    "payload",
    [
        b'{"event_id":"e1","part_id":"C-1"',
        b'{"event_id":"e1","part_id":"C-1","image":{"uri":"x"',
        b'{"event_id":"e1","part_id":"C-1","trigger_id":',
        b'{"event_id":"e1","part_id":"C-1","captured_at":"2026-',
        b'{"event_id":"e1","part_id":"C-1",}',
        b'{"event_id":"e1" "part_id":"C-1"}',
        b'{"event_id":"e1","part_id":"C-1"}}',
        b'{"event_id":"e1","part_id":"C-1"}\n{"event_id":"e2","part_id":"C-2"}',
        b'{"event_id":"e1","part_id":"C-1","x":' + b"[" * 50_000,
        b'{"event_id":"e1","part_id":"C-1","x":[[[[],"}]]]',
        b'{"event_id":"e0","event_id":"e1","part_id":"C-1",x}',
        b'{"event_id":"e1","part_id":"C-1","trigger_id":12',
        b'{"event_id":"e1","part_id":"C-1","trigger_id":1 2}',
        b'{"event_id":"e1","part_id":"C-1","deadline_ms":5',
    ],
)
def test_slip_anywhere_refuses_the_event_by_its_name(payload: bytes) -> None:
    """Cut off, a comma too many, something behind it: whoever sent it forgot no name, and the part is rejected."""
    request = read_image_ready(payload)
    assert isinstance(request, Request)
    assert (request.event, request.image) == (ImageEvent(event_id="e1", part_id="C-1"), None)
    assert request.refusal is not None
    assert request.refusal.reason is Reason.FRAME_REFUSED


@pytest.mark.parametrize("name", [b"\\ud800", b"caf\xe9"])
def test_name_that_is_no_unicode_cannot_be_answered(name: bytes) -> None:
    """No verdict could say it, and what stood in its place would be the name of others, too."""
    unusable = read_image_ready(b'{"event_id":"' + name + b'","image":{"uri":"x"}}')
    assert isinstance(unusable, Unusable)
    assert unusable.reason == "no_event_id"


def test_number_of_any_length_is_a_name_by_its_text() -> None:
    """Longer ones than Python turns into numbers, too."""
    request = read_image_ready(b'{"event_id":' + b"9" * 50_000 + b',"part_id":"C-1"}')
    assert isinstance(request, Request)
    assert request.event == ImageEvent(event_id="9" * 50_000, part_id="C-1")


@given(st.data())
def test_wrong_byte_in_a_text_never_hides_the_name(data: st.DataObject) -> None:
    """Whatever the byte is, but for a quote, a backslash and NUL, which make another document of it."""
    payload = bytearray(json.dumps({**_WHOLE, "event_id": "e1", "note": "abc"}).encode())
    field = data.draw(st.sampled_from([b"C-1", b"2026-01", b"frame", b"abc", b"note"]))
    payload[payload.index(field)] = data.draw(st.integers(1, 255).filter(lambda byte: byte not in b'"\\'))
    request = read_image_ready(bytes(payload))
    assert isinstance(request, Request)
    assert (request.event.event_id, request.event.trigger_id) == ("e1", 7)


def test_repeated_key_counts_last() -> None:
    """As everywhere else where JSON is read (RFC 8259 section 4 leaves it open)."""
    request = read_image_ready(b'{"event_id":"first","event_id":"last","image":{"uri":"x"}}')
    assert isinstance(request, Request)
    assert request.event.event_id == "last"


@pytest.mark.parametrize(
    "payload",
    [
        b'\xef\xbb\xbf{"command":"pause"}',
        b'{"command":"pause","note":"\\ud800"}',
        b'{"command":"pause","note":' + b"9" * 5000 + b"}",
        b'{"command":"pause","note":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
    ids=["byte order mark", "half a surrogate", "long number", "deep"],
)
def test_command_is_read_whatever_stands_beside_it(payload: bytes) -> None:
    """A reader ignores unknown fields, and a line that is to pause must not run on for one."""
    assert read_command(payload) == Command(command=CommandName.PAUSE)


@pytest.mark.parametrize("payload", [b'{"command":"pause","args":[]}', b'{"command":"pause","args":{"x":"\\ud800"}'])
def test_command_that_cannot_be_read_is_refused_by_its_name(payload: bytes) -> None:
    """Whoever sent it knows which one was meant."""
    refused = read_command(payload)
    assert isinstance(refused, InvalidCommand)
    assert refused.name == "pause"


@given(st.binary())
@example(b'{"command":"pau\xffse"}')
@example(b'{"command":"\\ud800"}')
def test_any_bytes_are_read_without_a_traceback(payload: bytes) -> None:
    """Anyone who may publish may publish anything."""
    assert isinstance(read_image_ready(payload), Request | Unusable)
    read = read_command(payload)
    assert isinstance(read, Command | InvalidCommand)
    if isinstance(read, InvalidCommand):
        assert CommandReply(station="line1", command=read.name, ok=False, error=read.error).to_json()


@given(st.dictionaries(st.sampled_from(sorted(_WHOLE)), _json_values))
def test_any_values_are_read_and_a_name_is_never_lost(fields: dict[str, object]) -> None:
    """Whatever the other fields hold, an event with a usable name can be answered by that name."""
    request = read_image_ready(json.dumps({**fields, "event_id": "e1"}).encode())
    assert isinstance(request, Request)
    assert request.event.event_id == "e1"


@given(st.binary(max_size=20), st.lists(st.tuples(st.sampled_from(sorted(_WHOLE)) | st.text(), st.text())))
def test_any_user_properties_are_read_without_a_traceback(payload: bytes, properties: list[tuple[str, str]]) -> None:
    """User properties are text that anyone may write."""
    assert isinstance(read_raw_image(payload, properties, max_bytes=10), Request | Unusable)


def test_raw_image_is_read_from_its_user_properties() -> None:
    """Numbers are decimal, flags are words, unknown properties are ignored, of a repeated one the last counts."""
    properties = [
        ("event_id", "e0"),
        ("event_id", "e1"),
        ("part_id", "C-1"),
        ("trigger_id", "007"),
        ("captured_at", "2026-01-31T08:00:00Z"),
        ("deadline_ms", "500"),
        ("simulated", "true"),
        ("replayed", "1"),
        ("colour", "silver"),
    ]
    expected = ImageEvent.model_validate({**_EVENT.model_dump(), "simulated": True})
    assert read_raw_image(b"JPEG", properties, max_bytes=4) == Request(expected, frame_bytes=b"JPEG")


@pytest.mark.parametrize("trigger_id", ["", "-1", "7.0", "0x7", "\u0667", "4294967296", "9" * 5000])
def test_raw_image_with_a_wrong_number_is_refused(trigger_id: str) -> None:
    """A property that is no decimal number of its range refuses the event by its name."""
    request = read_raw_image(b"JPEG", [("event_id", "e1"), ("trigger_id", trigger_id)], max_bytes=4)
    assert isinstance(request, Request)
    assert (request.event, request.frame_bytes) == (ImageEvent(event_id="e1"), None)
    assert request.refusal is not None


def test_raw_image_without_properties_cannot_be_answered() -> None:
    """As it comes from a camera that speaks 3.1.1."""
    unusable = read_raw_image(b"JPEG", [], max_bytes=4)
    assert isinstance(unusable, Unusable)
    assert unusable.reason == "no_event_id"


@pytest.mark.parametrize("text", ["", "a\0", "\ud800"])
def test_raw_image_without_a_name_cannot_be_answered(text: str) -> None:
    """A property that no broker should have passed on raises nothing."""
    unusable = read_raw_image(b"JPEG", [("event_id", text)], max_bytes=4)
    assert isinstance(unusable, Unusable)
    assert unusable.reason == "no_event_id"
