"""When old events are forgotten."""

from __future__ import annotations

import asyncio
import math
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
"""A wall clock that has jumped may be wrong until somebody sees it: nothing is deleted by it for this long."""


class Retention:
    """Forgets what is older than `keep`, by a wall clock that has not jumped of late.

    Args:
        forget: deletes what was received before a time and returns how much that was; may raise JournalError.
        keep: how long events are kept.
        clock: both clocks.
    """

    def __init__(self, forget: Callable[[datetime], Awaitable[int]], *, keep: timedelta, clock: Clock) -> None:
        self._forget = forget
        self._keep = keep
        self._clock = clock
        self._ahead_s = self._wall_ahead_s()
        self._steady_since = -math.inf

    async def run(self) -> None:
        """Look at it every `EVERY_S` until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.once()

    async def once(self) -> None:
        """Forget what is due, or say why nothing is."""
        ahead_s, jumped_s = self._wall_ahead_s(), self._wall_ahead_s() - self._ahead_s
        if abs(jumped_s) > _JUMP_S:
            self._ahead_s, self._steady_since = ahead_s, self._clock.monotonic()
            log.warning("journal_retention_waits", clock_jumped_s=round(jumped_s), for_s=_STEADY_S)
        if self._clock.monotonic() - self._steady_since < _STEADY_S:
            return
        try:
            forgotten = await self._forget(self._clock.now() - self._keep)
        except JournalError as exc:
            log.error("journal_retention_failed", error=str(exc))
        else:
            log.info("journal_retention", forgotten=forgotten)

    def _wall_ahead_s(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()
