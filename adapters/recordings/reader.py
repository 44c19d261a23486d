"""Reads a session back, part by part, with constant memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from google.protobuf.message import DecodeError
from mcap.records import Channel, Message
from pydantic import ValidationError

from adapters.recordings.chunks import ChunkedFile, ReadChunk, Trouble
from adapters.recordings.gaps import GapDetector
from adapters.recordings.writer import SUFFIX, in_work
from schemas.base import rfc3339
from schemas.messages import Verdict
from schemas.recordings import RecordedEvent, RecordedLabel, SessionInfo, Track
from service.errors import UsageError, one_line
from service.files import open_regular
from service.model.dataset import printable
from service.replay.parts import RecordedPart, in_order_of_arrival

_BY_POSITION: Final = dict(enumerate(Track, 1))
"""Channel ids as the writer gives them: for a file whose index and first chunk are both lost."""

_TOPIC: Final = re.compile(r"/([a-z0-9_-]{1,64})/[a-z]+")
_UNKNOWN: Final = "unknown"


class Session:
    """A recorded session: a folder of MCAP files, or one of them.

    troubles: what could not be read so far, in words that name file and chunk, and what is missing; it grows while
    parts are read. remarks: files that were still being written when they were read, which is no trouble.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self.troubles: list[str] = []
        self.remarks: list[str] = []
        self.files, self.info = self._own(files)

    @classmethod
    def open(cls, path: Path) -> Session:
        """Find the files of a session. Raises UsageError where there is none, or it is not one of ours."""
        try:
            files = sorted(path.glob(f"*{SUFFIX}"), key=_in_order) if path.is_dir() else [path]
        except OSError as exc:
            raise UsageError(f"session {path}: {exc.strerror}") from exc
        if not files:
            raise UsageError(f"session {path}: no {SUFFIX} file in this folder")
        refusals = [_refusal(file) for file in files]
        if all(refusals):  # one of several is named when it is read
            raise UsageError(f"session {path}: {refusals[0]}")
        return cls(path, files)

    @property
    def name(self) -> str:
        """Return how people call it; reports take no name that is no UTF-8."""
        return printable(self.path.name)

    @property
    def size(self) -> int:
        """Return how many bytes it takes on the disk."""
        size = 0
        for file in self.files:
            with suppress(OSError):  # it was removed in the meantime
                size += file.stat().st_size
        return size

    @property
    def in_work(self) -> bool:
        """Tell whether one of its files is being written now."""
        for file in self.files:
            with suppress(OSError):  # as above
                if in_work(file):
                    return True
        return False

    def count(self) -> int | None:
        """Return how many parts the indexes name; None where one was cut off by a crash, or cannot be read."""
        total = 0
        for file in map(ChunkedFile, self.files):
            if file.refusal is not None:
                self._complain(file.trouble)
            messages = file.messages
            if messages is None:
                return None
            tracks = _tracks(file.channels)
            total += sum(count for channel, count in messages.items() if tracks.get(channel) is Track.EVENT)
        return total

    def start_ns(self) -> int:
        """Return when the first part arrived, 0 where there is none."""
        return next((part.arrived_ns for part in self.parts()), 0)

    def parts(self, *, from_ns: int | None = None, to_ns: int | None = None) -> Iterator[RecordedPart]:
        """Yield the parts that arrived within [from_ns, to_ns), in the order of arrival."""
        for part in in_order_of_arrival(self._written(from_ns, to_ns)):
            if (from_ns is None or part.arrived_ns >= from_ns) and (to_ns is None or part.arrived_ns < to_ns):
                yield part

    def _written(self, from_ns: int | None, to_ns: int | None) -> Iterator[RecordedPart]:
        gaps = GapDetector(self._complain)
        for file in self.files:
            chunked = ChunkedFile(file)
            if chunked.in_work and not chunked.is_indexed:
                _note(self.remarks, printable(f"{file.name}: still being written, read as far as it had come"))
            # an index leads to the parts of a time only, and what lies between them is not looked at
            followed = (from_ns is None and to_ns is None) or not chunked.is_indexed
            assembly = _Assembly(file.name, self._complain, gaps.file(file, followed=followed))
            assembly.learn(chunked.channels)
            for chunk in chunked.chunks(from_ns=from_ns, to_ns=to_ns):
                if isinstance(chunk, Trouble):
                    self._complain(chunk.text)
                    gaps.lose()
                else:
                    yield from assembly.take(chunk)
            yield from assembly.rest()

    def _complain(self, text: str) -> None:
        _note(self.troubles, printable(text))

    def _own(self, files: list[Path]) -> tuple[list[Path], SessionInfo]:
        """Return the files of this session and what they say of it; name what lies beside them and is none."""
        firsts = {file: next(ChunkedFile(file).chunks(), None) for file in files}
        said = {file: _info(first) for file, first in firsts.items()}
        sessions = Counter((info.station, info.created_at) for info in said.values() if info is not None)
        this = sessions.most_common(1)[0][0] if sessions else None
        own = []
        for file, first in firsts.items():
            info = said[file]
            if isinstance(first, Trouble):
                self._complain(first.text)
            if isinstance(first, ReadChunk) and info is None:
                self._complain(f"{file.name}: no recording of cangate, left out")
            elif info is not None and (info.station, info.created_at) != this:
                self._complain(f"{file.name}: of another session, begun {rfc3339(info.created_at)}, left out")
            else:
                own.append(file)
        return own, next((info for file in own if (info := said[file]) is not None), None) or self._recovered(own)

    def _recovered(self, files: list[Path]) -> SessionInfo:
        """Return what the parts say of a session whose beginning is lost in every file. Raises UsageError."""
        self.files = files
        part = next(self._written(None, None), None)
        if part is None:
            raise UsageError(f"session {self.path}: no recording of cangate, or nothing of it can be read")
        topics = (channel.topic for file in files for channel in ChunkedFile(file).channels)
        station = next((found[1] for topic in topics if (found := _TOPIC.fullmatch(topic))), None)
        return SessionInfo(
            station=station or (_UNKNOWN if part.verdict is None else part.verdict.station),
            created_at=datetime.fromtimestamp(part.arrived_ns / 1e9, UTC),
            version=_UNKNOWN,
            origin=_UNKNOWN,
        )


class _Assembly:
    """Puts the messages of one part together again: they share their sequence number."""

    def __init__(self, file: str, complain: Callable[[str], None], note_number: Callable[[int], None]) -> None:
        self._file = file
        self._complain = complain
        self._note_number = note_number
        self._tracks: dict[int, Track] = {}
        self._number = 0
        self._open: dict[Track, Message] = {}

    def learn(self, channels: list[Channel]) -> None:
        self._tracks |= _tracks(channels)

    def take(self, chunk: ReadChunk) -> Iterator[RecordedPart]:
        self.learn(chunk.channels)
        for message in chunk.messages:
            track = (self._tracks or _BY_POSITION).get(message.channel_id)
            if track is None or track is Track.SESSION:
                continue
            if message.sequence != self._number:
                yield from self.rest()
                self._number = message.sequence
                self._note_number(self._number)
            self._open[track] = message

    def rest(self) -> Iterator[RecordedPart]:
        found, self._open = self._open, {}
        event = found.get(Track.EVENT)
        if event is None:
            return
        try:
            part = _part(event, found)
        except (ValidationError, DecodeError) as exc:
            self._complain(f"{self._file}: part {self._number} is none of ours, skipped ({type(exc).__name__})")
            return
        yield part


def _info(first: ReadChunk | Trouble | None) -> SessionInfo | None:
    """Return what the first chunk of a file says of its session, None where it is lost or none of ours."""
    if not isinstance(first, ReadChunk) or not first.messages:
        return None
    try:
        return SessionInfo.model_validate_json(first.messages[0].data)
    except ValidationError:
        return None


def _in_order(file: Path) -> tuple[bool, int, str]:
    """Sort 10000.mcap behind 9999.mcap, and names that no writer gives behind both."""
    return not file.stem.isdecimal(), len(file.stem), file.stem


def _note(texts: list[str], text: str) -> None:
    if text not in texts:
        texts.append(text)


def _part(event: Message, found: dict[Track, Message]) -> RecordedPart:
    frame, verdict, label = (found.get(track) for track in (Track.FRAME, Track.VERDICT, Track.LABEL))
    return RecordedPart(
        event=RecordedEvent.model_validate_json(event.data),
        arrived_ns=event.log_time,
        frame=None if frame is None else CompressedImage.FromString(frame.data).data,
        verdict=None if verdict is None else Verdict.model_validate_json(verdict.data),
        label=None if label is None else RecordedLabel.model_validate_json(label.data).label,
    )


def _tracks(channels: list[Channel]) -> dict[int, Track]:
    named = {channel.id: channel.topic.rsplit("/", 1)[-1] for channel in channels}
    return {number: Track(name) for number, name in named.items() if name in set(Track)}


def _refusal(file: Path) -> str | None:
    """Return why a file cannot be opened, None where it can."""
    try:
        open_regular(file).close()
    except OSError as exc:
        return one_line(exc)
    return None
