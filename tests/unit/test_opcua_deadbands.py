"""Which values a filter lets pass (OPC 10000-4, 7.22.2), each behind the last one that it let pass."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import cast

import pytest
from asyncua import ua
from asyncua.ua.uaprotocol_auto import DataChangeFilter

from adapters.opcua.server.subscriptions.filters import is_news

STATUS, VALUE, TIMESTAMP = (
    ua.DataChangeTrigger.Status,
    ua.DataChangeTrigger.StatusValue,
    ua.DataChangeTrigger.StatusValueTimestamp,
)
UNCERTAIN = ua.StatusCodes.UncertainLastUsableValue


def value(number: object, *, second: int = 0, status: int = ua.StatusCodes.Good) -> ua.DataValue:
    moment = cast("ua.DateTime", datetime(2026, 1, 1, second=second, tzinfo=UTC))
    variant = None if number is None else ua.Variant(number)
    return ua.DataValue(variant, ua.StatusCode(ua.UInt32(status)), SourceTimestamp=moment)


def chosen(trigger: ua.DataChangeTrigger, deadband: float | None = None) -> DataChangeFilter:
    kind = ua.DeadbandType.None_ if deadband is None else ua.DeadbandType.Absolute
    return DataChangeFilter(trigger, ua.UInt32(kind), ua.Double(deadband or 0.0))


@pytest.mark.parametrize(
    ("wanted", "before", "now", "passes"),
    [
        (None, None, value(1), True),
        (None, value(1), value(1, second=1), False),
        (None, value(1), value(2), True),
        (chosen(STATUS), value(1), value(2), False),
        (chosen(STATUS), value(1), value(1, status=UNCERTAIN), True),
        (chosen(VALUE), value(1), value(1, second=1), False),
        (chosen(TIMESTAMP), value(1), value(1, second=1), True),
        (chosen(VALUE, 1.0), value(1), value(2), False),
        (chosen(VALUE, 1.0), value(1), value(2.5), True),
        (chosen(VALUE, 1.0), value(2.5), value(1), True),
        (chosen(VALUE, 0.0), value(1), value(1), False),
        (chosen(VALUE, 0.0), value(1), value(2), True),
        (chosen(TIMESTAMP, 1.0), value(1), value(1, second=1), False),
        (chosen(VALUE, 9.0), value(1), value(1, status=UNCERTAIN), True),
        (chosen(VALUE, 9.0), value(1), value(None), True),
        (chosen(VALUE, 9.0), value(None), value(1), True),
        (chosen(VALUE, 9.0), value(1.0), value(math.nan), True),
        (chosen(VALUE, 9.0), value("a"), value("b"), True),
        (chosen(VALUE, 9.0), value("a"), value("a"), False),
    ],
)
def test_value_passes_where_it_differs_as_the_filter_says(
    wanted: DataChangeFilter | None, before: ua.DataValue | None, now: ua.DataValue, passes: bool
) -> None:
    """A change of its status always does, whatever the deadband; what comes or goes has no distance."""
    assert is_news(wanted, before, now) is passes
