"""The files of a SQLite database on its disk, which anybody may move."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

_LOG = ("-wal", "-shm")
_SUFFIXES = ("", *_LOG)


class SqliteFile:
    """A database's file, its write-ahead log and that one's index, and whether they are still those that are open.

    A log that is left beside another file would be played into it when that is opened, and make rubbish of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: dict[str, os.stat_result] = {}

    @property
    def name(self) -> str:
        """Return the name of the file, without its folder."""
        return self._path.name

    @property
    def is_in_place(self) -> bool:
        """Tell whether the file that was opened still has its name."""
        opened = self._opened.get("")  # none of a URI that is no path
        try:
            return opened is None or os.path.samestat(self._path.stat(), opened)
        except OSError:
            return False

    def note(self) -> None:
        """Note what has just been opened."""
        self._opened = self._found()

    def new_draft(self) -> Path:
        """Return where a copy may be written, in the same folder. Raises OSError."""
        draft = self._path.with_name(f"{self.name}.again")
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        return draft

    def put_in_place(self, draft: Path) -> str | None:
        """Give `draft`, in which all is, the name of the file, and return the new name of what has it. Raises OSError.

        Nothing may be open any more.
        """
        there = self._found()
        for suffix in _LOG:
            if suffix in there and suffix in self._opened and os.path.samestat(there[suffix], self._opened[suffix]):
                self._with(suffix).unlink()
                del there[suffix]
        other = self.move_away("replaced") if there else None
        draft.rename(self._path)
        return other

    def move_away(self, why: str) -> str:
        """Give the files a name that nothing has, and return it. Raises OSError."""
        stem = f"{self.name}.{why}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        folder = self._path.parent
        name = next(name for name in names if not any((folder / f"{name}{suffix}").exists() for suffix in _SUFFIXES))
        for suffix in self._found():
            self._with(suffix).rename(folder / f"{name}{suffix}")
        return name

    def _found(self) -> dict[str, os.stat_result]:
        found: dict[str, os.stat_result] = {}
        for suffix in _SUFFIXES:
            with suppress(OSError):
                found[suffix] = self._with(suffix).stat()
        return found

    def _with(self, suffix: str) -> Path:
        return self._path.with_name(self.name + suffix)
