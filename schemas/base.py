"""What every model of this package has in common."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, PlainSerializer

_RFC_3339 = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<minute>([01]\d|2[0-3]):[0-5]\d):(?P<second>[0-5]\d|60)(?P<fraction>\.\d+)?"
    r"(?P<offset>[Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
"""RFC 3339 section 5.6, with the small letters and the blank that its notes allow."""


def rfc3339(moment: datetime) -> str:
    """Return `moment` as RFC 3339 UTC with milliseconds and `Z`, the one way times are written on a wire."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def whole_ms(moment: datetime) -> datetime:
    """Return `moment` as `rfc3339` writes it, without what is below a millisecond."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _from_text(value: object) -> object:
    """Return the moment that an RFC 3339 text means; a leap second, which our calendar lacks, as the end of its minute.

    A library's own reading takes more: numbers of seconds, commas, times without seconds.
    """
    if not isinstance(value, str):
        return value
    found = _RFC_3339.fullmatch(value)
    if found is None:
        raise ValueError("no RFC 3339 time such as 2026-01-31T08:00:00.000Z")
    leaps = found["second"] == "60"
    second = "59.999" if leaps else found["second"] + (found["fraction"] or "")
    moment = datetime.fromisoformat(f"{found['date']}T{found['minute']}:{second}{found['offset'].upper()}")
    if leaps and _in_utc(moment).strftime("%H:%M") != "23:59":
        raise ValueError("a leap second ends a day in UTC")
    return moment


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:  # year 1 or 9999 with an offset: pydantic turns a ValueError into a validation error
        raise ValueError("the time lies outside the calendar in UTC") from exc


UtcDatetime = Annotated[
    AwareDatetime,
    BeforeValidator(_from_text),
    AfterValidator(_in_utc),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
]
"""An aware point in time: read as RFC 3339 with any offset, kept in UTC, written with `Z`."""


class Value(BaseModel):
    """An immutable value that refuses unknown fields: settings, recipes, manifests."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(BaseModel):
    """Something that travels: exact types, and a reader ignores fields it does not know (contract section 2)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False, serialize_by_alias=True)

    def to_json(self) -> bytes:
        """Return the message as UTF-8 JSON, the bytes that are published and stored."""
        return self.model_dump_json(by_alias=True).encode()
