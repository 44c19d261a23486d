"""When a verdict is due, and how long before that a missed deadline must be declared to be heard in time."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from schemas.settings import DeadlineSettings, DeadlineStart
from service.ports import Arrival, Clock, JournalEntry

_CLOCK_SKEW = timedelta(seconds=1)
"""A capture time further in the future than this is not believed (contract section 8)."""

_LONG_AGO_S = 86_400.0
"""Longer than any deadline: the age of an event whose real age cannot be told."""


class Margin:
    """How long before a deadline a verdict that is still missing is declared missed, and a PASS must have left.

    seconds: before its deadline a verdict must be there. transit_s: the second part of that, in which it travels; what
    opens a gate leaves before that begins, or not at all. The first part is to store it and hand it on.

    With "auto" both parts are learned: to store and hand on a little more than 99 of 100 recent answers took, to
    travel a little more than any of the last minutes, since a PASS that comes late opens the gate for another part, and
    what holds an answer up is rare: hundreds a second may leave between two such moments. A first guess holds until
    there is something to learn from; the bounds keep a bad minute from eating up the time to inspect.
    """

    _FIRST_GUESS_S = 0.025
    _SHORTEST_S, _LONGEST_S = 0.005, 0.1
    _ENOUGH = 20
    _SPARE = 1.25
    _REMEMBERED_S = 300.0

    def __init__(self, setting: int | Literal["auto"], *, clock: Clock) -> None:
        self._learns = setting == "auto"
        self._clock = clock
        self.seconds = self._FIRST_GUESS_S if setting == "auto" else setting / 1000
        self.transit_s = self.seconds / 2
        self._waited_s: deque[float] = deque(maxlen=200)
        self._slowest: deque[tuple[float, float]] = deque()  # when, and how long: each slower than all after it

    def observe(self, *, waited_s: float, transit_s: float) -> None:
        """Learn from an answer that left `waited_s` after it was decided and was confirmed `transit_s` after that."""
        now = self._clock.monotonic()
        self._waited_s.append(waited_s)
        while self._slowest and self._slowest[-1][1] <= transit_s:
            self._slowest.pop()
        self._slowest.append((now, transit_s))
        while self._slowest[0][0] < now - self._REMEMBERED_S:
            self._slowest.popleft()
        if self._learns and len(self._waited_s) >= self._ENOUGH:
            self.transit_s = self._enough_for(self._slowest[0][1])
            slow = sorted(self._waited_s)[math.ceil(0.99 * len(self._waited_s)) - 1]
            self.seconds = self.transit_s + self._enough_for(slow)

    def share(self, allowed_ms: float) -> float:
        """Return how much of the margin a deadline can spare: of a short one most is left for the inspection."""
        return min(1.0, allowed_ms / 4000 / self.seconds) if self.seconds else 1.0

    def _enough_for(self, taken_s: float) -> float:
        return min(self._LONGEST_S, max(self._SHORTEST_S, taken_s * self._SPARE))


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the gate must have been told.

    at: wall time, for the record. monotonic: the same moment in seconds of `Clock.monotonic`. decide_by: the moment,
    a margin earlier, at which a verdict that is still missing is declared missed, so that it arrives in time.
    transit_s: how long before the deadline a PASS must leave to arrive by it.
    """

    at: datetime
    monotonic: float
    decide_by: float
    transit_s: float

    @classmethod
    def of(cls, arrival: Arrival, settings: DeadlineSettings, margin: Margin) -> Deadline:
        """Return the deadline of `arrival`, with what of the margin it can spare."""
        allowed_ms = arrival.event.deadline_ms or settings.default_ms
        at = due_at(arrival.event.captured_at, arrival.received_at, allowed_ms, settings)
        monotonic = arrival.received_monotonic + (at - arrival.received_at).total_seconds()
        share = margin.share(allowed_ms)
        return cls(
            at=at,
            monotonic=monotonic,
            decide_by=monotonic - share * margin.seconds,
            transit_s=share * margin.transit_s,
        )


def due_at(
    captured_at: datetime | None, received_at: datetime, allowed_ms: float, settings: DeadlineSettings
) -> datetime:
    """Return when a verdict is due: from the capture where that is known, believable and meant, else from receipt."""
    start = captured_at
    if settings.start is DeadlineStart.RECEIVED or start is None or start > received_at + _CLOCK_SKEW:
        start = received_at
    return start + timedelta(milliseconds=allowed_ms)


def deadline_monotonic(entry: JournalEntry, clock: Clock) -> float:
    """Return when an event of an earlier run is due, on this run's monotonic clock.

    The monotonic clock of the machine runs on between two runs of the service. Across a restart of the machine only the
    wall clock is left, and one without a battery may go on where it stopped: the event then counts as long expired,
    since nothing may be said to a gate about a part that may be long gone.
    """
    if entry.deadline_monotonic is not None:
        return entry.deadline_monotonic
    return long_ago(clock)


def long_ago(clock: Clock) -> float:
    """Return a moment at which whatever is due then is surely expired."""
    return clock.monotonic() - _LONG_AGO_S
