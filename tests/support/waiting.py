"""Waiting for what has no event of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable


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


async def _holds(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    held = condition()
    return await held if inspect.isawaitable(held) else held
