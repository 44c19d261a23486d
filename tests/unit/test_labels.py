"""Labels from a CSV: which part a row is about."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.messages import Decision
from schemas.recordings import Truth
from service.errors import UsageError
from service.replay.labels import Labels, read_labels
from tests.support.recordings import recorded_part

PARTS = [recorded_part(number, label=Decision.OK) for number in range(4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the CSV lies."""
    return tmp_path / "labels.csv"


def truths(labels: Labels) -> list[Truth | None]:
    return [labels.of(part) for part in PARTS]


def test_every_row_is_found_by_what_it_fills(path: Path) -> None:
    """An empty event_id does not hide the filename beside it; a row without a label says nothing."""
    path.write_text("event_id,filename,part_id,Label\ne0,,,damaged\n,e1,C-000000,damaged\n,,C-000002,Damaged\n,e3,,\n")
    labels = read_labels(path)
    assert truths(labels) == [Decision.DAMAGED] * 3 + [Decision.OK]
    assert labels.strangers(PARTS) == []
    assert labels.of(replace(PARTS[0], event=PARTS[0].event.model_copy(update={"event_id": "", "part_id": None}))) is (
        Decision.OK
    )


def test_rows_of_other_parts_are_known(path: Path) -> None:
    """By what they name, in their order; of nothing there is nothing to be found."""
    path.write_text("event_id,part_id,label\ne9,,ok\ne1,,ok\n,C-7,ok\n")
    assert read_labels(path).strangers(PARTS) == ["e9", "C-7"]
    assert Labels().strangers(PARTS) == []
    assert truths(Labels()) == [Decision.OK] * 4


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "needs the columns label and one of"),
        ("event_id\ne0\n", "needs the columns label and one of"),
        ("label,name\nok,e0\n", "needs the columns label and one of"),
        ("event_id,label\ne0,fine\n", "line 2: label 'fine' is neither ok nor damaged"),
        ("event_id,label\ne0,ok\ne0,ok\ne0,damaged\n", "line 4: e0 has another label further up"),
        ("part_id,label\nC-1,ok\nC-1,\nC-1,damaged\n", "line 4: C-1 has another label further up"),
        ("event_id,part_id,label\ne0,,ok\n,,ok\n", "line 3: a label, and nothing that says of which part"),
    ],
)
def test_labels_that_cannot_be_are_refused(path: Path, content: str, complaint: str) -> None:
    """In one line that names the file."""
    path.write_text(content)
    with pytest.raises(UsageError, match=complaint) as refused:
        read_labels(path)
    assert path.name in str(refused.value)


def test_labels_in_a_pipe_are_refused(tmp_path: Path) -> None:
    """Nobody may ever write into it."""
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UsageError, match=r"cannot read .*pipe\.csv: no regular file"):
        read_labels(tmp_path / "pipe.csv")
