"""When old events are forgotten."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from service.errors import JournalError
from service.ports import Clock

log = structlog.get_logger(__name__)

EVERY_S: Final = 600.0
_JUMP_S: Final = 3600.0
_STEADY_S: Final = 24 * 3600.0
"""A wall clock that has jumped may be wrong until somebody sees it: nothing is deleted by it for this long. So may one
that says at the start that nothing came for as long."""


def since_boot_s() -> float:
    """Return how long the machine has run, its sleep counted in."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Retention:
    """Forgets what is older than `keep`, by a wall clock that has not jumped of late.

    Args:
        forget: deletes what was received before a time and returns how much that was; may raise JournalError.
        newest: returns when the last event was received, None: there is none; may raise JournalError.
        keep: how long events are kept.
        clock: the wall clock.
        steady_s: a clock that nobody sets, and that goes on while the machine sleeps.
    """

    def __init__(
        self,
        forget: Callable[[datetime], Awaitable[int]],
        *,
        newest: Callable[[], Awaitable[datetime | None]],
        keep: timedelta,
        clock: Clock,
        steady_s: Callable[[], float] = since_boot_s,
    ) -> None:
        self._forget = forget
        self._newest = newest
        self._keep = keep
        self._clock = clock
        self._steady_s = steady_s
        self._ahead_s = self._wall_ahead_s()
        self._steady_since = -math.inf

    async def run(self) -> None:
        """Look at it every `EVERY_S` until cancelled."""
        await self.begin()
        while True:
            await asyncio.sleep(EVERY_S)
            await self.once()

    async def begin(self) -> None:
        """Look whether the clock goes on where it was when the last event came."""
        try:
            newest = await self._newest()
        except JournalError as exc:
            log.error("journal_retention_failed", error=str(exc))
            return
        idle_s = 0.0 if newest is None else (self._clock.now() - newest).total_seconds()
        if idle_s >= _STEADY_S:
            self._wait(idle_s)

    async def once(self) -> None:
        """Forget what is due, or say why nothing is."""
        ahead_s, jumped_s = self._wall_ahead_s(), self._wall_ahead_s() - self._ahead_s
        if abs(jumped_s) > _JUMP_S:
            self._ahead_s = ahead_s
            self._wait(jumped_s)
        if self._steady_s() - self._steady_since < _STEADY_S:
            return
        try:
            forgotten = await self._forget(self._clock.now() - self._keep)
        except JournalError as exc:
            log.error("journal_retention_failed", error=str(exc))
        else:
            log.info("journal_retention", forgotten=forgotten)

    def _wait(self, jumped_s: float) -> None:
        self._steady_since = self._steady_s()
        log.warning("journal_retention_waits", clock_jumped_s=round(jumped_s), for_s=_STEADY_S)

    def _wall_ahead_s(self) -> float:
        return self._clock.now().timestamp() - self._steady_s()
