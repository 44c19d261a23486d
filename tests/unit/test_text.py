"""Texts of anybody's making, and what becomes of them."""

from __future__ import annotations

import pytest

from service.errors import brief
from service.text import without_controls


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


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    """Escapes, line breaks, and what turns the direction of writing; letters and blanks stay."""
    assert without_controls("Teil 1 [ü].png") == "Teil 1 [ü].png"
    assert without_controls("\x1b[2J\r\n\x85") == r"\x1b[2J\r\n\x85"
    for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x2028, 0x2029):
        assert without_controls(f"a{chr(code)}b") == f"a\\u{code:04x}b"
