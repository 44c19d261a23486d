"""Threads that may hang."""

from __future__ import annotations

import asyncio
import sys
import threading
from functools import partial

import pytest

from service.threads import DaemonThreads, ThreadStuck
from tests.support.waiting import eventually


async def test_threads_return_and_raise_what_the_call_does() -> None:
    """A result is a result, an exception an exception, and the thread goes on."""
    threads = DaemonThreads("test")
    assert await threads.submit(lambda: 41 + 1) == 42
    with pytest.raises(ZeroDivisionError):
        await threads.submit(lambda: 1 // 0)
    with pytest.raises(RuntimeError, match="SystemExit"):
        await threads.submit(sys.exit)
    assert await threads.submit(lambda: threading.current_thread().daemon) is True
    threads.close()


async def test_threads_run_calls_in_their_order() -> None:
    """One thread takes one call after another."""
    threads = DaemonThreads("test")
    done: list[int] = []
    await asyncio.gather(*(threads.submit(partial(done.append, number)) for number in range(100)))
    assert done == list(range(100))
    threads.close()


async def test_threads_replace_one_that_hangs() -> None:
    """Its caller is told, a fresh one takes the next call, and what the old one brings in the end is ignored."""
    threads = DaemonThreads("test")
    release = threading.Event()
    hanging = threads.submit(release.wait)
    await eventually(lambda: threads.busy_for_s > 0.02)
    waiting = threads.submit(lambda: "next")
    assert threads.replace_stuck(60.0) == 0
    assert threads.replace_stuck(0.01) == 1
    with pytest.raises(ThreadStuck):
        await hanging
    assert await waiting == "next"
    assert threads.hanging == 1
    release.set()
    await eventually(lambda: threads.hanging == 0)
    assert await threads.submit(lambda: "and on") == "and on"
    threads.close()


async def test_time_in_which_the_process_stood_still_is_no_threads_fault() -> None:
    """A call that was in work then is given that much more; the next one is not."""
    threads = DaemonThreads("test")
    release = threading.Event()
    hanging = threads.submit(release.wait)
    await eventually(lambda: threads.busy_for_s > 0.02)
    threads.forgive(60.0)
    assert threads.replace_stuck(0.01) == 0
    release.set()
    assert await hanging
    release.clear()
    begun_since = threads.submit(release.wait)
    await eventually(lambda: threads.busy_for_s > 0)
    threads.forgive(60.0)
    await eventually(lambda: threads.replace_stuck(0.05) == 1)
    with pytest.raises(ThreadStuck):
        await begun_since
    release.set()
    threads.close()


async def test_threads_do_not_begin_what_nobody_waits_for() -> None:
    """A call that was cancelled while it waited is not begun."""
    threads = DaemonThreads("test")
    release = threading.Event()
    begun: list[bool] = []
    first = threads.submit(release.wait)
    second = threads.submit(lambda: begun.append(True))
    second.cancel()
    release.set()
    await first
    assert await threads.submit(lambda: len(begun)) == 0
    threads.close()
