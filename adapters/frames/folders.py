"""Frames from files: below the allowed roots and nowhere else, whatever links say and whoever moves them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from service.errors import FrameMissing, FrameRefused, UsageError, one_line
from service.files import real_path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a named pipe must not hold a worker
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_KERNEL = (Path("/proc"), Path("/sys"), Path("/dev"))
"""Folders of files that are none. /dev/shm is a memory disk that a camera may well write to."""


class RootFolders:
    """The folders that frames may be read from; one may be a link that is pointed at another folder now and then."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._given = tuple(roots)
        self._roots = tuple(map(real_path, roots))
        for given, root in zip(roots, self._roots, strict=True):
            if not root.is_dir():
                raise UsageError(f"images.roots: {given} is not a directory")
            if _holds_no_frames(root):
                raise UsageError(f"images.roots: {given} holds devices and kernel files, not frames")

    def read(self, path: Path, *, max_bytes: int) -> bytes:
        """Return the content of a regular file. Raises FrameMissing or FrameRefused."""
        try:
            resolved = path.resolve()
        except (OSError, ValueError, RuntimeError) as exc:  # NUL bytes, names too long, link loops
            raise FrameRefused(f"unusable image path: {one_line(exc)}") from exc
        root = self._root_of(resolved)
        if root is None:
            self._roots = tuple(root for root in map(real_path, self._given) if not _holds_no_frames(root))
            root = self._root_of(resolved)
        if root is None:
            raise FrameRefused("the image lies outside the allowed roots")
        try:
            descriptor = open_below(root, resolved.relative_to(root).parts)
            try:
                return _content(descriptor, max_bytes)
            finally:
                os.close(descriptor)
        except FileNotFoundError as exc:
            raise FrameMissing("the image does not exist") from exc
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise FrameRefused("a link took the place of the image while it was opened") from exc
            raise FrameMissing(f"the image cannot be read: {exc.strerror}") from exc

    def _root_of(self, resolved: Path) -> Path | None:
        return next((root for root in self._roots if resolved.is_relative_to(root)), None)


def _holds_no_frames(root: Path) -> bool:
    """Tell whether a folder is, or holds, one whose files are none."""
    inside = any(root.is_relative_to(folder) for folder in _KERNEL) and not root.is_relative_to("/dev/shm")  # noqa: S108 - read, not written
    return inside or any(folder.is_relative_to(root) for folder in _KERNEL)


def _content(descriptor: int, max_bytes: int) -> bytes:
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        raise FrameRefused("the image is not a regular file")
    with open(descriptor, "rb", closefd=False) as file:
        # the file may still grow: what is read is bounded, too
        content = b"" if state.st_size > max_bytes else file.read(max_bytes + 1)
    if max(state.st_size, len(content)) > max_bytes:
        raise FrameRefused(f"the image is larger than {max_bytes} bytes")
    return content


def open_below(root: Path, parts: Sequence[str]) -> int:
    """Open a file step by step from `root` without following a link, and return its descriptor.

    Links were resolved and judged before; one that takes the place of a folder since then leads nowhere.

    Raises:
        OSError: a step is not there, or is a link.
    """
    at = os.open(root, _FOLDER)
    for part in parts[:-1]:
        try:
            step = os.open(part, _FOLDER, dir_fd=at)
        finally:
            os.close(at)
        at = step
    try:
        return os.open(parts[-1] if parts else ".", _FILE, dir_fd=at)
    finally:
        os.close(at)
