"""What a recording holds: one event a part, with its frame, its verdict and, where somebody knows it, the truth."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from schemas.base import Message, UtcDatetime
from schemas.messages import Decision, EventId, ImageEvent, ImageRef, PartId, StationId

Truth = Literal[Decision.OK, Decision.DAMAGED]
"""What a part really was, where somebody has looked at it."""


class Track(StrEnum):
    """The channels of a recording; a channel's topic is `/{station}/{track}`."""

    SESSION = "session"
    EVENT = "event"
    FRAME = "frame"
    VERDICT = "verdict"
    LABEL = "label"


class SessionInfo(Message):
    """Where a recording comes from; the first message of each of its files."""

    schema_: Literal["cangate/session/1"] = Field(default="cangate/session/1", alias="schema")
    station: StationId
    created_at: UtcDatetime
    version: str
    origin: str = Field(description="service, mqtt, folder or simulator")


class RecordedEvent(ImageEvent):
    """An image-ready event as it arrived; the time of arrival is the log time of the message, in nanoseconds."""

    schema_: Literal["cangate/recorded-event/1"] = Field(default="cangate/recorded-event/1", alias="schema")
    image: ImageRef | None = None
    source: str = Field(description="the transport it came by")
    inline: bool = Field(default=False, description="the image came inside the message")
    frame_dropped: bool = Field(default=False, description="there was a frame, and no room to record it")


class RecordedLabel(Message):
    """What a part really was."""

    schema_: Literal["cangate/label/1"] = Field(default="cangate/label/1", alias="schema")
    event_id: EventId
    part_id: PartId | None = None
    label: Truth
