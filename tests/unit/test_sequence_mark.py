"""How far numbers may have gone, kept in a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from adapters.journal.sequence import SequenceMark


@pytest.mark.parametrize("text", ["", "x", "1", "12 -5 7", "\xff", "9" * 400])
def test_sequence_mark_that_is_damaged_says_nothing(tmp_path: Path, text: str) -> None:
    """A mark that cannot be read is no reason not to start."""
    path = tmp_path / "mark"
    path.write_text(text, encoding="latin-1")
    mark = SequenceMark(path)
    mark.read()
    assert (mark.ceiling, mark.unstored) == (0, 0)


def test_sequence_mark_is_above_every_number(tmp_path: Path) -> None:
    """Whatever was numbered, the mark on disk says at least that."""
    mark = SequenceMark(tmp_path / "mark")
    for seq in (1, 2, 905, 1500, 12):
        mark.stored(seq)
        again = SequenceMark(tmp_path / "mark")
        again.read()
        assert again.ceiling >= seq


@pytest.mark.parametrize("note", [SequenceMark.stored, SequenceMark.not_stored])
def test_sequence_mark_that_could_not_be_written_is_written_later(
    tmp_path: Path, note: Callable[[SequenceMark, int], None]
) -> None:
    """The disk was full when the numbers were used; once there is room, the next number takes them along."""
    path = tmp_path / "later" / "mark"
    mark = SequenceMark(path)
    with capture_logs() as lines:
        for seq in (1, 2, 3):
            note(mark, seq)
    assert [line["event"] for line in lines] == ["sequence_mark_failed"]
    path.parent.mkdir()
    mark.stored(1)
    again = SequenceMark(path)
    again.read()
    assert again.ceiling >= 3
    assert again.unstored == mark.unstored
