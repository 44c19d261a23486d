"""Clocks that a test turns."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class HandClock:
    """A clock that stands still until a test turns it."""

    epoch = "test"

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return self.seconds


class TurnedClock:
    """The machine's clock, and the running event loop's, which a test can turn forward.

    A deadline a minute away can then be let pass at a chosen moment, however busy the machine is.
    """

    epoch = "test"

    def __init__(self) -> None:
        self._ahead_s = 0.0
        # the loop of one test: it ends with it
        asyncio.get_running_loop().time = self.monotonic  # type: ignore[method-assign]

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s

    def turn(self, seconds: float) -> None:
        """Go forward; timers that are due by then ring at the loop's next turn."""
        self._ahead_s += seconds
