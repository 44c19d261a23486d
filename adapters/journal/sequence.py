"""How far verdicts may have been numbered, kept beside the journal for the day on which the journal cannot tell."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_STEP = 1000
_NEAR = 100
_FORM = "{ceiling:020d} {unstored:020d}\n"


class SequenceMark:
    """Two numbers in a small file of fixed size: no verdict has a seq above `ceiling`, or above `unstored` unstored.

    A number that is used twice hides a result from a PLC, which waits for ResultSeq to change. Where the journal was
    lost, or could not store what was decided, numbering goes on above what this file says. It is rewritten once in a
    thousand verdicts, in place, which also works on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ceiling = 0
        self.unstored = 0
        self._behind = False  # the file says less than this does
        self._held: int | None = None

    def take(self) -> bool:
        """Keep other processes of this machine from counting on from here; tell whether none does already."""
        try:
            self._held = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as exc:  # a folder that takes no files, a file system without locks
            log.warning("sequence_mark_unlocked", path=str(self._path), error=exc.strerror)
        return True

    def leave(self) -> None:
        """Let others count on."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def read(self) -> None:
        """Read the file; one that is missing or damaged says nothing."""
        try:
            ceiling, unstored = (int(word) for word in self._path.read_text(encoding="ascii").split())
        except (OSError, ValueError):
            return
        self.ceiling, self.unstored = max(0, ceiling), max(0, unstored)

    def stored(self, seq: int) -> None:
        """Note that `seq` was used and stored."""
        if self._behind or seq > self.ceiling - _NEAR or not self._is_in_place():
            self.ceiling = max(self.ceiling, seq + _STEP)
            self._write()

    def not_stored(self, seq: int) -> None:
        """Note that `seq` was used and could not be stored."""
        if self._behind or seq > self.unstored or not self._is_in_place():
            self.unstored = max(self.unstored, seq)
            self.ceiling = max(self.ceiling, seq + _STEP)
            self._write()

    def _is_in_place(self) -> bool:
        """Tell whether the file is the one that others are kept from; one that was removed is taken anew."""
        if self._held is None:
            return True
        with suppress(OSError):
            if os.path.samestat(self._path.stat(), os.fstat(self._held)):
                return True
        self.leave()
        self.take()
        return False

    def _write(self) -> None:
        text = _FORM.format(ceiling=self.ceiling, unstored=self.unstored)
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.pwrite(descriptor, text.encode("ascii"), 0)
            finally:
                os.close(descriptor)
        except OSError as exc:
            if not self._behind:  # told once; tried again with each number
                log.error("sequence_mark_failed", path=str(self._path), error=exc.strerror)
            self._behind = True
        else:
            self._behind = False
