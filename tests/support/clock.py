"""A clock that stands still until a test turns it."""

from __future__ import annotations

from datetime import UTC, datetime


class HandClock:
    """A clock that a test turns by hand."""

    epoch = "test"

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return self.seconds
