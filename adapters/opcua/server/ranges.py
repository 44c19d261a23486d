"""Ranges of indexes (OPC 10000-4, 7.27): which part of an array, a text or a row of bytes is asked for."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, Final

_LONGEST: Final = 128
"""Characters; five dimensions at their largest. A text may be half a megabyte, and is looked at with every change."""

_DIMENSION: Final = re.compile("([0-9]{1,10})(?::([0-9]{1,10}))?")  # an index is a UInt32


def parse_range(text: str) -> tuple[slice, ...] | None:
    """Return what is asked for of each dimension; None: it is no range, or of more dimensions than anything has."""
    return _parsed(text) if len(text) <= _LONGEST else None


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[slice, ...] | None:
    found = [_DIMENSION.fullmatch(part) for part in text.split(",")]
    ranges = []
    for one in found:
        if one is None:
            return None
        first = int(one[1])
        last = first if one[2] is None else int(one[2])
        if one[2] is not None and last <= first:
            return None
        ranges.append(slice(first, last + 1))
    return tuple(ranges)


def part_of(elements: object, ranges: Sequence[slice]) -> Any:  # noqa: ANN401 - an array's, a text's or bytes
    """Return what there is of a part.

    The last range may be one within the texts of an array; those that are too short for it are then None.

    Raises:
        IndexError: nothing of it exists.
        TypeError: it has other dimensions, or none.
    """
    here, *deeper = ranges
    if not isinstance(elements, list | tuple | str | bytes):
        raise TypeError("no elements")
    found = elements[here]
    if not found:
        raise IndexError("no such elements")
    if not deeper:
        if isinstance(found[0], list | tuple):
            raise TypeError("more dimensions than ranges")
        return found
    if isinstance(found, str | bytes):
        raise TypeError("more ranges than dimensions")
    if not all(isinstance(one, str | bytes | None) for one in found):
        return [part_of(one, deeper) for one in found]
    if len(deeper) > 1:
        raise TypeError("more ranges than dimensions")
    parts = [(one or "")[deeper[0]] or None for one in found]
    if not any(parts):
        raise IndexError("no such elements")
    return parts
