"""The few frames of a stream that somebody should look at."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

F = TypeVar("F")

WORST = 12
"""Pictures kept of each kind."""


@dataclass(frozen=True, slots=True)
class Exhibit(Generic[F]):
    """A frame worth looking at, and its picture as a JPEG file."""

    frame: F
    jpeg: bytes


@dataclass(slots=True)
class Gallery(Generic[F]):
    """Keeps the few most remarkable frames of a stream; a picture is drawn only for those that get in."""

    size: int = WORST
    seen: int = 0
    _kept: list[tuple[float, int, Exhibit[F]]] = field(default_factory=list)

    def offer(self, rank: float, frame: F, draw: Callable[[], bytes]) -> None:
        """Show a frame; the largest ranks stay, the earlier of two equal ones first."""
        self.seen += 1
        if len(self._kept) < self.size or rank > self._kept[0][0]:
            heapq.heappush(self._kept, (rank, -self.seen, Exhibit(frame, draw())))
            if len(self._kept) > self.size:
                heapq.heappop(self._kept)

    def exhibits(self) -> list[Exhibit[F]]:
        """Return what was kept, largest rank first."""
        return [exhibit for _, _, exhibit in sorted(self._kept, key=lambda kept: kept[:2], reverse=True)]
