"""Writes a session: a folder of MCAP files, each chunk one part."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.timestamp_pb2 import Timestamp
from mcap.well_known import MessageEncoding, SchemaEncoding
from mcap.writer import CompressionType, Writer

from schemas.base import Message
from schemas.messages import Verdict
from schemas.recordings import RecordedEvent, RecordedLabel, SessionInfo, Track
from service.errors import UsageError
from service.files import open_regular, unwritable
from service.replay.parts import RecordedPart, unix_ns

SUFFIX: Final = ".mcap"
_MODELS: Final[dict[Track, type[Message]]] = {
    Track.SESSION: SessionInfo,
    Track.EVENT: RecordedEvent,
    Track.VERDICT: Verdict,
    Track.LABEL: RecordedLabel,
}
_SIGNATURES: Final = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8", "jpeg"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system without locks says; some network drives are."""


class SessionWriter:
    """Writes parts into `folder`, in a new file whenever the last one has reached `file_bytes`.

    Every part is a chunk of its own and handed to the operating system at once: a process that is killed loses at most
    the part it was writing, and a damaged chunk costs one part. A file that cannot take its first part is removed. Not
    thread-safe.

    A file that somebody removes or replaces while it is open would take parts that nobody can ever read: it is left for
    a new one. lost: parts that went with such files, and with whatever of the session was gone by then, too.

    Raises:
        OSError: from `write` and `close`, where the disk does not take it.
    """

    def __init__(self, folder: Path, info: SessionInfo, *, file_bytes: int | None = None) -> None:
        self._folder = folder
        self._info = info
        self._file_bytes = file_bytes
        self._file: _SessionFile | None = None
        self._files = 0
        self._closed: dict[Path, int] = {}
        self.parts = 0
        self.lost = 0

    @classmethod
    def create(cls, folder: Path, info: SessionInfo, *, file_bytes: int | None = None) -> Self:
        """Make `folder`, which must not be there or be empty. Raises UsageError."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise UsageError(f"{folder} is not empty: a session is written into a folder of its own")
        except OSError as exc:
            raise unwritable(folder, exc) from exc
        return cls(folder, info, file_bytes=file_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def path(self) -> Path | None:
        """Return the file that is being written, None where there is none yet."""
        return None if self._file is None else self._file.path

    def write(self, part: RecordedPart) -> None:
        """Append one part."""
        self._leave_what_is_gone()
        if self._file is not None and self._file_bytes is not None and self._file.size >= self._file_bytes:
            self.close()
        self.parts += 1
        if self._file is None:
            self._file = self._begin_file(part)
        else:
            self._file.write(part, self.parts)

    def close(self) -> None:
        """Write the index of the file in work, which readers find parts by."""
        self._leave_what_is_gone()
        file, self._file = self._file, None
        if file is not None:
            self._closed[file.path] = file.parts
            file.close()

    def forget(self, path: Path) -> None:
        """Count a file that was deleted to make room as gone on purpose."""
        self._closed.pop(path, None)

    def _leave_what_is_gone(self) -> None:
        file = self._file
        if file is None or file.is_in_place():
            return
        self._file = None
        with suppress(OSError):
            file.close()  # it may lie elsewhere now, and is whole there with its index
        gone = [path for path in self._closed if not path.exists()]
        self.lost += file.parts + sum(self._closed.pop(path) for path in gone)

    def _begin_file(self, part: RecordedPart) -> _SessionFile:
        path = self._folder / f"{self._files + 1:04d}{SUFFIX}"
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            stream = path.open("xb")
        except FileExistsError:
            self._files += 1  # it failed before and could not be removed either: the next try takes the next name
            raise
        with ExitStack() as undo:  # a file without a whole part is none
            undo.callback(_discard, path, stream)
            file = _SessionFile(path, stream, self._info)
            file.write(part, self.parts)
            undo.pop_all()
        self._files += 1
        return file


def _discard(path: Path, stream: BinaryIO) -> None:
    with suppress(OSError):
        stream.close()
    with suppress(OSError):
        path.unlink()


class _SessionFile:
    def __init__(self, path: Path, stream: BinaryIO, info: SessionInfo) -> None:
        self.path = path
        self._stream = stream
        _lock(stream, fcntl.LOCK_EX)  # see in_work; ends with the file, or with the process
        # pictures do not shrink, and the JSON beside them is small
        self._mcap = Writer(self._stream, compression=CompressionType.NONE, chunk_size=1 << 62)
        self._mcap.start(profile="cangate", library=f"cangate {info.version}")
        self._channels = {track: self._register(track, f"/{info.station}/{track}") for track in Track}
        self._info = info
        self.parts = 0
        self._append(Track.SESSION, unix_ns(info.created_at), unix_ns(info.created_at), info.to_json(), 0)
        self._mcap.flush()  # type: ignore[no-untyped-call] # mcap leaves it untyped

    @property
    def size(self) -> int:
        return self._stream.tell()

    def is_in_place(self) -> bool:
        """Tell whether the open file is the one that its path names."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._stream.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # the disk does not answer: the next write says so

    def write(self, part: RecordedPart, number: int) -> None:
        event, at = part.event, part.arrived_ns
        published = at if event.captured_at is None else unix_ns(event.captured_at)
        self._append(Track.EVENT, at, published, event.to_json(), number)
        if part.frame is not None:
            picture = CompressedImage(
                timestamp=Timestamp(seconds=published // 10**9, nanos=published % 10**9),
                frame_id=self._info.station,
                data=part.frame,
                format=picture_format(part.frame),
            )
            self._append(Track.FRAME, at, published, picture.SerializeToString(), number)
        if part.verdict is not None:
            decided = unix_ns(part.verdict.decided_at)
            self._append(Track.VERDICT, max(at, decided), decided, part.verdict.to_json(), number)
        if part.label is not None:
            label = RecordedLabel(event_id=event.event_id, part_id=event.part_id, label=part.label)
            self._append(Track.LABEL, at, published, label.to_json(), number)
        self._mcap.flush()  # type: ignore[no-untyped-call] # mcap leaves it untyped
        self.parts += 1

    def close(self) -> None:
        try:
            self._mcap.finish()  # type: ignore[no-untyped-call] # as above
        finally:
            self._stream.close()

    def _append(self, track: Track, log_ns: int, published_ns: int, payload: bytes, number: int) -> None:
        self._mcap.add_message(self._channels[track], log_ns, payload, published_ns, number)

    def _register(self, track: Track, topic: str) -> int:
        if track is Track.FRAME:
            descriptors = _with_imports(CompressedImage.DESCRIPTOR.file).SerializeToString()
            schema = self._mcap.register_schema(
                CompressedImage.DESCRIPTOR.full_name, SchemaEncoding.Protobuf, descriptors
            )
            return self._mcap.register_channel(topic, MessageEncoding.Protobuf, schema)
        model = _MODELS[track]
        document = json.dumps(model.model_json_schema(mode="serialization")).encode()
        schema = self._mcap.register_schema(f"cangate.{model.__name__}", SchemaEncoding.JSONSchema, document)
        return self._mcap.register_channel(topic, MessageEncoding.JSON, schema)


def in_work(path: Path) -> bool:
    """Tell whether a process, this one or another, is writing this file; never so where files have no locks.

    Raises OSError.
    """
    with open_regular(path) as file:
        try:
            _lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def session_folder(root: Path, station: str, started_at: datetime) -> Path:
    """Return the folder of a session that starts now: `{root}/{station}-{UTC time}`."""
    return root / f"{station}-{started_at.astimezone(UTC):%Y%m%dT%H%M%S.%f}Z"


def picture_format(encoded: bytes) -> str:
    """Return what kind of image `encoded` is, as viewers call it: png, jpeg, bmp, tiff; empty where it is none."""
    return next((name for signature, name in _SIGNATURES if encoded.startswith(signature)), "")


def _lock(file: BinaryIO, operation: int) -> None:
    try:
        fcntl.flock(file, operation)
    except OSError as exc:
        if exc.errno not in _NO_LOCKS:
            raise


def _with_imports(file: FileDescriptor) -> FileDescriptorSet:
    """Return `file` and all it imports, the form in which MCAP keeps a protobuf schema."""
    found: dict[str, FileDescriptor] = {}

    def visit(one: FileDescriptor) -> None:
        if one.name not in found:
            for imported in one.dependencies:
                visit(imported)
            found[one.name] = one

    visit(file)
    descriptors = FileDescriptorSet()
    for one in found.values():
        one.CopyToProto(descriptors.file.add())
    return descriptors
