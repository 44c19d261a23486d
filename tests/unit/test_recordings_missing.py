"""What is missing of a session, or does not belong to it, is named; what is merely unfinished is not called damaged."""

from __future__ import annotations

import errno
import io
import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import pytest
from mcap.reader import make_reader
from mcap.writer import Writer

from adapters.recordings import chunks
from adapters.recordings.reader import Session
from adapters.recordings.writer import SessionWriter
from service.errors import UsageError
from tests.support.recordings import BEGIN, INFO, recorded_part, write_session

_PARTS = [recorded_part(number, frame=bytes([number]) * 300) for number in range(8)]
_FILE_BYTES = 10_000
"""Two parts a file."""


def read(path: Path) -> tuple[list[str], list[str]]:
    """Return the events of all parts, and the troubles."""
    session = Session.open(path)
    return [part.event.event_id for part in session.parts()], session.troubles


def without_chunk(file: Path, number: int) -> bytes:
    """Return the bytes of a file, less those of a chunk."""
    with file.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    chunk = summary.chunk_indexes[number - 1]
    content = file.read_bytes()
    return content[: chunk.chunk_start_offset] + content[chunk.chunk_start_offset + chunk.chunk_length :]


def write_foreign(file: Path) -> None:
    """Write a file as another tool does."""
    with file.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        schema = writer.register_schema("text", "", b"")
        writer.add_message(writer.register_channel("/chatter", "json", schema), 1, b'{"data": "hello"}', 1)
        writer.finish()  # type: ignore[no-untyped-call] # mcap leaves it untyped


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A session of one file."""
    return write_session(tmp_path / "s", _PARTS)


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A session of several files."""
    folder = write_session(tmp_path / "several", _PARTS, file_bytes=_FILE_BYTES)
    assert len(list(folder.iterdir())) >= 3
    return folder


def test_chunk_that_is_missing_is_named(whole: Path) -> None:
    """With the index, which no longer fits, and without it: the parts are numbered."""
    file = whole / "0001.mcap"
    content = without_chunk(file, 5)
    for damaged in (content, content[:-2000]):
        file.write_bytes(damaged)
        events, troubles = read(whole)
        assert [event for event in events if event != "e7"] == [f"e{number}" for number in range(7) if number != 3]
        assert troubles[0] == "0001.mcap: part 4 is missing"
        assert len(troubles) == 2


def test_index_that_does_not_fit_is_named(whole: Path) -> None:
    """It could have told of chunks that are not there; what is there is read from the beginning."""
    file = whole / "0001.mcap"
    content = bytearray(file.read_bytes())
    content[-12] ^= 1  # its checksum
    file.write_bytes(content)
    events, (trouble,) = read(whole)
    assert len(events) == 8
    assert trouble.startswith("0001.mcap: its index at byte ")


def test_file_that_is_missing_is_named(several: Path) -> None:
    """Between others; a session whose first files were deleted to make room only begins later."""
    (several / "0002.mcap").unlink()
    assert read(several)[1] == ["0003.mcap: before it 0002.mcap is missing"]
    (several / "0001.mcap").unlink()
    events, troubles = read(several)
    assert (events[-1], troubles) == ("e7", [])


def test_selection_is_no_gap(several: Path) -> None:
    """An index leads to the parts of a time; those beside it are not missing."""
    session = Session.open(several)
    parts = list(session.parts(from_ns=_PARTS[1].arrived_ns, to_ns=_PARTS[7].arrived_ns))
    assert (parts, session.troubles) == (_PARTS[1:7], [])


def test_parts_that_the_disk_refused_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session does not hold them, whoever has told of it then."""

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    with SessionWriter.create(tmp_path / "s", INFO) as writer:
        writer.write(_PARTS[0])
        writer.close()
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr("mcap.writer.Writer.flush", full)
            for part in _PARTS[1:3]:
                with pytest.raises(OSError, match="No space"):
                    writer.write(part)
        writer.write(_PARTS[3])
    assert read(tmp_path / "s") == (["e0", "e3"], ["0002.mcap: parts 2 to 3 are missing"])


def test_files_of_others_are_left_out_by_name(whole: Path, tmp_path: Path) -> None:
    """Of another session, of another tool; a copy is named as well."""
    later = INFO.model_copy(update={"created_at": BEGIN + timedelta(hours=1)})
    with SessionWriter.create(tmp_path / "later", later) as writer:
        writer.write(replace(_PARTS[0], arrived_ns=_PARTS[7].arrived_ns + 1))
    shutil.copy(tmp_path / "later" / "0001.mcap", whole / "0002.mcap")
    write_foreign(whole / "a-tool.mcap")
    events, troubles = read(whole)
    assert events == [f"e{number}" for number in range(8)]
    assert troubles == [
        "0002.mcap: of another session, begun 2026-01-31T09:00:00.000Z, left out",
        "a-tool.mcap: no recording of cangate, left out",
    ]


def test_copy_of_a_file_is_named(whole: Path) -> None:
    """Its parts are there twice."""
    shutil.copy(whole / "0001.mcap", whole / "copy.mcap")
    _, troubles = read(whole)
    assert troubles == ["copy.mcap: part 1 comes after part 8: the file is there twice, or misplaced"]


def test_session_whose_beginning_is_lost_is_told_by_its_parts(whole: Path) -> None:
    """One bit in the first small chunk of the only file, with an index and without: all parts are there."""
    file = whole / "0001.mcap"
    content = bytearray(file.read_bytes())
    content[content.index(b"cangate/session/1")] ^= 1
    for damaged in (content, content[:-300]):
        file.write_bytes(damaged)
        session = Session.open(whole)
        assert (session.info.station, session.info.created_at, session.info.origin) == ("line1", BEGIN, "unknown")
        assert list(session.parts()) == _PARTS
        assert session.troubles[0].startswith("0001.mcap: chunk 1 at byte ")
        assert "corrupt, skipped" in session.troubles[0]


def test_session_of_which_nothing_can_be_read_is_refused(whole: Path) -> None:
    """There is no part that could tell of it."""
    file = whole / "0001.mcap"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UsageError, match="nothing of it can be read"):
        Session.open(whole)


def test_session_in_work_is_not_damaged(tmp_path: Path) -> None:
    """What has been written is read; that there is no index yet is a remark, and a gap is a gap."""
    writer = SessionWriter.create(tmp_path / "s", INFO)
    for part in _PARTS[:4]:
        writer.write(part)
    session = Session.open(tmp_path / "s")
    assert session.in_work
    assert (list(session.parts()), session.count()) == (_PARTS[:4], None)
    assert session.remarks == ["0001.mcap: still being written, read as far as it had come"]
    assert session.troubles == []
    writer.close()
    session = Session.open(tmp_path / "s")
    assert (session.in_work, list(session.parts()), session.remarks) == (False, _PARTS[:4], [])


def test_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """The ten-thousandth comes after the one before it."""
    folder = write_session(tmp_path / "s", _PARTS, file_bytes=1)
    for file in sorted(folder.iterdir(), reverse=True):
        file.rename(folder / f"{int(file.stem) + 9995:04d}.mcap")
    assert read(folder) == ([f"e{number}" for number in range(8)], [])


def test_file_that_goes_while_the_session_is_read_is_named(several: Path) -> None:
    """`record.keep_gb` makes room at any time: the rest of the session is read, counted and weighed."""
    kept = [part for part in _PARTS if part not in list(Session.open(several / "0002.mcap").parts())]
    session = Session.open(several)
    written = session._written(None, None)
    begin = next(written)
    (several / "0002.mcap").unlink()
    assert [begin, *written] == kept
    assert list(session.parts()) == kept
    assert kept[-1] == _PARTS[-1]
    assert session.troubles == ["0002.mcap: cannot be read: No such file or directory"]
    assert session.count() is None
    assert not session.in_work
    assert session.size == sum(file.stat().st_size for file in several.iterdir())


def test_file_that_goes_is_told_by_the_count(several: Path) -> None:
    """Nobody has read its parts: what the other indexes name is not all."""
    session = Session.open(several)
    (several / "0001.mcap").unlink()
    assert (session.count(), session.troubles) == (None, ["0001.mcap: cannot be read: No such file or directory"])


def test_pipe_among_the_files_is_named(whole: Path) -> None:
    """It is not waited for; alone it is no session."""
    os.mkfifo(whole / "pipe.mcap")
    assert read(whole) == ([f"e{number}" for number in range(8)], ["pipe.mcap: cannot be read: no regular file"])
    with pytest.raises(UsageError, match=r"pipe\.mcap: no regular file"):
        Session.open(whole / "pipe.mcap")


class _FailingDisk(io.BytesIO):
    """A file of which some bytes cannot be read."""

    def __init__(self, content: bytes, spoilt: range) -> None:
        super().__init__(content)
        self._spoilt = spoilt

    def read(self, size: int | None = -1, /) -> bytes:
        begin = self.tell()
        content = super().read(size)
        if self._spoilt.start < begin + len(content) and begin < self._spoilt.stop:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return content


@pytest.mark.parametrize("indexed", [True, False])
def test_place_that_a_disk_fails_to_read_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool) -> None:
    """A frame in the middle costs its part; the beginning of a chunk those behind it, where no index leads on."""
    file = whole / "0001.mcap"
    content = file.read_bytes() if indexed else file.read_bytes()[:-100]
    file.write_bytes(content)
    frame = content.index(bytes([3]) * 300)
    with file.open("rb") as stream:
        place = [each for each in chunks.ChunkedFile(file)._places(stream, None, None) if hasattr(each, "offset")][4]

    def read_with(spoilt: range) -> tuple[list[str], list[str]]:
        def opened(path: Path) -> BinaryIO:
            return _FailingDisk(path.read_bytes(), spoilt)

        with monkeypatch.context() as patch:
            patch.setattr(chunks, "open_regular", opened)
            return read(whole)

    events, troubles = read_with(range(frame, frame + 1))
    assert events == [f"e{number}" for number in range(8) if number != 3]
    assert troubles[0] == f"0001.mcap: chunk 5 at byte {place.offset} cannot be read, skipped: Input/output error"
    events, troubles = read_with(range(place.offset - 1, place.offset))
    assert events == [f"e{number}" for number in range(8 if indexed else 3) if number != 3]
    assert "Input/output error" in troubles[0]


def test_names_that_are_no_utf_8_are_spelled_out(tmp_path: Path) -> None:
    """Of the session and of its files: reports and documents take no other."""
    folder = write_session(tmp_path / os.fsdecode(b"s\xff"), _PARTS)
    (folder / os.fsdecode(b"\xfe.mcap")).touch()
    session = Session.open(folder)
    assert (session.name, len(list(session.parts()))) == (r"s\xff", 8)
    assert session.troubles == [r"\xfe.mcap: cut off at byte 0, after chunk 0"]
