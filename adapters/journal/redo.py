"""Verdicts on their way into the database, in shared memory: what is said next outlives the process already.

A commit costs two changes of thread and a transaction, and never ends where a disk hangs; a copy in memory costs some
microseconds. This is what a redo log is to a database: what it still holds when the service starts was said, and is
stored then. Shared memory outlives the process and not the machine, as does a commit without fsync.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the file is created for its owner alone, and checked to be so
SLOTS: Final = 64
"""So many verdicts may be on their way; where the database is that far behind, the next one waits for it."""

SLOT_BYTES: Final = 16 * 1024
_HEADER: Final = struct.Struct("<II")  # length of the record, and its CRC-32
_EMPTY: Final = bytes(_HEADER.size)
LARGEST_RECORD: Final = SLOT_BYTES - _HEADER.size


class RedoLog:
    """A file of SLOTS records in a folder that is memory.

    Args:
        folder: where the file lies; where there is no such folder, nothing can be kept.
        name: of the file, the same in every run of a station with its journal.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name
        self._file: int | None = None
        self._free: list[int] = []
        self._slot_of: dict[int, int] = {}

    def open(self) -> list[tuple[int, bytes]]:
        """Open the file and return what the last run left in it, each record with its slot; see `take_over`."""
        left: list[tuple[int, bytes]] = []
        try:
            self._file = _open_own(self._path)
            os.posix_fallocate(self._file, 0, SLOTS * SLOT_BYTES)  # so that no write finds the memory full
            for slot in range(SLOTS):
                record = _record(os.pread(self._file, SLOT_BYTES, slot * SLOT_BYTES))
                if record is None:
                    self._free.append(slot)
                else:
                    left.append((slot, record))
        except OSError as exc:
            log.warning("journal_without_redo_log", path=str(self._path), reason=exc.strerror)
            self._close_file()
        return left

    def put(self, seq: int, record: bytes) -> bool:
        """Keep the record of a verdict; tell whether it is kept."""
        if self._file is None or not self._free or len(record) > LARGEST_RECORD:
            return False
        if not self._write(self._free[-1], _HEADER.pack(len(record), zlib.crc32(record)) + record):
            return False
        self._slot_of[seq] = self._free.pop()
        return True

    def take_over(self, seq: int, slot: int) -> None:
        """Let a record that the last run left be dropped by its seq, as those of this run are."""
        self._slot_of[seq] = slot

    def drop(self, seq: int) -> None:
        """Forget a record; the database has it now."""
        slot = self._slot_of.pop(seq, None)
        if slot is not None:
            self.free(slot)

    def free(self, slot: int) -> None:
        """Forget what is in a slot; one that cannot be written to is used no more."""
        if self._write(slot, _EMPTY):
            self._free.append(slot)

    def close(self) -> None:
        """Close the file, and remove it where it holds nothing."""
        if self._file is not None and len(self._free) == SLOTS:
            self._path.unlink(missing_ok=True)
        self._close_file()

    def _write(self, slot: int, content: bytes) -> bool:
        try:
            return self._file is not None and os.pwrite(self._file, content, slot * SLOT_BYTES) == len(content)
        except OSError as exc:
            log.warning("redo_log_failed", reason=exc.strerror)
            return False

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._free = None, []


def _open_own(path: Path) -> int:
    """Open or create a file that nobody else can read, could have put there, or uses now. Raises OSError."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(opened)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
        if not is_ours or found.st_nlink != 1:
            raise PermissionError(1, "the file there is not ours")
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another service of this station that runs
    except OSError:
        os.close(opened)
        raise
    return opened


def _record(slot: bytes) -> bytes | None:
    if len(slot) < _HEADER.size:
        return None
    length, checksum = _HEADER.unpack_from(slot)
    record = slot[_HEADER.size : _HEADER.size + length]
    return record if length and len(record) == length and zlib.crc32(record) == checksum else None
