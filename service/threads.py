"""Threads for calls that block: they never keep the process from ending, and one that hangs is replaced."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")

_SWITCH_INTERVAL_S: Final = 0.0001
"""Python's own 5 ms is more than the whole way of a verdict out, and every hand-over between threads may cost it: a
verdict changes threads a dozen times, and a frame takes the interpreter back after each call of OpenCV.
"""


def share_interpreter() -> None:
    """Let no thread keep the interpreter from the event loop for long, nor the event loop from the others."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


class ThreadStuck(Exception):
    """A call took too long; nobody waits for it any more, and its thread was replaced."""


@dataclass(slots=True, eq=False)
class _Call:
    run: Callable[[], Any]
    outcome: asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class _Worker:
    """One thread. busy_since: when its call began, None while it waits for one. forgiven_s: of that, not its fault."""

    call: _Call | None = None
    busy_since: float | None = None
    forgiven_s: float = 0.0
    abandoned: threading.Event = field(default_factory=threading.Event)


class DaemonThreads:
    """A fixed number of threads that take calls in turn.

    `concurrent.futures` waits for its threads at the end of the process, for ever where one hangs in a driver or on a
    network drive; these are left behind. A thread cannot be ended from outside: one that hangs is abandoned, its caller
    gets ThreadStuck and a fresh thread takes its place.
    """

    def __init__(self, name: str, count: int = 1) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._workers: list[_Worker] = []
        self._abandoned: list[_Worker] = []
        for _ in range(count):
            self._start()

    @property
    def busy_for_s(self) -> float:
        """Return how long the longest call in work has taken so far, 0.0 where there is none."""
        return max((_age(worker) for worker in self._workers), default=0.0)

    @property
    def hanging(self) -> int:
        """Return how many threads were abandoned and have not come back since."""
        self._abandoned = [worker for worker in self._abandoned if worker.busy_since is not None]
        return len(self._abandoned)

    def submit(self, run: Callable[[], T]) -> asyncio.Future[T]:
        """Return what `run` returns, or raises; call on the event loop. A cancelled call that waits is not begun."""
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.call(run, outcome)
        return outcome

    def call(self, run: Callable[[], T], outcome: asyncio.Future[T]) -> None:
        """Do as `submit` with a future that was made on the event loop; may be called on any thread."""
        self._calls.put(_Call(run, outcome))

    def forgive(self, seconds: float) -> None:
        """Do not count the last `seconds` as taken by the calls in work: nothing in this process got any further."""
        for worker in self._workers:
            worker.forgiven_s += min(seconds, _age(worker))  # one that began since has taken no more than that

    def replace_stuck(self, limit_s: float) -> int:
        """Replace threads whose call takes longer than `limit_s`; return how many. Call on the event loop."""
        stuck = [worker for worker in self._workers if _age(worker) > limit_s]
        for worker in stuck:
            call = worker.call
            worker.abandoned.set()
            self._workers.remove(worker)
            self._abandoned.append(worker)
            self._start()
            log.error("thread_replaced", thread=self._name, after_s=round(_age(worker), 1))
            if call is not None and not call.outcome.done():
                call.outcome.set_exception(ThreadStuck(f"no answer within {limit_s:g} s"))
        return len(stuck)

    def close(self) -> None:
        """Let the threads end after the call that each has in work."""
        for _ in self._workers:
            self._calls.put(None)

    def _start(self) -> None:
        worker = _Worker()
        self._workers.append(worker)
        threading.Thread(target=self._serve, args=(worker,), name=self._name, daemon=True).start()

    def _serve(self, worker: _Worker) -> None:
        while not worker.abandoned.is_set():
            call = self._calls.get()
            if call is None:
                return
            if call.outcome.cancelled():
                continue
            worker.call, worker.forgiven_s, worker.busy_since = call, 0.0, time.monotonic()
            try:
                settle = partial(_settle, call.outcome, call.run())
            except BaseException as exc:  # noqa: BLE001 - whatever it is, the caller gets it; the thread lives on
                settle = partial(_fail, call.outcome, exc)
            worker.call = worker.busy_since = None
            with suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
                call.outcome.get_loop().call_soon_threadsafe(settle)
            del call, settle  # a frame must not live on until the next call


def _age(worker: _Worker) -> float:
    since = worker.busy_since
    return 0.0 if since is None else time.monotonic() - since - worker.forgiven_s


def _settle(outcome: asyncio.Future[T], result: T) -> None:
    if not outcome.done():
        outcome.set_result(result)


def _fail(outcome: asyncio.Future[Any], error: BaseException) -> None:
    if not outcome.done():
        outcome.set_exception(error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}"))
