"""The recorder beside a running line: bounded, honest about what it lost, never in the way."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from mcap.reader import make_reader
from structlog.testing import capture_logs

from adapters.clock import SystemClock
from adapters.recordings.reader import Session
from adapters.recordings.recorder import SessionRecorder, surplus
from adapters.recordings.writer import SessionWriter
from schemas.messages import ImageRef, Reason
from schemas.settings import RecordSettings
from service.errors import FrameMissing, UsageError
from tests.support.line import arrival
from tests.support.mqtt import verdict
from tests.support.recordings import INFO, recorded_part

MB = 1 << 20


class Disk:
    """Gives frames to the recorder's thread, which `hold` keeps busy until `release`."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.asked: list[str] = []

    def fetch(self, image: ImageRef | None, frame_bytes: bytes | None) -> bytes:  # noqa: ARG002 - as the frames' own
        assert self.free.wait(20)
        assert image is not None
        self.asked.append(image.uri)
        if image.uri.endswith("gone.png"):
            raise FrameMissing("the image does not exist")
        if image.uri.endswith("odd.png"):
            raise RuntimeError("a defect")
        return b"fetched"


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as the recorder's thread has brought `condition` about."""
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def recorder(folder: Path, disk: Disk, **changes: object) -> SessionRecorder:
    settings = RecordSettings.model_validate({"enabled": True, "folder": folder, "queue_mb": 1} | changes)
    return SessionRecorder(settings, station="line1", origin="service", fetch=disk.fetch, clock=SystemClock())


def test_recorder_keeps_the_bytes_that_were_judged(tmp_path: Path) -> None:
    """The image file of the frame where there was one; fetched afterwards where the part was never looked at."""
    disk = Disk()
    recording = recorder(tmp_path, disk)
    recording.offer(arrival("judged"), verdict("judged"), b"judged bytes")
    recording.offer(arrival("refused"), verdict("refused"), None)
    recording.offer(arrival("gone", uri="file:///gone.png"), verdict("gone"), None)
    recording.close()
    parts = {part.event.event_id: part.frame for part in Session.open(recording.folder).parts()}
    assert parts == {"judged": b"judged bytes", "refused": b"fetched", "gone": None}
    assert disk.asked == ["file:///frame.png", "file:///gone.png"]


def test_recorder_does_not_look_for_what_was_missing(tmp_path: Path) -> None:
    """A frame that the service found missing, or was not allowed to read, is none of the recorder's either."""
    disk = Disk()
    recording = recorder(tmp_path, disk)
    for reason in (Reason.FRAME_MISSING, Reason.FRAME_REFUSED):
        recording.offer(arrival(reason), verdict(reason).model_copy(update={"reason": reason}), None)
    recording.close()
    assert disk.asked == []
    assert recording.parts == 2


def test_recorder_drops_frames_before_it_drops_parts(tmp_path: Path) -> None:
    """With a disk that hangs, frames beyond the limit are dropped and counted; their events and verdicts are kept."""
    disk = Disk()
    disk.free.clear()
    recording = recorder(tmp_path, disk)
    recording.offer(arrival("first"), verdict("first"), None)  # holds the thread
    for number in range(6):
        recording.offer(arrival(f"e{number}"), verdict(f"e{number}"), bytes(MB // 3))
    assert recording.frames_dropped == 3
    disk.free.set()
    recording.close()
    parts = {part.event.event_id: part for part in Session.open(recording.folder).parts()}
    assert len(parts) == 7
    assert [parts[f"e{number}"].event.frame_dropped for number in range(6)] == [False] * 3 + [True] * 3
    assert all(part.verdict is not None for part in parts.values())


def test_frame_that_is_dropped_does_not_wait_in_its_event(tmp_path: Path) -> None:
    """An image that came inside a message is the event's own, and as large."""
    disk = Disk()
    disk.free.clear()
    recording = recorder(tmp_path, disk)
    recording.offer(arrival("first"), verdict("first"), None)  # holds the thread
    for number in range(6):
        inline = replace(arrival(f"e{number}", uri=None), frame_bytes=bytes(MB // 3))
        recording.offer(inline, verdict(f"e{number}"), None)
    held = [waiting for waiting in recording._queue if waiting.arrival.event.event_id != "first"]
    assert [waiting.frame is None for waiting in held] == [False] * 3 + [True] * 3
    assert not any(waiting.arrival.frame_bytes for waiting in held)
    disk.free.set()
    recording.close()
    parts = [part.event for part in Session.open(recording.folder).parts() if part.event.event_id != "first"]
    assert [(event.inline, event.frame_dropped) for event in parts] == [(True, False)] * 3 + [(True, True)] * 3


def test_recorder_drops_parts_beyond_all_bounds(tmp_path: Path) -> None:
    """Not even events queue without end."""
    disk = Disk()
    disk.free.clear()
    recording = recorder(tmp_path, disk)
    for number in range(1100):
        recording.offer(arrival(f"e{number}"), verdict(), None)
    assert recording.parts_dropped in (75, 76)  # the thread may have taken the first one or not
    disk.free.set()
    recording.close()
    assert recording.parts == 1100 - recording.parts_dropped


def test_recorder_leaves_replayed_parts_out(tmp_path: Path) -> None:
    """A session holds what happened; one without parts leaves nothing behind."""
    recording = recorder(tmp_path, Disk())
    recording.offer(arrival(replayed=True), verdict(), b"frame")
    recording.close()
    assert (recording.parts, list(tmp_path.iterdir())) == (0, [])


def test_recorder_goes_on_after_the_disk_has_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes nothing becomes a fault, its parts are counted as lost; all is well again when it takes one."""
    monkeypatch.setattr("adapters.recordings.recorder._RETRY_S", 0.0)
    recording = recorder(tmp_path, Disk())
    recording.folder.rmdir()
    recording.folder.write_text("in the way")
    recording.offer(arrival("e1"), verdict("e1"), b"frame")
    wait_for(lambda: recording.parts_dropped == 1)
    assert str(recording.folder) in (recording.fault or "")
    recording.folder.unlink()
    recording.offer(arrival("e2"), verdict("e2"), b"frame")
    recording.close()
    assert recording.fault is None
    assert [part.event.event_id for part in Session.open(recording.folder).parts()] == ["e2"]


@pytest.mark.parametrize(
    ("captured_at", "published_ns"),
    [
        (datetime(1970, 1, 1, 0, 0, 5, tzinfo=timezone(timedelta(hours=2))), 0),
        (datetime(2900, 1, 1, tzinfo=UTC), 2**64 - 1),
    ],
)
def test_recorder_takes_any_time_of_capture(tmp_path: Path, captured_at: datetime, published_ns: int) -> None:
    """A camera may have any clock; MCAP has 64 bits for it, the event itself keeps what was said."""
    recording = recorder(tmp_path, Disk())
    odd = arrival("e1")
    recording.offer(replace(odd, event=odd.event.model_copy(update={"captured_at": captured_at})), None, b"frame")
    recording.offer(arrival("e2"), None, b"frame")
    recording.close()
    assert (recording.fault, recording.parts) == (None, 2)
    session = Session.open(recording.folder)
    assert [(part.event.event_id, part.event.captured_at) for part in session.parts()] == [
        ("e1", captured_at),
        ("e2", None),
    ]
    with session.files[0].open("rb") as file:
        messages = [message for _, channel, message in make_reader(file).iter_messages() if "frame" in channel.topic]
    assert published_ns in [message.publish_time for message in messages]


def test_recorder_goes_on_after_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected costs its part, is a fault until the next one is written, and is logged with its trace."""
    monkeypatch.setattr("adapters.recordings.recorder._RETRY_S", 0.0)
    recording = recorder(tmp_path, Disk())
    recording.offer(arrival("e1"), None, b"frame")
    with capture_logs() as logged:
        recording.offer(arrival("e2", uri="file:///odd.png"), None, None)
        wait_for(lambda: recording.parts_dropped == 1)
    assert str(recording.fault) == f"{recording.folder}: a defect"
    assert [str(line["exc_info"]) for line in logged] == ["a defect"]
    recording.offer(arrival("e3"), None, b"frame")
    recording.close()
    assert (recording.fault, recording.parts) == (None, 2)
    assert [part.event.event_id for part in Session.open(recording.folder).parts()] == ["e1", "e3"]


@pytest.mark.parametrize("step", ["start", "flush"])
def test_recorder_leaves_no_files_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A file that cannot be begun, or has no room for its first part, is removed; its number is used again."""

    def full(_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("adapters.recordings.recorder._RETRY_S", 0.0)
    recording = recorder(tmp_path, Disk())
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(f"mcap.writer.Writer.{step}", full)
        for number in range(3):
            recording.offer(arrival(f"e{number}"), None, b"frame")
        wait_for(lambda: recording.parts_dropped == 3)
        assert recording.fault == f"{recording.folder}: No space left on device"
        assert list(recording.folder.iterdir()) == []
    recording.offer(arrival("e3"), None, b"frame")
    recording.close()
    assert [path.name for path in recording.folder.iterdir()] == ["0001.mcap"]
    assert [part.event.event_id for part in Session.open(recording.folder).parts()] == ["e3"]


def test_recorder_takes_the_next_name_where_one_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that failed and could not be removed either does not end recording."""
    monkeypatch.setattr("adapters.recordings.recorder._RETRY_S", 0.0)
    recording = recorder(tmp_path, Disk())
    (recording.folder / "0001.mcap").write_bytes(b"")
    for number in range(2):
        recording.offer(arrival(f"e{number}"), None, b"frame")
    recording.close()
    assert (recording.parts, recording.parts_dropped) == (1, 1)
    assert [part.event.event_id for part in Session.open(recording.folder / "0002.mcap").parts()] == ["e1"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_recorder_needs_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A network drive may have none: files are written and make room all the same, but for the one in work."""

    def no_locks(_file: object, _operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("adapters.recordings.writer.fcntl.flock", no_locks)
    recording = recorder(tmp_path, Disk(), file_mb=1, keep_gb=0.0001, queue_mb=8)
    for number in range(3):
        recording.offer(arrival(f"e{number}"), None, bytes(MB))
    recording.close()
    assert (recording.fault, recording.parts) == (None, 3)
    assert [path.name for path in recording.folder.iterdir()] == ["0003.mcap"]


def test_recorder_refuses_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """At start, by name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        recorder(tmp_path / "file", Disk())


def test_surplus_is_the_oldest_files_of_all_sessions(tmp_path: Path) -> None:
    """As many as have to go, and none more."""
    files = recordings(tmp_path, 4)
    assert surplus(tmp_path, 400) == []
    assert surplus(tmp_path, 250) == files[:2]


def test_surplus_is_never_a_file_in_work(tmp_path: Path) -> None:
    """Stations may record into one folder: what any of them is writing stays, however old."""
    files = recordings(tmp_path, 2)
    with SessionWriter.create(tmp_path / "other", INFO) as other:
        other.write(recorded_part(0))
        assert other.path is not None
        os.utime(other.path, (-1, -1))
        assert surplus(tmp_path, 0) == files
    os.utime(tmp_path / "other" / "0001.mcap", (-1, -1))
    assert surplus(tmp_path, 0) == [tmp_path / "other" / "0001.mcap", *files]


def recordings(root: Path, count: int) -> list[Path]:
    """Write files of 100 bytes of two sessions, the oldest first."""
    files = [root / f"s{age % 2}" / f"{age}.mcap" for age in range(count)]
    for age, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(100))
        os.utime(file, (age, age))
    return files


def test_recorder_deletes_old_sessions_for_new_ones(tmp_path: Path) -> None:
    """Beyond what may be kept the oldest files go, and a folder with its last file."""
    old = tmp_path / "line1-20200101T000000.000000Z"
    old.mkdir()
    (old / "0001.mcap").write_bytes(bytes(3 * MB))
    recording = recorder(tmp_path, Disk(), keep_gb=2 / 1024)
    recording.offer(arrival("e1"), verdict("e1"), b"frame")
    recording.close()
    assert [path.name for path in tmp_path.iterdir()] == [recording.folder.name]
