"""Parts that a station was shown and has not answered yet."""

from __future__ import annotations

from schemas.messages import Verdict
from service.errors import SinkUnavailable
from service.replay.player import Showing


class OpenParts:
    """Brings verdicts to the parts that wait for them; once the way in is broken, nobody waits any more."""

    def __init__(self) -> None:
        self._showings: dict[str, Showing] = {}
        self._broken: str | None = None

    def add(self, showing: Showing) -> None:
        """Let a part wait for its verdict. Raises SinkUnavailable where the way in is broken."""
        if self._broken is not None:
            raise SinkUnavailable(self._broken)
        self._showings[showing.event_id] = showing

    def answer(self, event_id: str, verdict: Verdict) -> None:
        """Settle the part that waits for this verdict, if one does."""
        showing = self._showings.get(event_id)
        if showing is not None and not showing.answer.done():
            showing.answer.set_result(verdict)

    def remove(self, showing: Showing) -> None:
        """Let a part wait no longer."""
        self._showings.pop(showing.event_id, None)

    def give_up(self, reason: str) -> None:
        """Let no part wait any more, now or later: the way in is broken. The first reason counts."""
        self._broken = self._broken or reason
        for showing in self._showings.values():
            if not showing.answer.done():
                showing.answer.set_exception(SinkUnavailable(self._broken))
                showing.answer.exception()  # looked at: the first one is raised, and says enough
