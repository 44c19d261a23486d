"""What subscribers are told, as it is on the wire: each value and each field of an event encoded once for all of them.

asyncua builds each notification from defaults that it throws away, and encodes every value anew for every client.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final, TypeAlias

from asyncua import ua
from asyncua.common.events import Event
from asyncua.ua.ua_binary import to_binary

_EVENTS: Final = ua.NodeId(ua.Int32(ua.ObjectIds.EventNotificationList_Encoding_DefaultBinary))

MAX_NOTIFICATION: Final = 1024 * 1024
"""Bytes of one message; what is more waits for the next."""

_MAX_EVENT: Final = 256 * 1024  # bytes; fields beyond say that they are too large
_TOO_LARGE: Final = to_binary(
    ua.Variant, ua.Variant(ua.StatusCode(ua.UInt32(ua.StatusCodes.BadEncodingLimitsExceeded)))
)

FieldKey: TypeAlias = tuple[tuple[tuple[int, str | None], ...], int]
"""What tells one field of an event from another."""


class WrittenValue(ua.DataValue):
    """A value that nobody changes once it is written: subscriptions share it, and its encoding."""

    @cached_property
    def stamped(self) -> dict[ua.TimestampsToReturn, WrittenValue]:
        """Return what is kept of it with the timestamps that subscribers and readers have asked for."""
        return {}

    @cached_property
    def encoded(self) -> bytes:
        """Return it as it is on the wire (OPC 10000-6, 5.2.2.17)."""
        return to_binary(ua.DataValue, self)

    def is_news_after(self, before: ua.DataValue | None) -> bool:
        """Tell whether who was told of `before` must be told of this."""
        return before is None or before.Value != self.Value or before.StatusCode != self.StatusCode


class ResultValue(WrittenValue):
    """A value that belongs to one result, or says that it has none yet."""


class ResultEnd(WrittenValue):
    """The ResultSeq of one result, written when all of its values are."""

    def is_news_after(self, before: ua.DataValue | None) -> bool:  # noqa: ARG002 - whatever it was
        """Tell that each result is news: a PLC that asks again for the last one waits for the end of it, too."""
        return True


def field_key(field: ua.SimpleAttributeOperand) -> FieldKey:
    """Return what tells a field from another."""
    return tuple((step.NamespaceIndex, step.Name) for step in field.BrowsePath), int(field.AttributeId)


def encode_event(
    event: Event,
    selected: Iterable[tuple[FieldKey, ua.SimpleAttributeOperand]],
    client_handle: int,
    known: dict[FieldKey, bytes],
) -> bytes:
    """Return an EventFieldList (OPC 10000-4, 7.25.3); `known` has the fields that are encoded, and takes the others."""
    parts: list[bytes] = []
    left = _MAX_EVENT
    for key, field in selected:
        if key not in known:
            known[key] = b"".join(to_binary(ua.Variant, value) for value in event.to_event_fields([field]))
        part = known[key] if len(known[key]) <= left else _TOO_LARGE
        left -= len(part)
        parts.append(part)
    return struct.pack("<Ii", client_handle, len(parts)) + b"".join(parts)


def event_list(encoded: Sequence[bytes]) -> ua.ExtensionObject:
    """Return an EventNotificationList (OPC 10000-4, 7.25.3) of encoded events."""
    return ua.ExtensionObject(_EVENTS, Body=ua.ByteString(struct.pack("<i", len(encoded)) + b"".join(encoded)))


def size_of(result: ua.PublishResult) -> int:
    """Return how many bytes a message tells."""
    parts = result.NotificationMessage.NotificationData
    return sum(len(part.Body) for part in parts if isinstance(part, ua.ExtensionObject) and part.Body)
