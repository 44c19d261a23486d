"""Records a running line on a thread of its own; whatever happens to the disk, the line does not wait."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog

from adapters.recordings.writer import SUFFIX, SessionWriter, in_work, session_folder
from adapters.telemetry import Metrics
from schemas.messages import ImageRef, Reason, Verdict
from schemas.recordings import RecordedEvent, SessionInfo
from schemas.settings import RecordSettings
from service.errors import FrameError
from service.ports import Arrival, Clock
from service.replay.parts import RecordedPart, unix_ns

log = structlog.get_logger(__name__)

_PARTS_WAITING: Final = 1024
"""Parts that may wait for the disk, with or without their frame."""

_RETRY_S: Final = 5.0
"""Pause after the disk has refused a part."""

_TOLD_S: Final = 10.0
"""How long at least it is a fault that recorded parts are gone: the next part is recorded at once, and would end it."""

_WITHOUT_FRAME: Final = frozenset({Reason.FRAME_MISSING, Reason.FRAME_REFUSED})
"""Parts that have no frame to fetch."""

Fetch = Callable[[ImageRef | None, bytes | None], bytes]
"""Returns the encoded image of an event; raises FrameError."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    arrival: Arrival
    verdict: Verdict | None
    frame: bytes | None
    dropped: bool
    inline: bool


class SessionRecorder:
    """Takes parts from the event loop and writes them as one session. Fulfils Recorder (service/ports.py).

    A frame that finds the queue full is dropped and counted, and its part is recorded without; so is a whole part where
    even that has no room, or where the disk refuses it. Parts whose file is removed while it is being written count as
    lost, and a new file is begun. Replayed parts are not recorded: a session holds what happened.

    Args:
        settings: where to, how large, how much may wait.
        station: id of the station.
        origin: what records, for `SessionInfo`.
        fetch: gets the image of a part that was never decoded, on the recorder's thread.
        clock: for the name of the session.
        metrics: counts what is not recorded.

    Raises:
        UsageError: the folder cannot be written.
    """

    def __init__(
        self,
        settings: RecordSettings,
        *,
        station: str,
        origin: str,
        fetch: Fetch,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        started_at = clock.now()
        self._settings = settings
        self._metrics = metrics or Metrics()
        self._fetch = fetch
        self._clock = clock
        info = SessionInfo(station=station, created_at=started_at, version=version("cangate"), origin=origin)
        self.folder = session_folder(settings.folder, station, started_at)
        self._writer = SessionWriter.create(self.folder, info, file_bytes=settings.file_mb << 20)
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._closing = False
        self.fault: str | None = None
        self.parts = 0
        self.frames_dropped = 0
        self.parts_dropped = 0
        self.parts_lost = 0
        self._lost_told_until = 0.0
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()

    def offer(self, arrival: Arrival, verdict: Verdict | None, encoded: bytes | None) -> None:
        """Take a part and its image file, if there is one; without it where there is no room. Never blocks."""
        if arrival.event.replayed:
            return
        if encoded is None:
            encoded = arrival.frame_bytes
        with self._changed:
            if len(self._queue) >= _PARTS_WAITING or self._closing:
                self._drop_part()
                return
            size = 0 if encoded is None else len(encoded)
            dropped = size > 0 and self._queued_bytes + size > self._settings.queue_mb << 20
            if dropped:
                encoded, size = None, 0
                self.frames_dropped += 1
                self._metrics.frames_not_recorded.inc()
            inline = arrival.frame_bytes is not None
            # a frame that was dropped must not wait in its event
            arrival = replace(arrival, frame_bytes=None)
            self._queue.append(_Waiting(arrival, verdict, encoded, dropped, inline))
            self._queued_bytes += size
            self._changed.notify()

    def close(self, patience_s: float = 5.0) -> None:
        """Write what waits, for `patience_s` seconds at most, and the index of the file."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(patience_s)

    def _write_all(self) -> None:
        refused_until = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    break
                waiting = self._queue.popleft()
                self._queued_bytes -= 0 if waiting.frame is None else len(waiting.frame)
            if self._clock.monotonic() < refused_until:
                self._drop_part()
                continue
            try:
                self._write(waiting)
                if self._clock.monotonic() >= self._lost_told_until:
                    self.fault = None
            except Exception as exc:  # noqa: BLE001 - the supervised boundary: logged there, and recording goes on
                self._refuse(exc)
                self._drop_part()
                refused_until = self._clock.monotonic() + _RETRY_S
        try:
            self._writer.close()
        except Exception as exc:  # noqa: BLE001 - as above
            self._refuse(exc)
        self._note_lost()
        if not self.parts:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _write(self, waiting: _Waiting) -> None:
        before = self._writer.path
        try:
            self._writer.write(self._part(waiting))
        finally:
            self._note_lost()
        self.parts += 1
        if self._writer.path != before:
            self._make_room()

    def _part(self, waiting: _Waiting) -> RecordedPart:
        arrival, frame = waiting.arrival, waiting.frame
        lost = waiting.verdict is not None and waiting.verdict.reason in _WITHOUT_FRAME
        if frame is None and arrival.image is not None and not (waiting.dropped or lost):
            with contextlib.suppress(FrameError):
                frame = self._fetch(arrival.image, None)
        event = RecordedEvent(
            **arrival.event.model_dump(),
            image=arrival.image,
            source=arrival.source,
            inline=waiting.inline,
            frame_dropped=waiting.dropped,
        )
        return RecordedPart(event, unix_ns(arrival.received_at), frame, waiting.verdict)

    def _note_lost(self) -> None:
        lost = self._writer.lost - self.parts_lost
        if not lost:
            return
        self.parts_lost += lost
        self._metrics.parts_not_recorded.inc(lost)
        self._lost_told_until = self._clock.monotonic() + _TOLD_S
        self.fault = f"{self.folder}: a file was removed or replaced while it was being written; {lost} parts are gone"
        log.error("recording_lost", folder=str(self.folder), parts=lost)

    def _refuse(self, exc: Exception) -> None:
        self.fault = f"{self.folder}: {getattr(exc, 'strerror', None) or str(exc) or type(exc).__name__}"
        log.error("part_not_recorded", error=self.fault, exc_info=None if isinstance(exc, OSError) else exc)
        with contextlib.suppress(Exception):  # what broke the file may keep it from getting its index
            self._writer.close()

    def _drop_part(self) -> None:
        self.parts_dropped += 1
        self._metrics.parts_not_recorded.inc()

    def _make_room(self) -> None:
        """Delete the oldest files of all sessions beyond what may be kept."""
        keep_bytes = round(self._settings.keep_gb * 2**30)
        for path in surplus(self._settings.folder, keep_bytes, writing=self._writer.path):
            try:
                path.unlink()
                self._writer.forget(path)
                if path.parent != self.folder and not any(path.parent.iterdir()):
                    path.parent.rmdir()
                log.info("recording_deleted", file=str(path))
            except OSError as exc:
                log.warning("recording_not_deleted", file=str(path), error=exc.strerror)


def surplus(root: Path, keep_bytes: int, *, writing: Path | None = None) -> list[Path]:
    """Return the oldest recordings below `root` that go beyond `keep_bytes`, oldest first; none that is in work.

    writing: the file that the caller itself writes, which may lie where files have no locks.
    """
    found = []
    for path in root.glob(f"*/*{SUFFIX}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime_ns, str(path), status.st_size, path))
    excess = sum(size for _, _, size, _ in found) - keep_bytes
    chosen = []
    for _, _, size, path in sorted(found, key=lambda entry: entry[:2]):
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            if path != writing and not in_work(path):
                chosen.append(path)
                excess -= size
    return chosen
