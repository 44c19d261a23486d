"""What `cangate replay` says of a session that holds nothing of what was asked for, or is not finished, or in part."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adapters.recordings.writer import SessionWriter
from tests.support.cli import CommandLine
from tests.support.recordings import INFO, drawn_part, write_session

PARTS = 4


@pytest.fixture
def cangate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    monkeypatch.chdir(tmp_path)  # reports are made here
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """Four parts in as many files."""
    return write_session(tmp_path / "s", [drawn_part(number) for number in range(PARTS)], file_bytes=1)


def judged(store: Path) -> tuple[object, ...]:
    return ("--speed", "max", "--model", "bars", "--store", store, "--expect", "recorded")


def test_time_without_parts_says_where_to_look(cangate: CommandLine, session: Path, store: Path) -> None:
    """The session is shorter than was thought: exit status 1, one line."""
    done = cangate("replay", session, "--from", "100", "--speed", "max", "--model", "bars", "--store", store)
    why = "nothing in the session is what was asked for"
    look = f"`cangate sessions show {session}` says when its parts came"
    assert (done.status, done.stderr) == (1, f"cangate: no part was replayed: {why}; {look}\n")


def test_session_with_a_gap_is_not_accepted(cangate: CommandLine, session: Path, store: Path) -> None:
    """However well the parts do that are left; `sessions show` ends in exit status 1 as well."""
    (session / "0002.mcap").unlink()
    trouble = "0003.mcap: before it 0002.mcap is missing"
    done = cangate("replay", session, *judged(store))
    assert done.status == 1
    assert trouble in done.stdout.splitlines()
    assert "BROKEN readable: 1 places of the session cannot be read" in done.stdout
    done = cangate("sessions", "show", session)
    assert (done.status, done.stdout.splitlines()[-1]) == (1, trouble)


def test_session_in_work_is_accepted_as_far_as_it_has_come(cangate: CommandLine, tmp_path: Path, store: Path) -> None:
    """It is said that it goes on; whoever records it has lost nothing."""
    config = tmp_path / "config.toml"
    config.write_text(f'[record]\nfolder = "{tmp_path / "r"}"\n')
    remark = "0001.mcap: still being written, read as far as it had come"
    with SessionWriter.create(tmp_path / "r" / "s", INFO) as writer:
        for number in range(PARTS):
            writer.write(drawn_part(number))
        done = cangate("replay", tmp_path / "r" / "s", *judged(store))
        assert (done.status, done.stdout.splitlines()[0]) == (0, remark), done
        done = cangate("sessions", "show", tmp_path / "r" / "s")
        assert (done.status, done.stdout.splitlines()[-1]) == (0, remark)
        shutil.copytree(tmp_path / "r" / "s", tmp_path / "r" / "killed")
        listed = cangate("sessions", "list", "-c", config).stdout.splitlines()
    assert ["being written" in line for line in listed if "/s " in line] == [True]
    assert ["not closed" in line for line in listed if "/killed " in line] == [True]


def test_report_spares_labels_that_somebody_filled_in(cangate: CommandLine, session: Path, store: Path) -> None:
    """The CSV of an export, labelled by hand and given as what parts really were; refused before a part is played."""
    assert cangate("sessions", "export", session, "out").status == 0
    labels = Path("out/parts.csv")
    header, *rows = labels.read_text().splitlines()
    labels.write_text("\n".join([header, *(row.replace(",ok,", ",damaged,", 1) for row in rows)]) + "\n")
    filled = labels.read_text()
    replay = ("replay", session, "--speed", "max", "--model", "bars", "--store", store, "--expect", "labels")
    line = cangate(*replay, "--labels", labels, "-o", "out").one_line_error()
    why = "it is no report, or was changed since; name another folder, or move it away"
    assert line == f"cangate: cannot write {labels}: {why}"
    assert labels.read_text() == filled
    for _ in range(2):
        assert cangate(*replay, "--labels", labels, "-o", "report").status == 0
    assert Path("report/report.html").exists()
