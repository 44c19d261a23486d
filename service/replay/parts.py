"""A recorded part, and which parts of a session are meant."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from schemas.messages import Decision, Verdict
from schemas.recordings import RecordedEvent, Truth
from service.errors import UsageError

_OUT_OF_ORDER = 32
"""Parts that may have been written before one that arrived earlier: as many as a station has in work, and late ones."""

_LATEST_NS = 2**64 - 1
"""What a recording has room for, in the year 2554; a camera may send any year."""

_OFFSET = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class RecordedPart:
    """One part of a session.

    arrived_ns: when its event arrived, Unix time in nanoseconds. frame: the encoded image; None where there was none,
    or where it could not be recorded (`event.frame_dropped`). label: what the part really was.
    """

    event: RecordedEvent
    arrived_ns: int
    frame: bytes | None
    verdict: Verdict | None
    label: Truth | None = None

    @property
    def decision(self) -> Decision | None:
        """What was said of it; None where its verdict was not recorded."""
        return None if self.verdict is None else self.verdict.decision


def in_order_of_arrival(parts: Iterable[RecordedPart]) -> Iterator[RecordedPart]:
    """Yield parts as they arrived; they were written as they were answered. Holds a few of them in memory."""
    waiting: list[tuple[int, int, RecordedPart]] = []
    for number, part in enumerate(parts):
        heapq.heappush(waiting, (part.arrived_ns, number, part))
        if len(waiting) > _OUT_OF_ORDER:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def moment_ns(text: str, *, start_ns: int) -> int:
    """Return the moment that `text` means, Unix time in nanoseconds: RFC 3339, or [[H:]M:]S after the start.

    Raises UsageError.
    """
    offset = _OFFSET.fullmatch(text)
    if offset is not None:
        hours, minutes, seconds = offset.groups()
        return start_ns + round((int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)) * 1e9)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is no time: give RFC 3339, or seconds or minutes:seconds from the start") from exc
    if moment.tzinfo is None:
        raise UsageError(f"{text!r} has no offset: end it with Z for UTC")
    return unix_ns(moment)


def unix_ns(moment: datetime) -> int:
    """Return an aware time as Unix time in nanoseconds, exact to the microsecond; no less than 0, nor over 64 bits."""
    since = moment - datetime.fromtimestamp(0, UTC)
    exact_ns = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    return min(max(exact_ns, 0), _LATEST_NS)
