"""The chunks of an MCAP file, whole or not: what cannot be read is named and passed over."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, Message
from mcap.stream_reader import breakup_chunk
from mcap.summary import Summary

from adapters.recordings.writer import in_work
from service.errors import one_line
from service.files import open_regular

_MAGIC_BYTES: Final = 8
_RECORD_HEADER: Final = struct.Struct("<BQ")
_FOOTER: Final = struct.Struct(f"<BQQQI{_MAGIC_BYTES}s")
_UNREADABLE: Final = (McapError, ValueError, struct.error, OverflowError, MemoryError, EOFError)
"""What the parser raises on damaged bytes; a wrong checksum is a ValueError."""


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """One chunk that is whole: its messages, and the channels that it declares."""

    number: int
    messages: list[Message]
    channels: list[Channel]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A place in a file that cannot be read; `text` names file, chunk and byte."""

    text: str


@dataclass(frozen=True, slots=True)
class _Place:
    number: int
    offset: int
    length: int
    """Of the record's content, without its opcode and length."""


class ChunkedFile:
    """An MCAP file as a sequence of chunks, found by its index or, where that is lost, one after the other.

    in_work: a process was writing it when it was opened, so that it may end anywhere, and nothing is wrong with that.
    refusal: why it cannot be read at all, None where it can. A session may lose a file to `record.keep_gb` at any time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.in_work = False
        self.refusal: str | None = None
        self._size = 0
        self._summary: Summary | None = None
        try:
            self.in_work = in_work(path)  # asked first: what is done by then has its index
            self._size = path.stat().st_size
            self._summary = _read_summary(path)
        except OSError as exc:
            self.refusal = one_line(exc)

    @property
    def trouble(self) -> str:
        """Return the words for a file that cannot be read at all."""
        return f"{self.path.name}: cannot be read: {self.refusal}"

    @property
    def is_indexed(self) -> bool:
        """Tell whether its index is there and whole."""
        return self._summary is not None

    @property
    def channels(self) -> list[Channel]:
        """Return the channels that the index names; none where it was cut off."""
        return [] if self._summary is None else list(self._summary.channels.values())

    @property
    def messages(self) -> dict[int, int] | None:
        """Return how many messages each channel has, by its id; None where the index was cut off."""
        if self._summary is None or self._summary.statistics is None:
            return None
        return dict(self._summary.statistics.channel_message_counts)

    def chunks(self, *, from_ns: int | None = None, to_ns: int | None = None) -> Iterator[ReadChunk | Trouble]:
        """Yield every chunk whose messages may lie within [from_ns, to_ns), and what is wrong with the others."""
        try:
            stream = None if self.refusal is not None else open_regular(self.path)
        except OSError as exc:
            self.refusal, stream = one_line(exc), None
        if stream is None:
            yield Trouble(self.trouble)
            return
        with stream:
            for place in self._places(stream, from_ns, to_ns):
                yield place if isinstance(place, Trouble) else self._read(stream, place)

    def _places(self, stream: BinaryIO, from_ns: int | None, to_ns: int | None) -> Iterator[_Place | Trouble]:
        if self._summary is None:
            yield from self._scan(stream)
            return
        for number, index in enumerate(self._summary.chunk_indexes, 1):
            too_early = from_ns is not None and index.message_end_time < from_ns
            too_late = to_ns is not None and index.message_start_time >= to_ns
            if not (too_early or too_late):
                length = index.chunk_length - _RECORD_HEADER.size
                yield _Place(number, index.chunk_start_offset + _RECORD_HEADER.size, length)

    def _scan(self, stream: BinaryIO) -> Iterator[_Place | Trouble]:
        offset, number = _MAGIC_BYTES, 0
        while True:
            try:
                stream.seek(offset)
                header = stream.read(_RECORD_HEADER.size)
            except OSError as exc:
                yield Trouble(
                    f"{self.path.name}: unreadable from byte {offset} on, after chunk {number}: {one_line(exc)}"
                )
                return
            if len(header) < _RECORD_HEADER.size:
                yield from self._end(f"cut off at byte {self._size}, after chunk {number}")
                return
            opcode, length = _RECORD_HEADER.unpack(header)
            content = offset + _RECORD_HEADER.size
            if opcode == Opcode.DATA_END:
                yield from self._end(f"its index at byte {offset} is corrupt or cut off, after chunk {number}")
                return
            if not Opcode.HEADER <= opcode <= Opcode.DATA_END:
                yield Trouble(f"{self.path.name}: unreadable from byte {offset} on, after chunk {number}")
                return
            if content + length > self._size:
                yield from self._end(f"cut off at byte {self._size}, within what follows chunk {number}")
                return
            if opcode == Opcode.CHUNK:
                number += 1
                yield _Place(number, content, length)
            offset = content + length

    def _end(self, text: str) -> Iterator[Trouble]:
        """Yield what is wrong with an end that has no index; nothing where it is not the end yet."""
        if not self.in_work:
            yield Trouble(f"{self.path.name}: {text}")

    def _read(self, stream: BinaryIO, place: _Place) -> ReadChunk | Trouble:
        try:
            stream.seek(place.offset - _RECORD_HEADER.size)
            opcode, length = _RECORD_HEADER.unpack(stream.read(_RECORD_HEADER.size))
            if (opcode, length) != (Opcode.CHUNK, place.length):
                raise ValueError("no chunk where the index says")
            chunk = Chunk.read(ReadDataStream(BytesIO(stream.read(place.length))))
            records = breakup_chunk(chunk, validate_crc=True)
        except _UNREADABLE as exc:
            return Trouble(
                f"{self.path.name}: chunk {place.number} at byte {place.offset} is corrupt, skipped ({one_line(exc)})"
            )
        except OSError as exc:  # a disk that fails
            where = f"{self.path.name}: chunk {place.number} at byte {place.offset}"
            return Trouble(f"{where} cannot be read, skipped: {one_line(exc)}")
        return ReadChunk(
            place.number,
            [record for record in records if isinstance(record, Message)],
            [record for record in records if isinstance(record, Channel)],
        )


def _read_summary(path: Path) -> Summary | None:
    """Return the index of a file, None where a crash cut it off or its checksum is wrong. Raises OSError."""
    with open_regular(path) as stream:
        try:
            stream.seek(-_FOOTER.size, os.SEEK_END)
            opcode, _, start, _, checksum, _ = _FOOTER.unpack(stream.read(_FOOTER.size))
            if opcode != Opcode.FOOTER or not start:
                return None
            stream.seek(start)
            if zlib.crc32(stream.read()[: -_MAGIC_BYTES - 4]) != checksum:
                return None
            stream.seek(0)
            return SeekingReader(stream).get_summary()
        except (*_UNREADABLE, OSError):  # OSError: shorter than a footer, or a disk that fails
            return None
