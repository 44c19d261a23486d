"""When a verdict is due."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from schemas.settings import DeadlineSettings, DeadlineStart
from service.ports import Arrival

_CLOCK_SKEW = timedelta(seconds=1)
"""A capture time further in the future than this is not believed (contract section 8)."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the gate must have been told.

    at: wall time, for the record. monotonic: the same moment in seconds of `Clock.monotonic`. decide_by: the moment,
    a margin earlier, at which a verdict that is still missing is declared missed, so that it arrives in time.
    """

    at: datetime
    monotonic: float
    decide_by: float

    @classmethod
    def of(cls, arrival: Arrival, settings: DeadlineSettings) -> Deadline:
        """Return the deadline of `arrival`: from its capture where that is known and believable, else from receipt."""
        allowed_ms = arrival.event.deadline_ms or settings.default_ms
        start = arrival.event.captured_at
        if settings.start is DeadlineStart.RECEIVED or start is None or start > arrival.received_at + _CLOCK_SKEW:
            start = arrival.received_at
        at = start + timedelta(milliseconds=allowed_ms)
        monotonic = arrival.received_monotonic + (at - arrival.received_at).total_seconds()
        margin_s = min(settings.margin_ms, allowed_ms / 4) / 1000
        return cls(at=at, monotonic=monotonic, decide_by=monotonic - margin_s)
