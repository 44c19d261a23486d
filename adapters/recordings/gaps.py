"""The numbers of a session's files and parts: where one is left out, something is missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path


class GapDetector:
    """Follows files and parts in the order in which they were written, and complains of every gap.

    A session may begin with any number: its oldest files are deleted to make room. What is damaged is named by whoever
    finds it, and is no gap as well.
    """

    def __init__(self, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self._file: int | None = None
        self._part: int | None = None

    def file(self, path: Path, *, followed: bool) -> Callable[[int], None]:
        """Note the next file; return what takes the numbers of its parts. followed: all of them will be there."""
        before, self._file = self._file, int(path.stem) if path.stem.isdecimal() else None
        if before is not None and self._file is not None and self._file > before + 1:
            missing = f"{before + 1:04d}" if self._file == before + 2 else f"{before + 1:04d} to {self._file - 1:04d}"
            self._complain(f"{path.name}: before it {missing}{path.suffix} is missing")
            self.lose()
        if not followed:
            self.lose()
            return lambda _: None
        return partial(self._take, path.name)

    def lose(self) -> None:
        """Let the next number be any: something is known to be lost before it."""
        self._part = None

    def _take(self, file: str, number: int) -> None:
        before, self._part = self._part, number
        if before is None or number == before + 1:
            return
        if number <= before:
            self._complain(f"{file}: part {number} comes after part {before}: the file is there twice, or misplaced")
            return
        missing = f"part {before + 1} is" if number == before + 2 else f"parts {before + 1} to {number - 1} are"
        self._complain(f"{file}: {missing} missing")
