"""Sessions on disk: what was written is read, and what is damaged is named and passed over."""

from __future__ import annotations

import io
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader

from adapters.recordings.reader import Session
from adapters.recordings.writer import SessionWriter
from schemas.messages import Decision, Gate
from schemas.recordings import Track
from service.errors import UsageError
from service.replay.parts import RecordedPart
from tests.support.recordings import INFO, recorded_part, write_session

_PARTS = [recorded_part(number, frame=bytes([number]) * 300) for number in range(8)]


def ids(session: Session) -> list[str]:
    return [part.event.event_id for part in session.parts()]


def test_session_returns_what_was_written(tmp_path: Path) -> None:
    """Event, frame, verdict and label of every part, in the order of arrival."""
    parts = [
        recorded_part(0, label=Decision.OK),
        recorded_part(1, gate=Gate.REJECT, label=Decision.DAMAGED),
        recorded_part(2, frame=None),
        replace(recorded_part(3), verdict=None),
    ]
    session = Session.open(write_session(tmp_path / "s", parts))
    assert list(session.parts()) == parts
    assert (session.info, session.count(), session.troubles) == (INFO, 4, [])


def test_session_orders_parts_by_arrival(tmp_path: Path) -> None:
    """A part that was answered late was written late, and is played when it came."""
    written = [_PARTS[1], _PARTS[2], _PARTS[0], _PARTS[3]]
    assert list(Session.open(write_session(tmp_path / "s", written)).parts()) == _PARTS[:4]


def test_session_selects_by_time(tmp_path: Path) -> None:
    """The first moment belongs to a selection, the last does not."""
    session = Session.open(write_session(tmp_path / "s", _PARTS))
    chosen = session.parts(from_ns=_PARTS[2].arrived_ns, to_ns=_PARTS[5].arrived_ns)
    assert list(chosen) == _PARTS[2:5]


def test_session_rotates_its_files(tmp_path: Path) -> None:
    """A file that is full is closed; together they are one session, and each can be read alone."""
    folder = write_session(tmp_path / "s", _PARTS, file_bytes=10_000)
    session = Session.open(folder)
    assert len(session.files) > 1
    assert (list(session.parts()), session.count()) == (_PARTS, 8)
    alone = [part for file in session.files for part in Session.open(file).parts()]
    assert alone == _PARTS


def test_session_opens_in_other_tools(tmp_path: Path) -> None:
    """The plain MCAP reader finds schemas for all channels, and pictures in the schema that viewers know."""
    (file,) = Session.open(write_session(tmp_path / "s", _PARTS)).files
    summary = make_reader(io.BytesIO(file.read_bytes()), validate_crcs=True).get_summary()
    assert summary is not None
    schemas = {
        channel.topic: (channel.message_encoding, summary.schemas[channel.schema_id].name)
        for channel in summary.channels.values()
    }
    assert schemas == {
        "/line1/session": ("json", "cangate.SessionInfo"),
        "/line1/event": ("json", "cangate.RecordedEvent"),
        "/line1/frame": ("protobuf", "foxglove.CompressedImage"),
        "/line1/verdict": ("json", "cangate.Verdict"),
        "/line1/label": ("json", "cangate.RecordedLabel"),
    }


def test_session_that_was_not_closed_is_read_to_its_last_part(tmp_path: Path) -> None:
    """What a killed process had written is there: each part was handed over when it was done."""
    with SessionWriter.create(tmp_path / "s", INFO) as writer:
        for part in _PARTS:
            writer.write(part)
        killed = tmp_path / "killed"
        shutil.copytree(tmp_path / "s", killed)  # nobody holds the lock of a copy
    session = Session.open(killed)
    assert session.count() is None
    assert list(session.parts()) == _PARTS
    (trouble,) = session.troubles
    assert trouble.startswith("0001.mcap: cut off at byte")


def test_session_names_and_skips_a_corrupt_chunk(tmp_path: Path) -> None:
    """One flipped bit in the frame of one part costs that part, with and without an index."""
    (file,) = Session.open(write_session(tmp_path / "s", _PARTS)).files
    whole = bytearray(file.read_bytes())
    whole[whole.index(bytes([3]) * 300) + 7] ^= 1
    without_index = whole[: whole.rindex(bytes([7]) * 300) + 2000]
    for damaged in (whole, without_index):
        file.write_bytes(damaged)
        session = Session.open(file)
        assert ids(session) == [f"e{number}" for number in range(8) if number != 3]
        assert session.troubles[0].startswith("0001.mcap: chunk 5 at byte ")
        assert "is corrupt, skipped" in session.troubles[0]


def test_session_survives_the_loss_of_its_first_chunk(tmp_path: Path) -> None:
    """The channels are declared there; they are known from the index, else by their position."""
    folder = write_session(tmp_path / "s", _PARTS, file_bytes=10_000)
    first = Session.open(folder).files[0]
    whole = bytearray(first.read_bytes())
    whole[whole.index(b"cangate/session/1")] ^= 1
    for damaged in (whole, whole[:-300]):
        first.write_bytes(damaged)
        session = Session.open(folder)
        assert list(session.parts()) == _PARTS
        assert "chunk 1 at byte" in session.troubles[0]


@given(cut=st.integers(0, 2**30))
@settings(max_examples=60, deadline=None)
def test_session_cut_anywhere_gives_its_beginning(cut: int) -> None:
    """However a file ends, what is whole before that is read, in order, and nothing else."""
    data, found = _reread(lambda whole: whole[: cut % len(whole)])
    assert found == ([part.event.event_id for part in _PARTS])[: len(found)]
    assert len(found) == 8 or len(data) < _whole_length()


@given(position=st.integers(0, 2**30), bit=st.integers(0, 7))
@settings(max_examples=120, deadline=None)
def test_session_with_any_bit_flipped_tells_no_lies(position: int, bit: int) -> None:
    """A flipped bit loses parts or nothing; every part that is read is one that was written."""

    def flip(whole: bytes) -> bytes:
        damaged = bytearray(whole)
        damaged[position % len(damaged)] ^= 1 << bit
        return bytes(damaged)

    _, found = _reread(flip)
    assert set(found) <= {part.event.event_id for part in _PARTS}


def _whole_length() -> int:
    return len(_reread(lambda whole: whole)[0])


def _reread(change: object) -> tuple[bytes, list[str]]:
    """Write the parts, change the bytes of the file, and return them with what is read of them."""
    import tempfile  # noqa: PLC0415 - hypothesis and tmp_path do not go together

    assert callable(change)
    with tempfile.TemporaryDirectory() as name:
        (file,) = Session.open(write_session(Path(name) / "s", _PARTS)).files
        data: bytes = change(file.read_bytes())
        file.write_bytes(data)
        try:
            session = Session.open(file)
        except UsageError:
            return data, []
        read: list[RecordedPart] = list(session.parts())
        assert all(part in _PARTS for part in read)
        return data, [part.event.event_id for part in read]


@pytest.mark.parametrize(
    "content", [b"", b"\x89MCAP0\r\n", b"no mcap at all", struct.pack("<8s", b"x") * 100, bytes(5000)], ids=repr
)
def test_session_refuses_what_is_none(tmp_path: Path, content: bytes) -> None:
    """Anything else is refused by name, in one line."""
    file = tmp_path / "0001.mcap"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"0001\.mcap"):
        Session.open(file)


def test_session_refuses_a_folder_without_recordings(tmp_path: Path) -> None:
    """Nothing there, or nothing of ours there."""
    with pytest.raises(UsageError, match=r"no \.mcap file"):
        Session.open(tmp_path)
    with pytest.raises(UsageError, match="nowhere"):
        Session.open(tmp_path / "nowhere")


def test_writer_refuses_a_folder_in_use(tmp_path: Path) -> None:
    """Two sessions in one folder would be one."""
    write_session(tmp_path / "s", _PARTS)
    with pytest.raises(UsageError, match="not empty"):
        SessionWriter.create(tmp_path / "s", INFO)


def test_tracks_are_the_topics() -> None:
    """A rename would make old recordings unreadable."""
    assert [str(track) for track in Track] == ["session", "event", "frame", "verdict", "label"]
