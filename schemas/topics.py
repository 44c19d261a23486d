"""MQTT topics of a station as validated types."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_STRING_BYTES = 65_535
"""Of a topic, or any other text of MQTT (MQTT 5 section 1.5.4)."""


class Leaf(StrEnum):
    """Last part of a topic; says what the payload is."""

    IMAGE_READY = "image-ready"
    IMAGE_READY_RAW = "image-ready/raw"
    VERDICT = "verdict"
    GATE = "gate"
    STATUS = "status"
    COMMAND = "cmd"
    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class Prefix:
    """The part of a topic that a plant chooses: one or more levels, e.g. `acme/plant1/filling/line1`.

    Raises:
        ValueError: where a level is empty, or holds a wildcard, a NUL or a leading `$`.
    """

    text: str

    def __post_init__(self) -> None:
        if any(character in self.text for character in "+#\0"):
            raise ValueError(f"topic prefix {self.text!r} holds a wildcard or a NUL")
        if not all(self.text.split("/")):
            raise ValueError(f"topic prefix {self.text!r} has an empty level")
        if self.text.startswith("$"):
            raise ValueError(f"topic prefix {self.text!r} begins with $, which brokers keep for themselves")
        if len(self.text.encode()) > MAX_STRING_BYTES // 2:
            raise ValueError("topic prefix is too long")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class StationTopics:
    """All topics of one station under one prefix."""

    prefix: Prefix
    station: str

    def of(self, leaf: Leaf) -> str:
        """Return the full topic of `leaf`."""
        return f"{self.prefix}/{self.station}/{leaf}"

    def subscription(self, leaf: Leaf, share_group: str = "") -> str:
        """Return the filter to subscribe with: shared (MQTT 5 section 4.8.2) where a group is named."""
        return f"$share/{share_group}/{self.of(leaf)}" if share_group else self.of(leaf)
