"""Which triggers wait for a result, by the event that each of them named."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from schemas.messages import Verdict
from service.ports import Answer


@dataclass(frozen=True, slots=True)
class Asked:
    """A trigger that waits for the answer to an event; 0 for what was started without one. part_id: what it named."""

    trigger: int
    part_id: str | None = None

    def is_about(self, verdict: Verdict) -> bool:
        """Tell whether a verdict is on the part that this trigger names; one that names none goes by the event id.

        An event id may be named again for another part: by a PLC that writes its texts once too seldom, say. What was
        seen of the first part then says nothing of the second, and must not let it pass.
        """
        return not self.part_id or self.part_id == verdict.part_id


class AskedTriggers:
    """Triggers that were handed over and have no result yet.

    Several may name the same event, as where a PLC asks once more before it was answered: each of them gets a result
    of its own, the oldest first.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Asked]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, event_id: str, asked: Asked) -> None:
        """Note that a trigger waits for the answer to an event."""
        self._waiting.setdefault(event_id, deque()).append(asked)

    def take(self, answer: Answer) -> Asked | None:
        """Return the trigger that an answer is for, which waits no more; None: nobody here asked for it.

        A new answer that names another trigger belongs to an event that came by another way under the same id; who
        waits here has asked again, and gets the repetition that follows.
        """
        event_id, said = answer.verdict.event_id, answer.verdict.trigger_id
        waiting = self._waiting.get(event_id, deque())
        if not waiting or not (answer.repeated or said is None or said in [asked.trigger for asked in waiting]):
            return None
        asked = waiting.popleft()
        if not waiting:
            del self._waiting[event_id]
        return asked

    def put_back(self, event_id: str, asked: Asked) -> None:
        """Let a trigger wait again, before all others: it did not get its result, which is tried once more."""
        self._waiting.setdefault(event_id, deque()).appendleft(asked)
