"""Waiting for what has no event of its own."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 20.0, *, every_s: float = 0.002
) -> None:
    """Return as soon as `condition` holds. Raises TimeoutError where it never does."""
    async with asyncio.timeout(timeout_s):
        while not await _holds(condition):  # noqa: ASYNC110 - the one place for conditions that nothing announces
            await asyncio.sleep(every_s)


async def loop_turns(count: int) -> None:
    """Let the event loop go round so many times, to stop something at one of its steps; nothing is waited for."""
    for _ in range(count):
        await asyncio.sleep(0)


class Standstill:
    """Notes for how long at most the event loop, and with it the machine, stood still: a shared one is paused at times.

    What must be there in time can be judged only where it did not.
    """

    _TICK_S = 0.02

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> Self:
        self._set()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def _set(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._TICK_S, self._ring)

    def _ring(self) -> None:
        self.longest_s = max(self.longest_s, time.monotonic() - self._timer.when())
        self._set()


async def _holds(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    held = condition()
    return await held if inspect.isawaitable(held) else held
