"""Parts that a station was shown and has not answered yet."""

from __future__ import annotations

from schemas.messages import Verdict
from service.errors import SinkUnavailable
from service.replay.player import InFlightPart


class OpenParts:
    """Brings verdicts to the parts that wait for them; once the way in is broken, nobody waits any more."""

    def __init__(self) -> None:
        self._parts: dict[str, InFlightPart] = {}
        self._broken: str | None = None

    def add(self, in_flight: InFlightPart) -> None:
        """Let a part wait for its verdict. Raises SinkUnavailable where the way in is broken."""
        if self._broken is not None:
            raise SinkUnavailable(self._broken)
        self._parts[in_flight.event_id] = in_flight

    def answer(self, event_id: str, verdict: Verdict) -> None:
        """Settle the part that waits for this verdict, if one does."""
        in_flight = self._parts.get(event_id)
        if in_flight is not None and not in_flight.answer.done():
            in_flight.answer.set_result(verdict)

    @property
    def is_waiting(self) -> bool:
        """Tell whether a part has no verdict yet."""
        return any(not in_flight.answer.done() for in_flight in self._parts.values())

    def remove(self, in_flight: InFlightPart) -> None:
        """Let a part wait no longer."""
        self._parts.pop(in_flight.event_id, None)

    def give_up(self, reason: str) -> None:
        """Let no part wait any more, now or later: the way in is broken. The first reason counts."""
        self._broken = self._broken or reason
        for in_flight in self._parts.values():
            if not in_flight.answer.done():
                in_flight.answer.set_exception(SinkUnavailable(self._broken))
                in_flight.answer.exception()  # looked at: the first one is raised, and says enough
