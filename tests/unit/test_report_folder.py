"""Reports that are written whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from service.cli.report_folder import report_folder, writing
from service.errors import UsageError


def test_report_takes_its_place_when_it_is_done(tmp_path: Path) -> None:
    """With its folders; what else lies there stays."""
    (tmp_path / "notes.txt").write_text("mine")
    with report_folder(tmp_path, "report.html") as draft:
        (draft / "report.html").write_text("new")
        (draft / "bars@1").mkdir()
        (draft / "bars@1" / "report.html").write_text("new")
        assert not (tmp_path / "report.html").exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bars@1", "notes.txt", "report.html", "report.html"]


def test_report_whose_file_is_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    """It is named, and the work is not begun."""
    (tmp_path / "report.html").mkdir()
    with (
        pytest.raises(UsageError, match=r"cannot write .*/report\.html: it is a folder"),
        report_folder(tmp_path, "report.html"),
    ):
        pytest.fail("nothing is lent")


@pytest.mark.parametrize("blocked", ["b.csv", "sub/b.csv", "sub"])
def test_report_is_not_written_by_half(tmp_path: Path, blocked: str) -> None:
    """A folder in the place of its second file, or a file in that of a folder: the first is as it was."""
    (tmp_path / "a.csv").write_text("old")
    if blocked == "sub":
        (tmp_path / "sub").touch()
    else:
        (tmp_path / blocked).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=rf"cannot write {tmp_path / blocked}: "), report_folder(tmp_path) as draft:  # noqa: PT012 - the end of the block is what fails
        for name in ("a.csv", "b.csv", "sub/b.csv"):
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_text("new")
    assert (tmp_path / "a.csv").read_text() == "old"
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "sub"] == [
        path for path in before if path.name != "sub"
    ]


def test_error_names_the_place_of_a_file_in_the_report(tmp_path: Path) -> None:
    """Not the draft, which is gone by then; a full disk names nothing itself."""
    for name, named in (
        (str(tmp_path / ".cangate-report-abcd1234" / "a.csv"), tmp_path / "a.csv"),
        (None, tmp_path),
        ("/elsewhere", "/elsewhere"),
    ):
        with pytest.raises(UsageError, match=rf"^cannot write {named}: No space left"), writing(tmp_path):
            raise OSError(errno.ENOSPC, "No space left", name)
