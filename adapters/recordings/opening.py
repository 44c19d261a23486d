"""Opens the files of a session for reading."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError, also for a pipe or a device: those may never come to an end."""
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - `Path.open` takes no opener; lent on
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return file


def refusal_of(path: Path) -> str | None:
    """Return why a file cannot be opened, None where it can."""
    try:
        open_regular(path).close()
    except OSError as exc:
        return reason(exc)
    return None


def reason(error: OSError) -> str:
    """Return why a file cannot be read, without its name."""
    return error.strerror or type(error).__name__


def _open_at_once(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NONBLOCK)  # else a pipe is waited for until somebody writes into it
    except BlockingIOError:  # a file server holds a lease: the system calls it back while one waits
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - openers are given a string
            raise
        return os.open(path, flags)
