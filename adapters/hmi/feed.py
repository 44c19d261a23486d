"""What the pages show: the newest verdicts, kept in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from schemas.messages import Verdict

LENGTH = 100
"""Verdicts that a page can show: the length of its trend."""


class Feed:
    """The newest verdicts of the station; `version` rises with each, so that a page sees when to redraw."""

    def __init__(self) -> None:
        self._verdicts: deque[Verdict] = deque(maxlen=LENGTH)
        self.version = 0

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The newest verdicts, oldest first."""
        return tuple(self._verdicts)

    @property
    def newest(self) -> Verdict | None:
        """The newest verdict, None before the first."""
        return self._verdicts[-1] if self._verdicts else None

    def add(self, verdict: Verdict) -> None:
        """Append a new verdict."""
        self._verdicts.append(verdict)
        self.version += 1

    def replace(self, verdicts: Iterable[Verdict]) -> None:
        """Start over with `verdicts`, oldest first."""
        self._verdicts = deque(verdicts, maxlen=LENGTH)
        self.version += 1

    def find(self, seq: int) -> Verdict | None:
        """Return the verdict with number `seq`, None where it is no longer here."""
        return next((verdict for verdict in self._verdicts if verdict.seq == seq), None)
