"""What the pages show: the newest verdicts, kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.messages import Verdict

LENGTH = 100
"""Verdicts that a page can show: the length of its trend."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest verdicts, oldest first; `version` rises with each, so that a page sees when to redraw."""

    version: int = 0
    verdicts: tuple[Verdict, ...] = ()

    @property
    def newest(self) -> Verdict | None:
        """The newest verdict, None before the first."""
        return self.verdicts[-1] if self.verdicts else None

    def find(self, seq: int) -> Verdict | None:
        """Return the verdict with number `seq`, None where it is no longer here."""
        return next((verdict for verdict in self.verdicts if verdict.seq == seq), None)


class Feed:
    """Written by the loop of the service, read by the thread of the pages: `recent` is replaced, never changed."""

    def __init__(self) -> None:
        self.recent = Recent()

    def add(self, verdict: Verdict) -> None:
        """Append a new verdict."""
        self._show((*self.recent.verdicts, verdict))

    def start(self, verdicts: Sequence[Verdict]) -> None:
        """Begin with what is known from before, oldest first."""
        self._show(tuple(verdicts))

    def _show(self, verdicts: tuple[Verdict, ...]) -> None:
        self.recent = Recent(self.recent.version + 1, verdicts[-LENGTH:])
