"""What commands mean, and where replies may go."""

from __future__ import annotations

import pytest

from adapters.mqtt.codec import InvalidCommand, is_reply_topic, is_taken_topic, read_command
from schemas.messages import Command, CommandName


def test_command_is_read() -> None:
    """The schema may be left out, and so may the arguments."""
    assert read_command(b'{"command":"ping"}') == Command(command=CommandName.PING)


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b'{"command":"explode"}', "explode"),
        (b'{"command":"ping","args":[]}', "ping"),
        (b'{"command":7}', None),
        (b'{"command":"' + b"x" * 65 + b'"}', None),
        (b"{}", None),
        (b"", None),
        (b"[]", None),
    ],
)
def test_invalid_command_is_answered_in_one_line(payload: bytes, name: str | None) -> None:
    """The reply names the command where it had a sensible name."""
    invalid = read_command(payload)
    assert isinstance(invalid, InvalidCommand)
    assert invalid.name == name
    assert len(invalid.error.splitlines()) == 1
    assert len(invalid.error) <= 200


@pytest.mark.parametrize(
    ("topic", "usable"),
    [
        ("hmi/3/reply", True),
        ("a", True),
        ("", False),
        ("a/#", False),
        ("a/+/b", False),
        ("a\0", False),
        ("$SYS", False),
        ("Füller/3/Antwort 1", True),
        ("a\u0001", False),
        ("a\ufffe", False),
        ("/".join("a" * 32), True),
        ("/".join("a" * 33), False),
        ("ü" * 512, True),
        ("ü" * 512 + "a", False),
    ],
)
def test_reply_topic_is_a_short_name(topic: str, usable: bool) -> None:
    """A reply is published, so its topic is a name, not a filter, and none that a broker closes the connection at."""
    assert is_reply_topic(topic) is usable


@pytest.mark.parametrize(
    ("topic", "taken"),
    [
        ("acme/plant1/line1/gate", True),
        ("acme/plant1/other/gate", True),
        ("acme/plant1/other/image-ready/raw", True),
        ("acme/plant1/other/cmd", True),
        ("acme/plant1/other/reply", False),
        ("acme/plant1/other/reply/hmi-3", False),
        ("acme/plant1/gate", False),
        ("acme/plant2/other/gate", False),
        ("gate", False),
    ],
)
def test_topics_of_every_station_are_taken(topic: str, taken: bool) -> None:
    """Whoever asks must not have a reply told to a gate, of whichever station under the prefix."""
    assert is_taken_topic(topic, "acme/plant1") is taken
