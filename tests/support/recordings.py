"""Recorded sessions to test with."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2

from adapters.recordings.writer import SessionWriter
from schemas.messages import Decision, Gate, Verdict
from schemas.recordings import RecordedEvent, SessionInfo, Truth
from service.replay.parts import RecordedPart, unix_ns
from tests.support.mqtt import verdict
from tests.support.parts import draw_part

BEGIN = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
INFO = SessionInfo(station="line1", created_at=BEGIN, version="0.1.0", origin="service")


def recorded_part(
    number: int,
    *,
    frame: bytes | None = b"\x89PNG not really",
    gate: Gate = Gate.PASS,
    label: Truth | None = None,
    spacing_s: float = 0.1,
) -> RecordedPart:
    """Return the part number `number` of a shift, with the verdict that `gate` asks for."""
    at = BEGIN + timedelta(seconds=number * spacing_s)
    event_id = f"e{number}"
    event = RecordedEvent(
        event_id=event_id,
        part_id=f"C-{number:06d}",
        trigger_id=number + 1,
        captured_at=at,
        deadline_ms=5000,
        source="mqtt",
        inline=True,
    )
    verdict_json = verdict(event_id, seq=number + 1, gate=gate).to_json()
    # as a reader would find it: times to the millisecond
    return RecordedPart(event, unix_ns(at), frame, Verdict.model_validate_json(verdict_json), label)


def drawn_part(number: int, *, damaged: bool = False) -> RecordedPart:
    """Return a part with a real picture, labelled as drawn."""
    picture = cv2.imencode(".png", draw_part(5000 + number, damaged=damaged))[1].tobytes()
    truth: Truth = Decision.DAMAGED if damaged else Decision.OK
    gate = Gate.REJECT if damaged else Gate.PASS
    return recorded_part(number, frame=picture, gate=gate, label=truth)


def write_session(folder: Path, parts: Iterable[RecordedPart], *, file_bytes: int | None = None) -> Path:
    """Write parts as a session and return its folder."""
    with SessionWriter.create(folder, INFO, file_bytes=file_bytes) as writer:
        for part in parts:
            writer.write(part)
    return folder
