"""Which triggers wait for a result, by the event that each of them named."""

from __future__ import annotations

from collections import deque

from service.ports import Answer


class AskedTriggers:
    """Triggers that were handed over and have no result yet.

    Several may name the same event, as where a PLC asks once more before it was answered: each of them gets a result
    of its own, the oldest first. What started without a trigger waits as 0.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, event_id: str, trigger: int) -> None:
        """Note that a trigger waits for the answer to an event."""
        self._waiting.setdefault(event_id, deque()).append(trigger)

    def take(self, answer: Answer) -> int | None:
        """Return the trigger that an answer is for, which waits no more; None: nobody here asked for it.

        A new answer that names another trigger belongs to an event that came by another way under the same id; who
        waits here has asked again, and gets the repetition that follows.
        """
        event_id, said = answer.verdict.event_id, answer.verdict.trigger_id
        waiting = self._waiting.get(event_id, deque())
        if not waiting or not (answer.repeated or said is None or said in waiting):
            return None
        trigger = waiting.popleft()
        if not waiting:
            del self._waiting[event_id]
        return trigger

    def put_back(self, event_id: str, trigger: int) -> None:
        """Let a trigger wait again, before all others: it did not get its result, which is tried once more."""
        self._waiting.setdefault(event_id, deque()).appendleft(trigger)
