"""Files that hold a secret: read and write them, and say where others could read them, too."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import structlog

from service.errors import UsageError

log = structlog.get_logger(__name__)

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_password(key: str, path: Path) -> str:
    """Return what `read_secret` does, and log a warning where others could, too. Raises UsageError."""
    password = read_secret(key, path)
    warn_where_others_read(key, path)
    return password


def read_secret(key: str, path: Path) -> str:
    """Return what stands in a password file, without the line end that editors add.

    Raises:
        UsageError: the file cannot be read; it is named by the setting `key`.
    """
    must_be_a_file(key, path)
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{key} {path}: {reason(exc)}") from exc
    if not password:
        raise UsageError(f"{key} {path}: is empty")
    return password


def must_be_a_file(key: str, path: Path) -> None:
    """Raise UsageError where there is no file: to open a pipe would wait until somebody writes to it."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as exc:
        raise UsageError(f"{key} {path}: {reason(exc)}") from exc
    if not is_file:
        raise UsageError(f"{key} {path}: is no file")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, complete or not at all.

    One that is there keeps its owner and its group, who may do what they could; others no more. A link stays one.

    Raises OSError, also where it belongs to somebody else and we may not leave it so.
    """
    real = Path(os.path.realpath(path))
    # a name of its own: who writes at the same time must not take it away
    descriptor, name = tempfile.mkstemp(prefix=f"{real.name}.", suffix=".new", dir=real.parent)
    new = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with suppress(FileNotFoundError):
                before, ours = real.stat(), os.fstat(descriptor)
                if (before.st_uid, before.st_gid) != (ours.st_uid, ours.st_gid):
                    try:
                        os.fchown(descriptor, before.st_uid, before.st_gid)
                    except PermissionError as exc:
                        raise PermissionError(exc.errno, "belongs to somebody else", str(real)) from exc
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode) & ~stat.S_IRWXO)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        new.replace(real)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def warn_where_others_read(key: str, path: Path) -> None:
    """Log a warning where the file's group or anybody may read or write it; a missing file is for others to name."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if mode & _OTHERS:
        log.warning("secret_open_to_others", setting=key, path=str(path), mode=f"{mode:04o}", better="0600")


def reason(error: Exception) -> str:
    """Return why a file cannot be used, without its name. A decoder's text would quote what it could not decode."""
    if isinstance(error, UnicodeDecodeError):
        return "is no UTF-8 text"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
