"""Reports that are written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cli.report_folder import report_folder, writing
from service.errors import CangateError, UsageError


def report(folder: Path, text: str, *names: str) -> None:
    """Write a report of a page and CSV files, by default one."""
    with report_folder(folder, "report.html") as draft:
        for name in ("report.html", *(names or ("a.csv",))):
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_text(f"{text}\n")


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
    report(tmp_path, "old")
    if blocked == "sub":
        (tmp_path / "sub").touch()
    else:
        (tmp_path / blocked).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=rf"cannot write {tmp_path / blocked}: "), report_folder(tmp_path) as draft:  # noqa: PT012 - the end of the block is what fails
        for name in ("a.csv", "b.csv", "sub/b.csv"):
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_text("new")
    assert (tmp_path / "a.csv").read_text() == "old\n"
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "sub"] == [
        path for path in before if path.name != "sub"
    ]


def test_report_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    """Again and again, with what lies below it; also where another kind of report came between."""
    for text in ("first", "second"):
        report(tmp_path, text, "a.csv", "bars@1/a.csv", "bars@1/report.html")
        assert (tmp_path / "a.csv").read_text() == f"{text}\n"
        assert (tmp_path / "bars@1" / "a.csv").read_text() == f"{text}\n"
        assert (tmp_path / "report.html").read_text().startswith(f"{text}\n<!-- files of this report")
    report(tmp_path, "other", "b.csv")
    report(tmp_path, "third", "a.csv")
    assert (tmp_path / "a.csv").read_text() == "third\n"


def test_report_that_was_interrupted_taking_its_place_is_replaced_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any of its files: what is there is the old report's, the new one's, or a page that knows both."""
    names = ("a.csv", "b.csv", "bars@1/a.csv", "bars@1/report.html")
    replace = Path.replace
    report(tmp_path, "first", *names)
    for count in range(1, len(names) + 1):
        moves = iter(range(count))

        def interrupted(self: Path, target: Path, moves: Iterator[int] = moves) -> Path:
            if next(moves, None) is None:
                raise KeyboardInterrupt
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            report(tmp_path, f"interrupted {count}", *names)
        monkeypatch.undo()
        report(tmp_path, f"whole {count}", *names)
        assert (tmp_path / "bars@1" / "a.csv").read_text() == f"whole {count}\n"


@pytest.mark.parametrize("name", ["a.csv", "report.html", "bars@1/a.csv"])
@pytest.mark.parametrize("was", ["a report", "never one"])
def test_report_does_not_take_the_place_of_what_somebody_made(tmp_path: Path, name: str, was: str) -> None:
    """Labels that were filled in are nowhere else. All is as it was."""
    names = ("a.csv", "bars@1/a.csv", "bars@1/report.html")
    if was == "a report":
        report(tmp_path, "first", *names)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with (tmp_path / name).open("r+" if was == "a report" else "w") as file:
        file.write("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=rf"^cannot write {tmp_path / name}: it is no report, or was changed since"):
        report(tmp_path, "second", *names)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_report_asks_no_pipe_what_it_is(tmp_path: Path) -> None:
    """It would be waited for; neither is it replaced, nor is a page beside the report."""
    os.mkfifo(tmp_path / "other.html")
    report(tmp_path, "first")
    (tmp_path / "report.html").unlink()
    os.mkfifo(tmp_path / "report.html")
    with pytest.raises(UsageError, match=r"report\.html: no regular file"):
        report(tmp_path, "second")


def test_error_names_the_place_of_a_file_in_the_report(tmp_path: Path) -> None:
    """Not the draft, which is gone by then; a full disk names nothing itself."""
    for name, named in (
        (str(tmp_path / ".cangate-report-abcd1234" / "a.csv"), tmp_path / "a.csv"),
        (None, tmp_path),
        ("/elsewhere", "/elsewhere"),
    ):
        with pytest.raises(CangateError, match=rf"^cannot write {named}: No space left"), writing(tmp_path):
            raise OSError(errno.ENOSPC, "No space left", name)
