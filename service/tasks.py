"""Tasks that must not end in silence, not even where a library raises a cancellation of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

NamedTask = tuple[str, Callable[[], Awaitable[None]]]
"""A name, and what runs for ever under it."""

_RESTART_S = (0.1, 5.0)


def was_cancelled() -> bool:
    """Tell whether the running task was cancelled; a CancelledError is a library's own, and a fault, where not."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def supervise(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Keep `run` running: a defect ends in a log entry and a fresh start, never in silence."""
    first, longest = _RESTART_S
    delay = first
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await run()
            log.error("task_ended", task=name)
        except asyncio.CancelledError:
            if was_cancelled():
                raise
            log.exception("task_crashed", task=name)
        except Exception:  # the supervised boundary: a defect ends in a log entry and a fresh start
            log.exception("task_crashed", task=name)
        if loop.time() - began > 60:
            delay = first
        await asyncio.sleep(delay)
        delay = min(longest, delay * 2)


async def together(*tasks: NamedTask) -> None:
    """Run tasks side by side until cancelled; where one of them ends, in whatever way, all do, and this raises.

    A TaskGroup alone goes on without a task that a stray cancellation has ended.
    """
    async with asyncio.TaskGroup() as group:
        for name, run in tasks:
            group.create_task(_for_good(name, run), name=name)


async def _for_good(name: str, run: Callable[[], Awaitable[None]]) -> None:
    try:
        await run()
    except asyncio.CancelledError as exc:
        if was_cancelled():
            raise
        raise RuntimeError(f"{name}: cancelled by nobody") from exc
    raise RuntimeError(f"{name}: ended")
