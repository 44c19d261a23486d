"""What a browse leaves for BrowseNext (OPC 10000-4, 5.8.3): kept for one session, and never much of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from asyncua import ua

MAX_CONTINUATION_POINTS: Final = 50
"""Of one session; where a browse needs more, those of earlier ones go first."""


class ContinuationPoints:
    """The references that one session has asked for and not fetched."""

    def __init__(self) -> None:
        self._rests: dict[bytes, tuple[int, list[ua.ReferenceDescription]]] = {}
        self._made = 0

    def begin(self, results: Iterable[ua.BrowseResult], most: int) -> list[ua.BrowseResult]:
        """Return the results of a browse, each with as many references as are wanted at once; 0: all of them."""
        pages, room = [], MAX_CONTINUATION_POINTS
        for result in results:
            is_cut = 0 < most < len(result.References)
            fits = room > 0 or not is_cut
            pages.append(self._page(result, most) if fits else _without(ua.StatusCodes.BadNoContinuationPoints))
            room -= is_cut
        return pages

    def go_on(self, points: Iterable[bytes]) -> list[ua.BrowseResult]:
        """Return the next references of each point, which is used up with that."""
        results = []
        for point in points:
            most, rest = self._rests.pop(point, (0, []))
            left = ua.BrowseResult(References=rest)
            results.append(self._page(left, most) if rest else _without(ua.StatusCodes.BadContinuationPointInvalid))
        return results

    def release(self, points: Iterable[bytes]) -> list[ua.BrowseResult]:
        """Forget what is left at each point."""
        known = [self._rests.pop(point, None) is not None for point in points]
        return [ua.BrowseResult() if one else _without(ua.StatusCodes.BadContinuationPointInvalid) for one in known]

    def _page(self, result: ua.BrowseResult, most: int) -> ua.BrowseResult:
        references = result.References
        if not 0 < most < len(references):
            return result
        while len(self._rests) >= MAX_CONTINUATION_POINTS:
            del self._rests[next(iter(self._rests))]
        self._made += 1
        point = self._made.to_bytes(8, "little")
        self._rests[point] = (most, references[most:])
        result.ContinuationPoint, result.References = ua.ByteString(point), references[:most]
        return result


def _without(code: int) -> ua.BrowseResult:
    return ua.BrowseResult(StatusCode=ua.StatusCode(ua.UInt32(code)))
