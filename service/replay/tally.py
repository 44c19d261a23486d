"""What a replay has shown so far, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.messages import Decision
from service.percentiles import percentile
from service.replay.player import Played

_KEPT = 100_000
"""Spacing errors kept for the percentile: a day at one part a second; a longer replay goes by its beginning."""


@dataclass(slots=True)
class Tally:
    """Counts of played parts. A mismatch is a decision that differs from the recorded one.

    skipped: parts whose frame could not be recorded, which cannot be shown again.
    """

    decisions: dict[Decision, int] = field(default_factory=lambda: dict.fromkeys(Decision, 0))
    unanswered: int = 0
    mismatches: int = 0
    compared: int = 0
    skipped: int = 0
    spacing_errors_ms: list[float] = field(default_factory=list)

    def take(self, played: Played) -> None:
        """Count one part."""
        if played.spacing_error_ms is not None and len(self.spacing_errors_ms) < _KEPT:
            self.spacing_errors_ms.append(abs(played.spacing_error_ms))
        if played.verdict is None:
            self.unanswered += 1
            return
        self.decisions[played.verdict.decision] += 1
        if played.part.decision is not None:
            self.compared += 1
            self.mismatches += played.part.decision is not played.verdict.decision

    @property
    def parts(self) -> int:
        """Return how many parts were played."""
        return sum(self.decisions.values()) + self.unanswered

    def spacing_error_ms(self) -> float | None:
        """Return the 95th percentile of the spacing errors, None where there are none."""
        return percentile(self.spacing_errors_ms, 95)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.decisions[decision]} {decision.lower()}" for decision in Decision)
        return f"replay: {self.parts} parts, {counts}, {self.unanswered} unanswered, {self.mismatches} mismatches"
