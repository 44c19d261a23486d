"""Somebody removes what is being recorded: it goes on in a new file, and nobody is told that all is there."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from adapters.clock import SystemClock
from adapters.recordings.reader import Session
from adapters.recordings.recorder import SessionRecorder
from adapters.telemetry import Metrics
from schemas.settings import RecordSettings
from tests.support.line import arrival
from tests.support.mqtt import counted
from tests.support.waiting import eventually

MB = 1 << 20


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as the recorder's thread has brought `condition` about."""
    asyncio.run(eventually(condition))


def recorder(folder: Path, metrics: Metrics | None = None, **changes: object) -> SessionRecorder:
    settings = RecordSettings.model_validate({"enabled": True, "folder": folder} | changes)
    return SessionRecorder(
        settings, station="line1", origin="service", fetch=lambda *_: b"fetched", clock=SystemClock(), metrics=metrics
    )


def record(recording: SessionRecorder, *event_ids: str, frame: bytes = b"frame") -> None:
    """Offer parts and return once they are written."""
    due = recording.parts + len(event_ids)
    for event_id in event_ids:
        recording.offer(arrival(event_id), None, frame)
    wait_for(lambda: recording.parts == due)


def ids(path: Path) -> list[str]:
    return [part.event.event_id for part in Session.open(path).parts()]


def test_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    """The next part is recorded, and what is gone is a fault, a line in the log and a count."""
    metrics = Metrics()
    recording = recorder(tmp_path, metrics)
    record(recording, "e0", "e1", "e2")
    shutil.rmtree(recording.folder)
    with capture_logs() as logged:
        record(recording, "e3", "e4")
    told = f"{recording.folder}: a file was removed or replaced while it was being written; 3 parts are gone"
    assert recording.fault == told
    assert (recording.parts_lost, counted(metrics, "cangate_parts_not_recorded_total")) == (3, 3)
    assert [line["event"] for line in logged] == ["recording_lost"]
    recording.close()
    session = Session.open(recording.folder)
    assert [part.event.event_id for part in session.parts()] == ["e3", "e4"]
    assert session.troubles == []
    assert recording.fault == told


def test_fault_ends_with_a_part_that_is_recorded_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lost stays counted."""
    monkeypatch.setattr("adapters.recordings.recorder._TOLD_S", 0.0)
    recording = recorder(tmp_path)
    record(recording, "e0")
    shutil.rmtree(recording.folder)
    record(recording, "e1", "e2")
    recording.close()
    assert (recording.fault, recording.parts_lost) == (None, 1)


def test_folder_that_is_removed_behind_the_last_part_is_noticed(tmp_path: Path) -> None:
    """At the end, when the index would be written."""
    recording = recorder(tmp_path)
    record(recording, "e0", "e1")
    shutil.rmtree(recording.folder)
    recording.close()
    assert recording.parts_lost == 2
    assert "2 parts are gone" in (recording.fault or "")


def test_file_that_is_replaced_or_moved_is_left(tmp_path: Path) -> None:
    """A copy in its place is not written to; the file that was moved away is whole where it is now."""
    recording = recorder(tmp_path)
    record(recording, "e0", "e1")
    moved = tmp_path / "moved.mcap"
    (recording.folder / "0001.mcap").rename(moved)
    shutil.copyfile(moved, recording.folder / "0001.mcap")
    record(recording, "e2")
    recording.close()
    assert recording.parts_lost == 2
    assert (ids(moved), Session.open(moved).count()) == (["e0", "e1"], 2)
    assert ids(recording.folder / "0002.mcap") == ["e2"]


def test_files_that_were_closed_go_with_the_folder_and_those_that_made_room_do_not(tmp_path: Path) -> None:
    """Of four files the two oldest were deleted to make room, which is no loss."""
    recording = recorder(tmp_path, file_mb=1, keep_gb=2.5 / 1024)
    for number in range(4):
        record(recording, f"e{number}", frame=bytes(MB))
    # all that goes has gone: nobody else deletes files beside this test
    wait_for(lambda: sorted(path.name for path in recording.folder.iterdir()) == ["0003.mcap", "0004.mcap"])
    shutil.rmtree(recording.folder)
    record(recording, "e4")
    recording.close()
    assert (recording.parts, recording.parts_lost) == (5, 2)
