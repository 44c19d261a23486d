"""Frames on disk: which files they are, in which order, and how one is read."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.errors import FrameMissing, FrameRefused, UsageError
from service.files import read_regular
from service.pipeline.types import BgrImage, Frame

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True)
class Decode:
    """Turns the bytes of an image file into pixels; raises FrameError where it cannot.

    max_bytes: of a file, which is not read where it is larger; None: however large.
    """

    pixels: Callable[[bytes], BgrImage]
    max_bytes: int | None = None

    def __call__(self, encoded: bytes) -> BgrImage:
        """Return the pixels, (H, W, 3) uint8. Raises FrameError."""
        return self.pixels(encoded)


@dataclass(frozen=True, slots=True)
class FrameFile:
    """A picture file; `name` is how people and manifests call it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class FrameSet:
    """The picture files of a directory in natural order, and the names of the files that are no pictures."""

    frames: tuple[FrameFile, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadFrame:
    """A decoded frame and the SHA-256 of its file."""

    frame: Frame
    sha256: str


def list_frames(directory: Path) -> FrameSet:
    """List the pictures in `directory` and below it, told by their suffix; hidden files and folders are passed over.

    Linked folders are searched as well. A folder that can be reached twice counts once, a loop of links included.

    Raises UsageError where it cannot be listed.
    """
    found: list[FrameFile] = []
    ignored: list[str] = []
    try:
        next(directory.iterdir(), None)  # os.walk would pass over a directory that is not there in silence
        for folder, files in _folders(directory):
            for path in (Path(folder, file) for file in files if not file.startswith(".")):
                name = printable(path.relative_to(directory).as_posix())
                if path.suffix.lower() in SUFFIXES:
                    found.append(FrameFile(path, name))
                else:
                    ignored.append(name)
    except OSError as exc:
        raise UsageError(f"cannot list {exc.filename or directory}: {exc.strerror}") from exc
    found.sort(key=lambda file: natural_key(file.name))
    return FrameSet(tuple(found), tuple(sorted(ignored, key=natural_key)))


def read_frame(file: FrameFile, decode: Decode) -> ReadFrame:
    """Read and decode one file. Raises FrameError."""
    try:
        data = read_regular(file.path, decode.max_bytes)
    except OSError as exc:
        if exc.errno == errno.EFBIG:
            raise FrameRefused(f"the image is larger than {decode.max_bytes} bytes") from exc
        raise FrameMissing(f"cannot be read: {exc.strerror}") from exc
    return ReadFrame(Frame(decode(data), uri=file.name), hashlib.sha256(data).hexdigest())


def printable(name: str) -> str:
    r"""Return the name of a file, with what is no UTF-8 in it as `\xff`: reports and pictures take no other."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def natural_key(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Return a sort key that counts: part2 before part10; ties (part2, part02) in the order of their characters."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((int(piece), "") if piece[0] in "0123456789" else (-1, piece.casefold()) for piece in pieces), name


def _folders(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder with its files; those that are linked last, so that a folder goes by its real name first."""
    seen: set[tuple[int, int]] = set()
    waiting = deque([directory])
    while waiting:
        for folder, below, files in os.walk(waiting.popleft(), onerror=_raise):
            status = Path(folder).stat()
            below[:] = sorted(name for name in below if not name.startswith("."))
            if (status.st_dev, status.st_ino) in seen:
                below.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            waiting.extend(path for path in (Path(folder, name) for name in below) if path.is_symlink())
            yield folder, files


def _raise(error: OSError) -> None:
    raise error
