"""Texts in MQTT 5 properties, as paho gives them to us."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import properties as paho_properties
from paho.mqtt.exception import MalformedPacket

import adapters.mqtt.packets  # noqa: F401 - mends paho

read_utf: Callable[[bytes, int], tuple[str, int]] = paho_properties.readUTF


@given(st.text(), st.binary())
def test_text_is_read_up_to_its_end(text: str, behind: bytes) -> None:
    """Whatever MQTT 5 allows in it, and some of what it does not."""
    encoded = text.encode("utf-8", "surrogatepass")[:65_535]
    packed = struct.pack("!H", len(encoded)) + encoded
    read, length = read_utf(packed + behind, len(packed) + len(behind))
    assert (length, read.encode("utf-8", "surrogateescape")) == (len(packed), encoded)


def test_names_that_are_no_utf8_stay_apart() -> None:
    """Else the second part would be given the verdict of the first."""
    first, second = (read_utf(b"\x00\x01" + each, 3)[0] for each in (b"\xc4", b"\xd6"))
    assert first != second
    assert not first.isprintable()


@pytest.mark.parametrize(("packed", "available"), [(b"", 0), (b"\x00", 1), (b"\x00\x05abc", 5), (b"\x00\x03abc", 4)])
def test_text_that_ends_too_early_is_no_packet(packed: bytes, available: int) -> None:
    """Lengths that lie end the connection, as they must."""
    with pytest.raises(MalformedPacket):
        read_utf(packed, available)
