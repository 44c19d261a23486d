"""What a client asked for of a value is the same whether it is cut from the wire or from the value."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary

from adapters.opcua.server.excerpts import encoded, excerpt, with_stamps
from adapters.opcua.server.notifications import ResultValue

SOURCE, SERVER = (cast("ua.DateTime", datetime(2026, 1, day, tzinfo=UTC)) for day in (1, 2))
BAD = ua.StatusCode(ua.UInt32(ua.StatusCodes.BadNoData))
KEPT = {
    ua.TimestampsToReturn.Source: (SOURCE, None),
    ua.TimestampsToReturn.Server: (None, SERVER),
    ua.TimestampsToReturn.Both: (SOURCE, SERVER),
    ua.TimestampsToReturn.Neither: (None, None),
}
VALUES = {
    "number": ua.Variant(5, ua.VariantType.UInt32),
    "texts": ua.Variant(["a", "b"], ua.VariantType.String),
    "nothing": ua.Variant(),
}


@pytest.mark.parametrize("kind", [ua.DataValue, ResultValue])
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("stamps", KEPT)
def test_value_has_the_timestamps_that_are_asked_for(
    stamps: ua.TimestampsToReturn, name: str, kind: type[ua.DataValue]
) -> None:
    """On the wire and for a subscriber, of whose class it stays."""
    status = BAD if name == "nothing" else ua.StatusCode()
    value = kind(VALUES[name], status, SOURCE, SERVER)
    read = struct_from_binary(ua.DataValue, Buffer(encoded(value, stamps)))
    told = with_stamps(value, stamps)
    expected = (VALUES[name], status, *KEPT[stamps])
    for shown in (read, told):
        assert (shown.Value, shown.StatusCode, shown.SourceTimestamp, shown.ServerTimestamp) == expected
    assert type(told) is kind
    if isinstance(told, ResultValue):
        assert told.encoded == encoded(value, stamps)
        assert with_stamps(value, stamps) is told  # the same for each subscriber


@pytest.mark.parametrize("stamps", KEPT)
def test_server_timestamp_is_made_for_who_asks_and_for_nobody_else(stamps: ua.TimestampsToReturn) -> None:
    """Most values of the standard's address space have none."""
    shown = with_stamps(ua.DataValue(VALUES["number"]), stamps)
    assert (shown.ServerTimestamp is not None) is (KEPT[stamps][1] is not None)


def test_picoseconds_go_with_their_timestamp() -> None:
    """A value of asyncua's may have them."""
    value = ua.DataValue(VALUES["number"], ua.StatusCode(), SOURCE, SERVER, ua.UInt16(1), ua.UInt16(2))
    assert with_stamps(value, ua.TimestampsToReturn.Neither) == ua.DataValue(VALUES["number"])


@pytest.mark.parametrize(
    ("content", "text", "expected"),
    [
        (ua.Variant([1, 2, 3], ua.VariantType.Int32), "1:5", ua.Variant([2, 3], ua.VariantType.Int32)),
        (ua.Variant([[1, 2], [3, 4]], ua.VariantType.Int32), "1,0:1", ua.Variant([[3, 4]], ua.VariantType.Int32)),
        (ua.Variant("abc", ua.VariantType.String), "1", ua.Variant("b", ua.VariantType.String)),
        (ua.Variant(b"abc", ua.VariantType.ByteString), "1:2", ua.Variant(b"bc", ua.VariantType.ByteString)),
        (ua.Variant([True], ua.VariantType.Boolean), "1", "BadIndexRangeNoData"),
        (ua.Variant([], ua.VariantType.Int32), "0", "BadIndexRangeNoData"),
        (ua.Variant(None, ua.VariantType.String), "0", "BadIndexRangeNoData"),
        (ua.Variant(5, ua.VariantType.UInt32), "0", "BadIndexRangeNoData"),
    ],
)
def test_part_keeps_type_class_and_timestamps(content: ua.Variant, text: str, expected: ua.Variant | str) -> None:
    """Where there is none, its status says so."""
    wanted = ua.ReadValueId(AttributeId=ua.AttributeIds.Value, IndexRange=text)
    shown = excerpt(ResultValue(content, ua.StatusCode(), SOURCE, SERVER), wanted)
    assert (type(shown), shown.SourceTimestamp, shown.ServerTimestamp) == (ResultValue, SOURCE, SERVER)
    assert shown.StatusCode is not None
    if isinstance(expected, str):
        assert (shown.Value, shown.StatusCode.name) == (ua.Variant(), expected)
    else:
        assert (shown.Value, shown.StatusCode.name) == (expected, "Good")
        assert shown.Value is not None
        assert (shown.Value.is_array, shown.Value.Dimensions) == (expected.is_array, expected.Dimensions)
    assert struct_from_binary(ua.DataValue, Buffer(encoded(shown, ua.TimestampsToReturn.Both))).Value == shown.Value


def test_value_that_is_bad_stays_as_it_is_but_for_a_wish_that_is() -> None:
    """What never makes sense is told apart from what has no value yet."""
    value = ua.DataValue(ua.Variant(), BAD)
    assert excerpt(value, ua.ReadValueId(AttributeId=ua.AttributeIds.Value, IndexRange="0")) is value
    shown = excerpt(value, ua.ReadValueId(AttributeId=ua.AttributeIds.Value, IndexRange="x"))
    assert shown.StatusCode == ua.StatusCode(ua.UInt32(ua.StatusCodes.BadIndexRangeInvalid))
