"""Who is inspected next where more events come than can be inspected, and who is told at once that there is no time."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from schemas.settings import IntakeOrder, IntakeSettings
from service.ports import Clock

_AHEAD_SHARE, _AHEAD_MAX_S = 0.25, 0.1
"""How long before its time is up whoever waits must be expected to be done: a share of what was left when it came.

A place is worth the same whoever has it, so a shorter queue costs little; and a machine that has no rest holds its
answers up now and then.
"""

_GOOD = 10
"""So many outcomes in time, one after the other, are worth one more place."""

_STANDSTILLS = 8
"""How many standstills are remembered: nobody is inside for longer than that many."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """done_by: when it must be expected to be done. turn: True, go in; False, it cannot make it any more."""

    done_by: float
    promised: bool
    turn: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """A bounded queue in front of the inspection, with one rule for who goes next.

    Only so many events are inside at a time; the others wait here, where they can still change places. `oldest`: parts
    are inspected in the order in which they came, and one too many is turned away. `newest`: the newest goes first, and
    one too many pushes the oldest that waits out. Either way whoever will not have its verdict in time, by what recent
    inspections took, is turned away as soon as that is known: the time goes to parts that can still be judged.

    Parts that are inspected at the same time slow each other down. Where that makes them late, fewer are let in at a
    time, down to one; where all goes well, more again.

    Nobody starves: whoever finds a free place goes in, whatever inspections took before, so a bad estimate corrects
    itself.
    """

    def __init__(self, settings: IntakeSettings, *, clock: Clock, places: int) -> None:
        self._capacity = settings.capacity
        self._newest_first = settings.order is IntakeOrder.NEWEST
        self.places = self._places = min(places, settings.capacity)
        self._good = 0
        self._clock = clock
        self._inside = 0
        self._waiting: deque[_Waiting] = deque()  # the next one on the left
        self._taken_s: deque[float] = deque(maxlen=32)
        # until when the process stood still, and how long
        self._still: deque[tuple[float, float]] = deque(maxlen=_STANDSTILLS)

    @property
    def in_work(self) -> int:
        """Return how many events are inside or wait."""
        return self._inside + len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Tell whether one more event would find a place, inside or to wait."""
        return self.in_work < self._capacity

    async def enter(self, decide_by: float, *, promised: bool = False) -> float | None:
        """Wait for a place inside. Returns the time at which it was given, for `leave`; None: there is no time for it.

        decide_by: when its verdict must be there, on `Clock.monotonic`. promised: it is not turned away.
        """
        if self._inside < self._places:
            self._inside += 1
            return self._clock.monotonic()
        if not (self.has_room or promised or self._push_out()):
            return None
        left_s = max(0.0, decide_by - self._clock.monotonic())
        waiting = _Waiting(decide_by - min(_AHEAD_MAX_S, _AHEAD_SHARE * left_s), promised)
        if self._newest_first:
            self._waiting.appendleft(waiting)
        else:
            self._waiting.append(waiting)
        self._turn_away(ahead=1)
        try:
            may = await waiting.turn
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.turn.cancelled() and waiting.turn.result():
                self._give_place_away()
            raise
        return self._clock.monotonic() if may else None

    def leave(self, entered: float, *, in_time: bool) -> None:
        """Give the place up that `enter` gave at `entered`. in_time: the outcome was there when it had to be."""
        still_s = sum(seconds for until, seconds in self._still if until > entered)
        self._taken_s.append(max(0.0, self._clock.monotonic() - entered - still_s))
        if not in_time and not still_s:
            self._places = max(1, self._places - 1)
            self._good = 0
        elif self._places < self.places:
            self._good += 1
            if self._good >= _GOOD:
                self._places += 1
                self._good = 0
        self._give_place_away()

    def stood_still(self, seconds: float) -> None:
        """Note that the process stood still until now: no inspection is slow because of that."""
        self._still.append((self._clock.monotonic(), seconds))

    def _give_place_away(self) -> None:
        self._inside -= 1
        self._turn_away(ahead=0 if self._inside < self._places else 1)
        while self._waiting and self._inside < self._places:
            turn = self._waiting.popleft().turn
            if not turn.cancelled():
                turn.set_result(True)
                self._inside += 1

    def _push_out(self) -> bool:
        """Make room for a newer event where that is the rule; tell whether there is."""
        if not self._newest_first:
            return False
        for oldest in reversed(self._waiting):
            if not oldest.promised:
                self._waiting.remove(oldest)
                oldest.turn.set_result(False)
                return True
        return False

    def _turn_away(self, *, ahead: int) -> None:
        """Turn away who will not be judged in time, by what recent inspections took.

        ahead: how many must leave before the first who waits may go in.
        """
        if not self._taken_s:
            return
        interval_s = statistics.median(self._taken_s) / self._places
        # by the median, every other one of those who just make it would not
        done_at = self._clock.monotonic() + _slow(self._taken_s)
        kept: deque[_Waiting] = deque()
        for waiting in self._waiting:
            if waiting.promised or done_at + interval_s * (ahead + len(kept)) <= waiting.done_by:
                kept.append(waiting)
            elif not waiting.turn.cancelled():
                waiting.turn.set_result(False)
        self._waiting = kept


def _slow(taken_s: Collection[float]) -> float:
    """Return what nine of ten inspections do not exceed, s."""
    return sorted(taken_s)[math.ceil(0.9 * len(taken_s)) - 1]
