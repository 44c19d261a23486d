"""Which events were answered, and how, as far as memory reaches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import partial

from service.ports import Answer

_REMEMBERED, _REMEMBERED_CHARACTERS = 4096, 4_000_000
"""Answers kept in full, and of their event ids together, which may be long where an event is refused."""

EARLIER = 100_000
"""So many events that were answered longer ago, or by earlier runs, are known by a number each."""


class Earlier(Enum):
    """Who knows the answer to an event that was answered longer ago: the journal, or nobody any more."""

    JOURNALED = auto()
    LOST = auto()


@dataclass(slots=True, eq=False)
class CachedAnswer:
    """An event in work, or its answer.

    on_settled: called once it is known whether the journal has the answer. stored: whether it has; False where it never
    will.
    """

    on_settled: Callable[[], None]
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    stored: asyncio.Future[bool] | None = None

    def write(self, answer: Answer, stored: asyncio.Future[bool]) -> None:
        """Note the answer, without what the first asker sent along: whoever asks again has words of his own."""
        self.answer.set_result(replace(answer, asker=replace(answer.asker, correlation_data=None)))
        self.stored = stored
        if stored.done():
            self.on_settled()
        else:
            stored.add_done_callback(lambda _: self.on_settled())


class AnswerCache:
    """The answers of this run by event id, the last ones in full.

    An answer stays until the journal has it, however long that takes: what only memory knows must not be forgotten,
    since the event would be decided anew, and differently. The dispatcher bounds how many can wait to be stored; those
    that wait keep none behind them.
    """

    def __init__(self) -> None:
        self._cached: dict[str, CachedAnswer] = {}
        self._settled: deque[str] = deque()
        self._characters = 0
        self._earlier: dict[int, Earlier] = {}  # the oldest first

    def find(self, event_id: str) -> CachedAnswer | None:
        """Return what is known of an event that is in work or was answered lately."""
        return self._cached.get(event_id)

    def earlier(self, event_id: str) -> Earlier | None:
        """Tell who knows the answer to an event that was answered longer ago, or by an earlier run."""
        return self._earlier.get(hash(event_id))

    def take_up(self, event_ids: Iterable[str]) -> None:
        """Note events that earlier runs answered, the oldest first."""
        self._earlier = {hash(event_id): Earlier.JOURNALED for event_id in event_ids} | self._earlier
        self._forget_oldest()

    def begin(self, event_id: str) -> CachedAnswer:
        """Keep a place for the answer to a new event."""
        cached = self._cached[event_id] = CachedAnswer(partial(self._settled.append, event_id))
        self._characters += len(event_id)
        while self._settled and (len(self._cached) > _REMEMBERED or self._characters > _REMEMBERED_CHARACTERS):
            oldest = self._settled.popleft()
            stored = self._cached.pop(oldest).stored
            assert stored is not None, "it settled"
            self._characters -= len(oldest)
            self._earlier[hash(oldest)] = Earlier.JOURNALED if stored.result() else Earlier.LOST
            self._forget_oldest()
        return cached

    def _forget_oldest(self) -> None:
        while len(self._earlier) > EARLIER:
            del self._earlier[next(iter(self._earlier))]
