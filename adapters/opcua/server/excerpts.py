"""What of a value a client asked for: which part, in which encoding, with which timestamps.

ReadValueId, NumericRange and TimestampsToReturn of OPC 10000-4, 7; asyncua 2.1 looks at none of them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, TypeVar, cast

from asyncua import ua
from asyncua.common.utils import Buffer, ServiceError
from asyncua.ua.ua_binary import to_binary

from adapters.opcua.server.limits import request_type
from adapters.opcua.server.notifications import WrittenValue
from adapters.opcua.server.ranges import parse_range, part_of

_Value = TypeVar("_Value", bound=ua.DataValue)

_BOTH: Final = ua.TimestampsToReturn.Both
_WITH_SOURCE: Final = (ua.TimestampsToReturn.Source, _BOTH)
_WITH_SERVER: Final = (ua.TimestampsToReturn.Server, _BOTH)
_STAMPS: Final = frozenset(
    int(one).to_bytes(4, "little") for one in ua.TimestampsToReturn if one is not ua.TimestampsToReturn.Invalid
)
_STAMPS_AT: Final = {
    request_type("Read"): 8,
    request_type("CreateMonitoredItems"): 4,
    request_type("ModifyMonitoredItems"): 4,
}
"""Where in a request's body its TimestampsToReturn stand (OPC 10000-4, 5)."""

_ENCODINGS: Final = frozenset({"Default Binary", "Default XML", "Default JSON"})
_OURS: Final = "Default Binary"
_NO_ATTRIBUTE: Final = frozenset({ua.StatusCodes.BadNodeIdUnknown, ua.StatusCodes.BadAttributeIdInvalid})
NEVER: Final = frozenset(
    {
        ua.StatusCodes.BadIndexRangeInvalid,
        ua.StatusCodes.BadDataEncodingInvalid,
        ua.StatusCodes.BadDataEncodingUnsupported,
    }
)
"""Statuses of an excerpt that no later value changes."""


def refuse_bad_stamps(typeid: ua.NodeId, body: Buffer) -> None:
    """Look at which timestamps a request wants before it is made an object. Raises ServiceError."""
    at = _STAMPS_AT.get(typeid)
    if at is not None and body.copy().read(at + 4)[at:] not in _STAMPS:
        raise ServiceError(ua.StatusCodes.BadTimestampsToReturnInvalid)


def asks_for_excerpt(wanted: ua.ReadValueId) -> bool:
    """Tell whether a part or an encoding is asked for, and not the value as it is."""
    return bool(wanted.IndexRange or wanted.DataEncoding.Name)


def excerpt(value: ua.DataValue, wanted: ua.ReadValueId) -> ua.DataValue:
    """Return what is asked for of an attribute's value, or the status that says why there is none."""
    status = value.StatusCode
    if status is not None and status.value in _NO_ATTRIBUTE:
        return value
    ranges = parse_range(wanted.IndexRange) if wanted.IndexRange else ()
    fault = _fault(wanted, ranges)
    if fault is None:
        if status is not None and status.is_bad():
            return value
        fault = _encoding_fault(value.Value, wanted.DataEncoding.Name)
    if fault is not None:
        return _without_value(value, fault)
    return _part(value, ranges) if ranges else value


def encoded(value: ua.DataValue, stamps: ua.TimestampsToReturn) -> bytes:
    """Return a value with these timestamps as it is on the wire."""
    shown = with_stamps(value, stamps)
    return shown.encoded if isinstance(shown, WrittenValue) else to_binary(ua.DataValue, shown)


def with_stamps(value: ua.DataValue, stamps: ua.TimestampsToReturn) -> ua.DataValue:
    """Return a value with these timestamps; who asks for the server's gets one (OPC 10000-4, 7.11.4)."""
    if stamps is _BOTH and value.ServerTimestamp is not None:
        return value
    if not isinstance(value, WrittenValue):
        return _stamped(value, stamps)
    if stamps not in value.stamped:  # not anew for each subscriber
        value.stamped[stamps] = _stamped(value, stamps)
    return value.stamped[stamps]


def as_written(value: ua.DataValue) -> WrittenValue:
    """Return a value of asyncua's as one that can be shared: it writes another, and changes none that is written."""
    if isinstance(value, WrittenValue):
        return value
    source, server = value.SourceTimestamp, value.ServerTimestamp
    return WrittenValue(value.Value, value.StatusCode, source, server, value.SourcePicoseconds, value.ServerPicoseconds)


def _stamped(value: _Value, stamps: ua.TimestampsToReturn) -> _Value:
    has_source, has_server = stamps in _WITH_SOURCE, stamps in _WITH_SERVER
    return replace(
        value,
        SourceTimestamp=value.SourceTimestamp if has_source else None,
        SourcePicoseconds=value.SourcePicoseconds if has_source else None,
        ServerTimestamp=(value.ServerTimestamp or cast("ua.DateTime", datetime.now(UTC))) if has_server else None,
        ServerPicoseconds=value.ServerPicoseconds if has_server else None,
    )


def _fault(wanted: ua.ReadValueId, ranges: tuple[slice, ...] | None) -> int | None:
    """Return what is wrong with a wish, whatever the value is."""
    is_value = wanted.AttributeId == ua.AttributeIds.Value
    if ranges is None:
        return ua.StatusCodes.BadIndexRangeInvalid
    if ranges and not is_value:
        return ua.StatusCodes.BadIndexRangeNoData
    name = wanted.DataEncoding
    if name.Name and not (is_value and name.NamespaceIndex == 0 and name.Name in _ENCODINGS):
        return ua.StatusCodes.BadDataEncodingInvalid
    return None


def _encoding_fault(content: ua.Variant | None, encoding: str | None) -> int | None:
    if not encoding:
        return None
    if content is None or content.VariantType is not ua.VariantType.ExtensionObject:
        return ua.StatusCodes.BadDataEncodingInvalid
    return None if encoding == _OURS else ua.StatusCodes.BadDataEncodingUnsupported


def _part(value: ua.DataValue, ranges: tuple[slice, ...]) -> ua.DataValue:
    whole = value.Value
    if whole is None or whole.Value is None:
        return _without_value(value, ua.StatusCodes.BadIndexRangeNoData)
    try:
        part = part_of(whole.Value, ranges)
    except (IndexError, TypeError):  # BadIndexRangeInvalid is for what is no range, and nothing else
        return _without_value(value, ua.StatusCodes.BadIndexRangeNoData)
    return replace(value, Value=ua.Variant(part, whole.VariantType))


def _without_value(value: ua.DataValue, code: int) -> ua.DataValue:
    return replace(value, Value=ua.Variant(), StatusCode=ua.StatusCode(ua.UInt32(code)))
