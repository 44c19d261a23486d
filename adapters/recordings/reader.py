"""Reads a session back, part by part, with constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from google.protobuf.message import DecodeError
from mcap.records import Channel, Message
from pydantic import ValidationError

from adapters.recordings.chunks import ChunkedFile, ReadChunk, Trouble
from adapters.recordings.writer import SUFFIX
from schemas.messages import Verdict
from schemas.recordings import RecordedEvent, RecordedLabel, SessionInfo, Track
from service.errors import UsageError
from service.replay.parts import RecordedPart, in_order_of_arrival

_BY_POSITION: Final = dict(enumerate(Track, 1))
"""Channel ids as the writer gives them: for a file whose index and first chunk are both lost."""


class Session:
    """A recorded session: a folder of MCAP files, or one of them.

    troubles: what could not be read so far, in words that name file and chunk; it grows while parts are read.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self.files = files
        self.troubles: list[str] = []
        self.info = self._read_info()

    @classmethod
    def open(cls, path: Path) -> Session:
        """Find the files of a session. Raises UsageError where there is none, or it is not one of ours."""
        try:
            files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
            for file in files:
                with file.open("rb"):
                    pass
        except OSError as exc:
            raise UsageError(f"session {path}: {exc.strerror}") from exc
        if not files:
            raise UsageError(f"session {path}: no {SUFFIX} file in this folder")
        return cls(path, files)

    @property
    def name(self) -> str:
        """Return how people call it."""
        return self.path.name

    @property
    def size(self) -> int:
        """Return how many bytes it takes on the disk."""
        return sum(file.stat().st_size for file in self.files)

    def count(self) -> int | None:
        """Return how many parts the indexes name; None where one was cut off by a crash."""
        total = 0
        for file in map(ChunkedFile, self.files):
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
        for file in self.files:
            assembly = _Assembly(file.name, self._complain)
            chunked = ChunkedFile(file)
            assembly.learn(chunked.channels)
            for chunk in chunked.chunks(from_ns=from_ns, to_ns=to_ns):
                if isinstance(chunk, Trouble):
                    self._complain(chunk.text)
                else:
                    yield from assembly.take(chunk)
            yield from assembly.rest()

    def _complain(self, text: str) -> None:
        if text not in self.troubles:
            self.troubles.append(text)

    def _read_info(self) -> SessionInfo:
        for file in self.files:
            for chunk in ChunkedFile(file).chunks():
                if isinstance(chunk, Trouble):
                    continue
                for message in chunk.messages:
                    try:
                        return SessionInfo.model_validate_json(message.data)
                    except ValidationError:
                        break  # no first chunk of ours
                break
        raise UsageError(f"session {self.path}: no recording of cangate, or its beginning is lost in every file")


class _Assembly:
    """Puts the messages of one part together again: they share their sequence number."""

    def __init__(self, file: str, complain: Callable[[str], None]) -> None:
        self._file = file
        self._complain = complain
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
