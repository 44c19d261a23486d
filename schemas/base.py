"""What every model of this package has in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, PlainSerializer


def rfc3339(moment: datetime) -> str:
    """Return `moment` as RFC 3339 UTC with milliseconds and `Z`, the one way times are written on a wire."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:  # year 1 or 9999 with an offset: pydantic turns a ValueError into a validation error
        raise ValueError("the time lies outside the calendar in UTC") from exc


UtcDatetime = Annotated[
    AwareDatetime,
    AfterValidator(_in_utc),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
]
"""An aware point in time: read with any offset, kept in UTC, written with `Z`. A time without offset is invalid."""


class Value(BaseModel):
    """An immutable value that refuses unknown fields: settings, recipes, manifests."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(BaseModel):
    """Something that travels: exact types, and a reader ignores fields it does not know (contract section 2)."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    def to_json(self) -> bytes:
        """Return the message as UTF-8 JSON, the bytes that are published and stored."""
        return self.model_dump_json(by_alias=True).encode()
