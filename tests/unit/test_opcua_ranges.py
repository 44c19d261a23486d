"""Ranges of indexes mean what a plain statement of OPC 10000-4, 7.27 says they do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.server.ranges import parse_range, part_of

_indexes = st.integers(0, 8)
_ranges = st.tuples(_indexes, st.none() | _indexes)
_rows = st.one_of(
    st.lists(st.integers(), max_size=6),
    st.lists(st.text(max_size=3), max_size=6),
    st.text(max_size=6),
    st.binary(max_size=6),
)


def written(first: int, last: int | None) -> str:
    return str(first) if last is None else f"{first}:{last}"


def part(elements: object, text: str) -> Any:
    """Return the part, or the name of what is wrong."""
    ranges = parse_range(text)
    if ranges is None:
        return "invalid"
    try:
        return part_of(elements, ranges)
    except (IndexError, TypeError) as exc:
        return type(exc).__name__


def said(elements: Any, first: int, last: int | None) -> Any:
    """Return the same, index by index."""
    if last is not None and last <= first:
        return "invalid"
    there = [index for index in range(first, (first if last is None else last) + 1) if index < len(elements)]
    if not there:
        return "IndexError"
    return elements[there[0] : there[-1] + 1]


@given(_rows, _ranges)
def test_range_of_one_dimension_is_what_there_is_of_it(elements: Any, wanted: tuple[int, int | None]) -> None:
    """Of an array, a text or bytes; from the first index on, and no further than it goes."""
    assert part(elements, written(*wanted)) == said(elements, *wanted)


@given(st.integers(1, 4), st.integers(1, 4), _ranges, _ranges)
def test_range_of_two_dimensions_is_one_of_each(
    height: int, width: int, rows: tuple[int, int | None], columns: tuple[int, int | None]
) -> None:
    """A block of a matrix."""
    matrix = [[10 * row + column for column in range(width)] for row in range(height)]
    chosen = said(matrix, *rows)
    expected = [said(row, *columns) for row in chosen] if isinstance(chosen, list) else chosen
    if said(matrix[0], *columns) == "invalid" or chosen == "invalid":
        expected = "invalid"
    elif "IndexError" in (chosen, *expected):
        expected = "IndexError"
    assert part(matrix, f"{written(*rows)},{written(*columns)}") == expected


@given(st.text())
def test_text_that_is_no_range_is_refused(text: str) -> None:
    """Nothing but digits, one colon and commas between them; whatever comes, it is no defect."""
    found = parse_range(text)
    assert found is None or set(text) <= set("0123456789:,")


@pytest.mark.parametrize(
    "text",
    ["", "x", "5:5", "7:5", "-1", "+1", "1:", ":1", "1:2:3", "1,", ",1", " 1", "1 ", "1\n", "1.0", "1:2,", "²", "٣"],
)
def test_junk_is_no_range(text: str) -> None:
    """White space, signs and digits of other scripts among it."""
    assert parse_range(text) is None


def test_range_of_more_dimensions_than_anything_has_is_none() -> None:
    """It may be half a megabyte long, and would be looked at with each change of a tag."""
    assert parse_range(",".join("0" * 8)) is not None
    assert parse_range(",".join("0" * 250_000)) is None


def test_index_beyond_all_measure_is_no_range() -> None:
    """Else it would be converted, digit by digit."""
    assert parse_range("9" * 65_000) is None
    assert parse_range(str(2**32 - 1)) == (slice(2**32 - 1, 2**32),)


@pytest.mark.parametrize(
    ("elements", "text", "expected"),
    [
        ([], "0", "IndexError"),
        ("", "0", "IndexError"),
        ([""], "0", [""]),
        ([None], "0", [None]),
        (["TestString", "Test", "String"], "0:2,7:9", ["ing", None, None]),
        (["TestString", None], "0:1,0:3", ["Test", None]),
        (["ab", "cd"], "0:1,2", "IndexError"),
        ([b"\x01\x02"], "0,1", [b"\x02"]),
        ([1, 2], "0,0", "TypeError"),
        (["ab"], "0,0,0", "TypeError"),
        ("ab", "0,0", "TypeError"),
        ([[1, 2], [3, 4]], "0", "TypeError"),
        (7, "0", "TypeError"),
        (1.5, "0", "TypeError"),
    ],
)
def test_part_has_the_dimensions_of_its_value(elements: object, text: str, expected: object) -> None:
    """And a text within an array is one more, of which each has what there is."""
    assert part(elements, text) == expected
