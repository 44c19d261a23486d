"""What crosses a connection to a broker: values of ours, and what paho makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from paho.mqtt import properties as paho_properties
from paho.mqtt.client import MQTTMessage
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from service.ports import Clock

LARGEST_PACKET = 268_435_460
"""Bytes; no MQTT packet can be larger: a length of four bytes, and the five before it (MQTT 5 section 2.1.4)."""

_BITS_OF_A_LENGTH_BYTE = 7

_TOO_LARGE = 149
# mosquitto refuses a publish above its `message_size_limit` so, though the standard has that reason for other packets
# only; paho, which knows none that is not standard, would end the connection
ReasonCode.names = {
    **ReasonCode.names,
    _TOO_LARGE: {name: [*packets, PacketTypes.PUBACK] for name, packets in ReasonCode.names[_TOO_LARGE].items()},
}

_LENGTH_BYTES = 2


def _read_text(buffer: bytes, available: int) -> tuple[str, int]:
    """Return the text that a property begins with, and how many bytes it takes. Raises MalformedPacket.

    paho ends the connection at U+FEFF, which MQTT 5 allows (1.5.4-3), and at what is no UTF-8, and brokers may hand
    both on, again and again: whoever may publish could keep the station from it. What is no UTF-8 becomes half
    surrogates here, which nobody takes for a name.
    """
    end = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES], "big")
    if end > available:
        raise MalformedPacket(f"a text of {end} bytes where {available} are left")
    return buffer[_LENGTH_BYTES:end].decode(errors="surrogateescape"), end


paho_properties.readUTF = _read_text


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message from the broker, with the time at which it came in."""

    topic: str
    payload: bytes
    mid: int
    qos: int
    retain: bool
    received_at: datetime
    received_monotonic: float
    correlation_data: bytes | None = None
    response_topic: str | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to the broker, always QoS 1.

    expires_monotonic: from when on it is worthless (MQTT 5 message expiry). wanted: asked when it is about to leave; a
    message that is no longer wanted counts as confirmed. The last two properties need MQTT 5.
    """

    topic: str
    payload: bytes
    retain: bool = False
    expires_monotonic: float | None = None
    wanted: Callable[[], bool] = lambda: True
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


def properties_of(packet_type: int) -> Properties:
    """Return no properties yet, for a packet of this type."""
    return Properties(packet_type)  # type: ignore[no-untyped-call] # paho leaves it untyped


def publish_properties(message: Outgoing, clock: Clock) -> Properties:
    """Return the properties that `message` has if it leaves now."""
    properties = properties_of(PacketTypes.PUBLISH)
    if message.correlation_data is not None:
        properties.CorrelationData = message.correlation_data
    if message.expires_monotonic is not None:
        left_s = message.expires_monotonic - clock.monotonic()
        # rounded up, a PASS could be handed on after its deadline
        properties.MessageExpiryInterval = max(1, math.floor(left_s))
    if message.user_properties:
        properties.UserProperty = list(message.user_properties)
    return properties


def packet_bytes(message: Outgoing, properties: Properties | None) -> int:
    """Return how long the whole PUBLISH of `message` is, which a Maximum Packet Size limits (MQTT 5, 3.2.2.3.6)."""
    packed = 0 if properties is None else len(properties.pack())  # type: ignore[no-untyped-call] # paho again
    topic_and_packet_id = 2 + len(message.topic.encode()) + 2
    remaining = topic_and_packet_id + packed + len(message.payload)
    length_bytes = max(1, math.ceil(remaining.bit_length() / _BITS_OF_A_LENGTH_BYTE))
    return 1 + length_bytes + remaining


def incoming(message: MQTTMessage, clock: Clock) -> Incoming:
    """Return what paho received, with the time."""
    properties = message.properties
    return Incoming(
        topic=message.topic,
        payload=bytes(message.payload),
        mid=message.mid,
        qos=message.qos,
        retain=message.retain,
        received_at=clock.now(),
        received_monotonic=clock.monotonic(),
        correlation_data=getattr(properties, "CorrelationData", None),
        response_topic=getattr(properties, "ResponseTopic", None),
        user_properties=tuple(getattr(properties, "UserProperty", ())),
    )
