"""Who sends what on which MQTT topic: contract section 2, for the documents that are written of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.base import Message
from schemas.messages import Command, CommandReply, GateCommand, ImageEvent, ImageReady, Status, Verdict
from schemas.topics import Leaf


@dataclass(frozen=True, slots=True)
class Topic:
    """One row: `sender` and `payload` as the reference says them, `name` and `summary` as AsyncAPI does."""

    name: str
    message: type[Message]
    sender: str
    summary: str
    payload: str
    retain: bool = False

    @property
    def from_service(self) -> bool:
        """Tell whether the service sends it."""
        return self.sender == "service"


TOPICS: Mapping[Leaf, Topic] = {
    Leaf.IMAGE_READY: Topic(
        "imageReady",
        ImageReady,
        sender="camera",
        summary="A frame can be fetched. Acknowledged when its verdict is stored or with the broker.",
        payload="ImageReady",
    ),
    Leaf.IMAGE_READY_RAW: Topic(
        "imageReadyRaw",
        ImageEvent,
        sender="camera",
        summary="The encoded JPEG or PNG itself; what ImageReady says goes as MQTT 5 user properties.",
        payload="JPEG or PNG bytes; metadata as MQTT 5 user properties",
    ),
    Leaf.VERDICT: Topic(
        "verdict",
        Verdict,
        sender="service",
        summary="The one answer to an event. MQTT 5: its correlation data; expires with the deadline, 1 s at least.",
        payload="Verdict; correlation data echoed; expires with the deadline, at least 1 s",
    ),
    Leaf.GATE: Topic(
        "gate",
        GateCommand,
        sender="service",
        summary="What the reject gate must do; sent only while it may still be said. The same expiry.",
        payload="GateCommand; the same expiry",
    ),
    Leaf.STATUS: Topic(
        "status",
        Status,
        sender="service",
        summary="State of the station; the last will says offline.",
        payload="Status; the last will says offline",
        retain=True,
    ),
    Leaf.COMMAND: Topic(
        "command",
        Command,
        sender="anyone allowed",
        summary="An order to the station.",
        payload="Command",
    ),
    Leaf.REPLY: Topic(
        "reply",
        CommandReply,
        sender="service",
        summary="How a command went; to the response topic where the command names one.",
        payload="CommandReply; to the response topic where one is given that no station below this prefix speaks or "
        "listens on",
    ),
}
