"""Files that hold a secret: read them, and say where others could, too."""

from __future__ import annotations

import stat
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
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{key} {path}: {reason(exc)}") from exc
    if not password:
        raise UsageError(f"{key} {path}: is empty")
    return password


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
