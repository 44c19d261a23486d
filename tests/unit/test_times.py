"""Times on the wire: RFC 3339, and nothing else."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.base import UtcDatetime, rfc3339

_TIME: TypeAdapter[datetime] = TypeAdapter(UtcDatetime)
_offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_moments = st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001 - the strategy adds the offset
    datetime(9999, 12, 29),  # noqa: DTZ001 - the same
    timezones=_offsets,
)


def _read(text: str) -> datetime:
    return _TIME.validate_json(json.dumps(text), strict=True)


@given(_moments, st.sampled_from("Tt "))
def test_every_rfc_3339_time_is_read(moment: datetime, between: str) -> None:
    """With any offset, and any of the letters that RFC 3339 allows."""
    assert _read(moment.isoformat(sep=between)) == moment
    in_utc = moment.astimezone(UTC).isoformat(sep=between).removesuffix("+00:00")
    assert _read(in_utc + "Z") == _read(in_utc + "z") == _read(in_utc + "-00:00") == moment


@given(_moments)
def test_what_is_written_is_read(moment: datetime) -> None:
    """A time keeps its milliseconds through any number of journals and manifests."""
    written = rfc3339(moment)
    assert rfc3339(_read(written)) == written
    assert json.loads(_TIME.dump_json(_read(written))) == written


@given(st.from_regex(r"\A[0-9]{4}.?[0-9]{2}.?[0-9]{2}.?[0-9]{2}(.?[0-9]{2}){0,2}([.,][0-9]{0,9})?.{0,6}\Z") | st.text())
def test_no_other_text_is_read(text: str) -> None:
    """Nor does any text raise anything else than what refuses the field."""
    try:
        _read(text)
    except ValidationError:
        return
    assert re.fullmatch(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})", text
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1700000000",
        "1700000000000",
        "2026-01-31",
        "2026-01-31T08:00:00",
        "2026-01-31T08:00Z",
        "2026-01-31T08:00:00,5Z",
        "2026-01-31T08:00:00.Z",
        "2026-01-31_08:00:00Z",
        "2026-01-31T08:00:00+0200",
        "2026-01-31T08:00:00+02",
        "2026-01-31T08:00:00+24:00",
        "2026-01-31T08:00:00+02:60",
        "2026-01-31T24:00:00Z",
        "2026-01-31T08:00:61Z",
        "2026-02-30T08:00:00Z",
        "0000-01-01T00:00:00Z",
        "20260131T080000Z",
        "2026-01-31T08:00:00Z\n",
        "2026-01-31T08:00:0\u0667Z",
    ],
)
def test_what_only_looks_like_a_time_is_refused(text: str) -> None:
    """Each of them is taken somewhere, and by no RFC."""
    with pytest.raises(ValidationError):
        _read(text)


def test_numbers_are_no_times() -> None:
    """Seconds since when, nobody says."""
    with pytest.raises(ValidationError):
        _TIME.validate_json("1700000000", strict=True)


@pytest.mark.parametrize(
    "text",
    ["2016-12-31T23:59:60Z", "2016-12-31T23:59:60.25Z", "2017-01-01T08:59:60+09:00", "2016-12-31t15:59:60-08:00"],
)
def test_leap_second_is_the_end_of_its_minute(text: str) -> None:
    """RFC 3339 allows it; our calendar has none."""
    assert _read(text) == datetime(2016, 12, 31, 23, 59, 59, 999_000, UTC)


@pytest.mark.parametrize(
    "text", ["2016-12-31T08:00:60Z", "2016-12-31T23:59:60+01:00", "0001-01-01T00:59:60+01:00", "2016-12-31T23:58:60Z"]
)
def test_leap_second_elsewhere_is_refused(text: str) -> None:
    """It ends a day in UTC."""
    with pytest.raises(ValidationError):
        _read(text)


def test_fraction_is_cut_to_microseconds() -> None:
    """However many digits a clock writes."""
    assert _read("2026-01-31T08:00:00.1234567890123Z") == datetime(2026, 1, 31, 8, 0, 0, 123_456, UTC)
