"""`cangate sessions` and `cangate replay --via direct` on real sessions."""

from __future__ import annotations

import csv
import errno
import itertools
import os
import signal
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from adapters.recordings import folders
from adapters.recordings.reader import Session
from adapters.recordings.writer import SessionWriter
from schemas.messages import Decision
from service.files import draft_folder
from tests.support.cli import CommandLine
from tests.support.parts import write_parts
from tests.support.recordings import INFO, drawn_part, recorded_part, write_session


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three good parts and two damaged ones, each kind in a folder of its name."""
    write_parts(tmp_path / "pictures" / "ok", 3, first_seed=5000)
    write_parts(tmp_path / "pictures" / "damaged", 2, first_seed=6000, damaged=True)
    return tmp_path / "pictures"


def test_import_labels_by_folder(cangate: CommandLine, tmp_path: Path, pictures: Path) -> None:
    """Pictures in natural order at the rate given; a folder called ok or damaged is a label."""
    done = cangate("sessions", "import", pictures, tmp_path / "s", "--rate", 4)
    assert (done.status, done.stdout) == (0, f"5 parts, 5 of them with a label, are in {tmp_path / 's'}\n")
    parts = list(Session.open(tmp_path / "s").parts())
    assert [part.event.event_id for part in parts] == [
        *(f"damaged/part{number}.png" for number in (1, 2)),
        *(f"ok/part{number}.png" for number in (1, 2, 3)),
    ]
    assert [part.label for part in parts] == [Decision.DAMAGED] * 2 + [Decision.OK] * 3
    assert {later.arrived_ns - part.arrived_ns for part, later in itertools.pairwise(parts)} == {250_000_000}
    assert parts[0].frame == (pictures / "damaged/part1.png").read_bytes()


def test_import_takes_labels_from_a_csv(cangate: CommandLine, tmp_path: Path, pictures: Path) -> None:
    """Columns that are known are taken over. Where there is a CSV no folder is a label: an export sorts by verdict."""
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "filename,Label,part_id,trigger_id\nok/part1.png,Damaged,C-7,70\nok/part2.png,,,\n", encoding="utf-8-sig"
    )
    assert cangate("sessions", "import", pictures, tmp_path / "s", "--labels", labels).status == 0
    parts = {part.event.event_id: part for part in Session.open(tmp_path / "s").parts()}
    first, second = parts["ok/part1.png"], parts["ok/part2.png"]
    assert (first.label, first.event.part_id, first.event.trigger_id) == (Decision.DAMAGED, "C-7", 70)
    assert (second.label, second.event.part_id) == (None, "part2")
    assert [part.label for part in parts.values()].count(None) == 4


def test_import_names_what_it_passes_over(cangate: CommandLine, tmp_path: Path, pictures: Path) -> None:
    """A slip in a suffix does not go unseen; the CSV of labels is no slip, and names are only words."""
    (pictures / "ok" / "part4.webp").touch()
    (pictures / "\x1b[2Jpart5.gif").touch()
    labels = pictures / "parts.csv"
    labels.write_text("filename,label\n")
    done = cangate("sessions", "import", pictures, tmp_path / "s", "--labels", labels)
    assert done.stdout.splitlines() == [
        r"passed over, no pictures by their name: \x1b[2Jpart5.gif, ok/part4.webp",
        f"5 parts, 0 of them with a label, are in {tmp_path / 's'}",
    ]


def test_import_that_is_refused_shows_names_as_words(cangate: CommandLine, tmp_path: Path, pictures: Path) -> None:
    """A terminal obeys none of them, whether a folder or a CSV holds them."""
    labels = tmp_path / "labels.csv"
    labels.write_text("filename,label\n\x1b[2J.png,ok\n")
    line = cangate("sessions", "import", pictures, tmp_path / "s", "--labels", labels).one_line_error()
    assert line == rf"cangate: {labels}: \x1b[2J.png is no picture of the folder"
    (pictures / "ok" / "\x1b[2J.png").symlink_to("gone")
    line = cangate("sessions", "import", pictures, tmp_path / "s").one_line_error()
    assert line == rf"cangate: cannot read {pictures}/ok/\x1b[2J.png: No such file or directory"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("filename,label\nok/part1.png,broken\n", "'broken' is neither ok nor damaged"),
        ("filename,label\nno-such.png,ok\n", "no-such.png is no picture"),
        ("name,label\nok/part1.png,ok\n", "needs the columns filename and label"),
        ("filename,lable\nok/part1.png,ok\n", "needs the columns filename and label"),
        ("filename,label\nok/part1.png,ok\nok/part1.png,damaged\n", "line 3: ok/part1.png stands further up"),
        ("filename,label\nok/part1.png,damaged\nok/part1.png,\n", "line 3: ok/part1.png stands further up"),
        ("filename,label,trigger_id\nok/part1.png,ok,-5\n", "line 2: trigger_id '-5' is no whole number"),
        ("filename,label,trigger_id\nok/part1.png,ok,7x\n", "line 2: trigger_id '7x' is no whole number"),
        ("filename,label,trigger_id\nok/part1.png,ok,4294967296\n", "line 2: trigger_id '4294967296'"),
        (b"\xff\xfe\x00filename", "no CSV in UTF-8"),
    ],
)
def test_import_refuses_a_csv_by_name(
    cangate: CommandLine, tmp_path: Path, pictures: Path, content: str | bytes, complaint: str
) -> None:
    """What does not fit is named, and nothing is written."""
    labels = tmp_path / "labels.csv"
    labels.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = cangate("sessions", "import", pictures, tmp_path / "s", "--labels", labels)
    assert complaint in done.one_line_error()
    assert not (tmp_path / "s").exists()


def test_import_that_fails_leaves_no_half_a_session(cangate: CommandLine, tmp_path: Path, pictures: Path) -> None:
    """A picture that cannot be read, in the middle: once it is mended, the same command works."""
    third = pictures / "ok" / "part2.png"
    content = third.read_bytes()
    third.unlink()
    third.symlink_to("gone")
    assert "part2.png" in cangate("sessions", "import", pictures, tmp_path / "new" / "s").one_line_error()
    assert not (tmp_path / "new").exists()
    third.unlink()
    third.write_bytes(content)
    (tmp_path / "new" / "s").mkdir(parents=True)
    assert cangate("sessions", "import", pictures, tmp_path / "new" / "s").status == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["s"]
    assert "is not empty" in cangate("sessions", "import", pictures, tmp_path / "new" / "s").one_line_error()


def test_export_goes_back_to_folders(cangate: CommandLine, tmp_path: Path) -> None:
    """Frames byte for byte, sorted by what is known of them; the CSV labels them again at the next import."""
    parts = [drawn_part(0), drawn_part(1, damaged=True), recorded_part(2, frame=None)]
    session = write_session(tmp_path / "s", parts)
    assert cangate("sessions", "export", session, tmp_path / "out").status == 0
    with (tmp_path / "out" / "parts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == ["ok/000001-C-000000.png", "damaged/000002-C-000001.png", ""]
    assert [row["decision"] for row in rows] == ["OK", "DAMAGED", "OK"]
    assert (tmp_path / "out" / rows[0]["filename"]).read_bytes() == parts[0].frame
    again = cangate(
        "sessions", "import", tmp_path / "out", tmp_path / "again", "--labels", tmp_path / "out" / "parts.csv"
    )
    assert again.status == 0, again.stderr
    known = {part.event.part_id: part.label for part in Session.open(tmp_path / "again").parts()}
    assert known == {"C-000000": Decision.OK, "C-000001": Decision.DAMAGED}


def test_export_of_a_frame_that_is_no_picture_comes_back(cangate: CommandLine, tmp_path: Path) -> None:
    """As the line was shown it; without the CSV it is passed over by name."""
    parts = [drawn_part(0), recorded_part(1, frame=b"no picture", label=Decision.DAMAGED), drawn_part(2)]
    out = tmp_path / "out"
    assert cangate("sessions", "export", write_session(tmp_path / "s", parts), out).status == 0
    (out / "damaged" / "notes.bin").touch()
    done = cangate("sessions", "import", out, tmp_path / "again", "--labels", out / "parts.csv")
    assert (done.status, done.stdout.splitlines()) == (
        0,
        [
            "passed over, no pictures by their name: damaged/notes.bin",
            f"3 parts, 3 of them with a label, are in {tmp_path / 'again'}",
        ],
    )
    again = {part.event.part_id: (part.frame, part.label) for part in Session.open(tmp_path / "again").parts()}
    assert again == {part.event.part_id: (part.frame, part.label) for part in parts}
    done = cangate("sessions", "import", out, tmp_path / "pictures")
    assert "damaged/000002-C-000001.bin" in done.stdout.splitlines()[0]


def test_export_says_where_labels_go_by_no_event_id(cangate: CommandLine, tmp_path: Path) -> None:
    """An import tells two parts of one id by their files; labels of this session would contradict each other."""
    first, second = drawn_part(0), drawn_part(1, damaged=True)
    twice = replace(second, event=second.event.model_copy(update={"event_id": "\x9be0"}))
    first = replace(first, event=first.event.model_copy(update={"event_id": "\x9be0"}))
    out = tmp_path / "out"
    done = cangate("sessions", "export", write_session(tmp_path / "s", [first, twice, first]), out)
    said = r"labelled differently under one event id: \x9be0"
    serves = "parts.csv serves an import, but no --labels of this session"
    assert (done.status, done.stdout.splitlines()[1:]) == (0, [f"{said}; {serves}"])
    assert cangate("sessions", "import", out, tmp_path / "again", "--labels", out / "parts.csv").status == 0
    same = write_session(tmp_path / "same", [first, first])
    assert len(cangate("sessions", "export", same, tmp_path / "quiet").stdout.splitlines()) == 1


def test_nothing_is_written_into_what_is_read(cangate: CommandLine, tmp_path: Path, pictures: Path) -> None:
    """An export into its session, an import into its pictures, by whatever name: one line, and nothing is made."""
    session = write_session(tmp_path / "s", [drawn_part(0)])
    (tmp_path / "link").symlink_to(session)
    for command, source, target in (
        ("export", session, session / "sub"),
        ("export", session, tmp_path / "link" / "sub" / "deep"),
        ("import", pictures, pictures / "new"),
    ):
        line = cangate("sessions", command, source, target).one_line_error()
        assert line == f"cangate: cannot write {target}: it lies in {source}, which is read; name another folder"
    assert [path.name for path in session.iterdir()] == ["0001.mcap"]
    assert {path.name for path in pictures.iterdir()} == {"ok", "damaged"}


def test_export_fills_a_folder_that_is_there(
    cangate: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a mount point, which is not replaced, and whose parent is another disk. A killed draft goes."""
    session = write_session(tmp_path / "s", [drawn_part(0)])
    out, drafts = tmp_path / "stick", list[Path]()
    (out / ".cangate-export-abcdefgh").mkdir(parents=True)
    there = out.stat().st_ino

    def noted(parent: Path, prefix: str) -> AbstractContextManager[Path]:
        drafts.append(parent)
        return draft_folder(parent, prefix)

    monkeypatch.setattr(folders, "draft_folder", noted)
    assert cangate("sessions", "export", session, out).status == 0
    assert (drafts, out.stat().st_ino) == ([out], there)
    assert {path.name for path in out.iterdir()} == {"ok", "parts.csv"}


def test_export_that_cannot_be_moved_out_leaves_nothing(
    cangate: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder that is there what was moved already is taken back."""
    session, out, rename = write_session(tmp_path / "s", [drawn_part(0)]), tmp_path / "out", Path.rename
    out.mkdir()

    def fails_at_last(path: Path, target: Path) -> Path:
        if target == out / "parts.csv":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_at_last)
    line = cangate("sessions", "export", session, out).one_line_error(1)
    assert line == f"cangate: cannot write {out}: Input/output error"
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_export_that_is_interrupted_leaves_nothing(
    cangate: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Half an export looks whole; the same command works afterwards."""
    session = write_session(tmp_path / "s", [drawn_part(number) for number in range(3)])
    out = tmp_path / "new" / "out"
    if there:
        out.mkdir(parents=True)
    with monkeypatch.context() as patch:
        name = folders._name
        patch.setattr(
            folders,
            "_name",
            lambda number, part: signal.raise_signal(signal.SIGINT) if number == 3 else name(number, part),
        )
        done = cangate("sessions", "export", session, out)
    assert (done.status, done.stderr) == (130, "cangate: interrupted\n")
    assert list(out.parent.iterdir() if there else tmp_path.iterdir()) == [out if there else session]
    assert cangate("sessions", "export", session, out).status == 0
    assert len((out / "parts.csv").read_text().splitlines()) == 4
    assert "is not empty" in cangate("sessions", "export", session, out).one_line_error()


def test_import_does_not_wait_for_a_pipe(cangate: CommandLine, tmp_path: Path, pictures: Path) -> None:
    """It is named, and nothing is written."""
    os.mkfifo(pictures / "ok" / "pipe.png")
    line = cangate("sessions", "import", pictures, tmp_path / "s").one_line_error()
    assert line == f"cangate: cannot read {pictures / 'ok' / 'pipe.png'}: no regular file"
    assert not (tmp_path / "s").exists()


def test_show_names_what_cannot_be_read(cangate: CommandLine, tmp_path: Path) -> None:
    """Exit status 0 for a whole session, 1 and the chunk for one that is not."""
    session = write_session(tmp_path / "s", [recorded_part(number) for number in range(5)])
    done = cangate("sessions", "show", session)
    assert done.status == 0
    assert "5 in 0.4 s from 2026-01-31T08:00:00.000Z, 10.00 a second" in done.stdout
    file = session / "0001.mcap"
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(b"C-000003")] ^= 1
    file.write_bytes(damaged)
    done = cangate("sessions", "show", session)
    assert done.status == 1
    assert "0001.mcap: chunk 5 at byte" in done.stdout


def test_list_shows_every_session(cangate: CommandLine, tmp_path: Path) -> None:
    """Oldest first, then folders that are none."""
    for name, hour in (("a", 1), ("c", 0)):
        info = INFO.model_copy(update={"created_at": INFO.created_at + timedelta(hours=hour)})
        with SessionWriter.create(tmp_path / "r" / name, info) as writer:
            writer.write(recorded_part(0))
    (tmp_path / "r" / "b").mkdir()
    (tmp_path / "r" / ".cangate-session-abcd1234").mkdir()  # an import at work
    config = tmp_path / "config.toml"
    config.write_text(f'[record]\nfolder = "{tmp_path / "r"}"\n')
    done = cangate("sessions", "list", "-c", config)
    assert done.status == 0
    rows = done.stdout.splitlines()[-3:]
    assert [row.split()[0] for row in rows] == [f"{tmp_path}/r/c", f"{tmp_path}/r/a", "b"]
    assert "no .mcap file" in rows[-1]
    assert ".cangate" not in done.stdout


def test_list_and_show_name_what_is_no_file(cangate: CommandLine, tmp_path: Path) -> None:
    """A pipe is not waited for: the rest of its session is told, and one that is nothing else is none."""
    session = write_session(tmp_path / "r" / "s", [recorded_part(0)])
    (tmp_path / "r" / "t").mkdir()
    for folder in (session, tmp_path / "r" / "t"):
        os.mkfifo(folder / "pipe.mcap")
    config = tmp_path / "config.toml"
    config.write_text(f'[record]\nfolder = "{tmp_path / "r"}"\n')
    rows = cangate("sessions", "list", "-c", config).stdout.splitlines()[-2:]
    assert "damaged" in rows[0]
    assert "no regular file" in rows[1]
    done = cangate("sessions", "show", session)
    assert (done.status, done.stdout.splitlines()[-1]) == (1, "pipe.mcap: cannot be read: no regular file")


def test_list_refuses_a_folder_that_is_not_there(cangate: CommandLine, tmp_path: Path) -> None:
    """No table without rows: nothing was recorded there, or the folder is another one."""
    config = tmp_path / "config.toml"
    config.write_text(f'[record]\nfolder = "{tmp_path / "r"}"\n')
    line = cangate("sessions", "list", "-c", config).one_line_error()
    assert line == f"cangate: cannot list {tmp_path / 'r'}: No such file or directory"


def test_replay_direct_repeats_the_line(cangate: CommandLine, tmp_path: Path, store: Path) -> None:
    """At full speed and at a multiple of the recorded pace; a selection plays only what is meant."""
    session = write_session(tmp_path / "s", [drawn_part(number, damaged=number % 3 == 0) for number in range(9)])
    model = ("--model", "bars", "--store", store)
    told = "replay: 9 parts, 6 ok, 3 damaged, 0 error, 0 unanswered, 0 mismatches"
    done = cangate("replay", session, "--speed", "max", *model)
    assert (done.status, done.stdout) == (0, f"{told}\n"), done.stderr
    done = cangate("replay", session, "--speed", 4, *model)
    assert (done.status, done.stdout.splitlines()[-1]) == (0, told)
    assert "spacing error: 95% below" in done.stdout
    done = cangate("replay", session, "--speed", "max", "--only", "damaged", "--from", "0.25", "--to", "0.7", *model)
    assert done.stdout.startswith("replay: 2 parts, 0 ok, 2 damaged")


def test_replay_selects_by_label_where_nothing_was_said(cangate: CommandLine, tmp_path: Path, store: Path) -> None:
    """A folder that was imported has labels and no verdicts; what was said counts where something was."""
    parts = [drawn_part(number, damaged=number < 3) for number in range(5)]
    parts[1:] = [replace(part, verdict=None) for part in parts[1:]]
    parts[0] = replace(parts[0], label=Decision.OK)
    session = write_session(tmp_path / "s", parts)
    done = cangate("replay", session, "--speed", "max", "--only", "damaged", "--model", "bars", "--store", store)
    assert done.stdout.startswith("replay: 3 parts, 0 ok, 3 damaged"), done.stderr


def test_replay_counts_what_differs_and_what_is_lost(cangate: CommandLine, tmp_path: Path, store: Path) -> None:
    """A recorded verdict that is not repeated is a mismatch; a part without its frame is skipped, and both are told."""
    wrong = drawn_part(0, damaged=True)
    parts = [
        drawn_part(1),
        recorded_part(0, frame=wrong.frame),
        replace(recorded_part(2, frame=None), event=drawn_part(2).event.model_copy(update={"frame_dropped": True})),
        recorded_part(3, frame=b"\x89PNG not really"),
    ]
    done = cangate(
        "replay", write_session(tmp_path / "s", parts), "--speed", "max", "--model", "bars", "--store", store
    )
    assert done.status == 0
    assert done.stdout.splitlines() == [
        "skipped: 1 parts whose frame was not recorded",
        "replay: 3 parts, 1 ok, 1 damaged, 1 error, 0 unanswered, 2 mismatches",
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--speed", "fast"), "--speed 'fast' is neither max nor a number"),
        (("--speed", "0"), "--speed '0'"),
        (("--speed", "1e-300"), "--speed '1e-300' is neither max nor a number from 0.01 to 1000"),
        (("--speed", "nan"), "--speed 'nan'"),
        (("--from", "5", "--to", "4"), "--from 5 is not before --to 4"),
        (("--from", "1:00", "--to", "60"), "--from 1:00 is not before --to 60"),
        (("--from", "yesterday"), "'yesterday' is no time"),
        (("--from", "2026-01-31T08:00:00"), "has no offset"),
        ((), "give --model"),
        (("--model", "nobody"), "no model 'nobody'"),
        (("--via", "mqtt", "--model", "bars"), "--model belongs to --via direct"),
        (("--via", "pigeon"), "pigeon"),
    ],
)
def test_replay_refuses_what_it_cannot_do(
    cangate: CommandLine, tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    """One line that names it, exit status 2."""
    session = write_session(tmp_path / "s", [recorded_part(0)])
    assert complaint in cangate("replay", session, *arguments).one_line_error()


def test_replay_refuses_what_is_no_session(cangate: CommandLine, tmp_path: Path) -> None:
    """A folder without recordings is named."""
    assert "no .mcap file" in cangate("replay", tmp_path).one_line_error()


def test_import_takes_names_that_are_no_utf8(cangate: CommandLine, tmp_path: Path) -> None:
    """Spelled out, as every other command has them."""
    pictures = write_parts(tmp_path / "pictures", 1)
    (pictures / "part1.png").rename(pictures / os.fsdecode(b"caf\xe9.png"))
    assert cangate("sessions", "import", pictures, tmp_path / "s").status == 0
    (part,) = Session.open(tmp_path / "s").parts()
    assert (part.event.event_id, part.event.part_id) == (r"caf\xe9.png", r"caf\xe9")
