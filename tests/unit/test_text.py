"""Texts of anybody's making, and what becomes of them."""

from __future__ import annotations

import pytest

from service.errors import brief


@pytest.mark.parametrize(
    ("exc", "told"),
    [
        (ValueError("no such\n\tlayer"), "ValueError: no such layer"),
        (MemoryError(), "MemoryError: "),
        (RuntimeError("x" * 300), "RuntimeError: " + "x" * 186),
    ],
)
def test_brief_is_one_short_line(exc: Exception, told: str) -> None:
    """Whatever a library writes into it: line breaks, nothing, a page."""
    assert brief(exc) == told
