"""When `cangate record` ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from adapters.clock import SystemClock
from adapters.recordings.recorder import SessionRecorder
from schemas.settings import RecordSettings
from service.cli.record import _until
from tests.support.line import arrival


async def test_parts_that_the_disk_refuses_have_passed_as_well(tmp_path: Path) -> None:
    """Else `--parts 3` would go on for as long as the disk is full."""
    settings = RecordSettings(enabled=True, folder=tmp_path)
    recorder = SessionRecorder(
        settings, station="line1", origin="mqtt", fetch=lambda *_: b"fetched", clock=SystemClock()
    )
    recorder.folder.rmdir()
    recorder.folder.write_text("in the way")
    for number in range(3):
        recorder.offer(arrival(f"e{number}"), None, b"frame")
    async with asyncio.timeout(20):
        await _until(asyncio.Event(), recorder, 3)
    assert (recorder.parts, recorder.parts_dropped) == (0, 3)
    await asyncio.to_thread(recorder.close)
