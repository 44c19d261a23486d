"""What is written whole or not at all: folders that get their name in the end, files that take the place of others."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from service.errors import CangateError, UsageError

_DISK_FAILS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Nobody's arguments are to blame for these."""

_RANDOM = re.compile(r"[a-z0-9_]{8}")
"""What `tempfile` puts behind a prefix."""

_PACKAGE_LEVELS = 3
"""A model package, its folder `golden`, and what somebody may have made in that."""


@contextmanager
def draft_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Lend an empty hidden folder in `parent`, see `made_folder`; what is not moved away from it is gone afterwards.

    A draft is locked while it is lent: those of the same prefix that nobody holds are what killed processes left
    behind, and are removed.

    Raises CangateError where nothing can be written.
    """
    with made_folder(parent):
        try:
            _remove_orphans(parent, prefix)
            draft, lock = _locked_draft(parent, prefix)
        except OSError as exc:
            raise unwritable(exc.filename or parent, exc) from exc
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            os.close(lock)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder where there is none; it is gone again if nothing came of it.

    Raises CangateError where it cannot be made, or is or lies in a model package.
    """
    _refuse_package(folder, folder)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise unwritable(exc.filename or folder, exc) from exc
    try:
        yield
    finally:
        for each in made:
            with suppress(OSError):  # it holds what was written
                each.rmdir()


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Lend a path to write to; what lies there takes the place of `target` once the block ends well.

    A link stays one: the file that it names is replaced. What is there and no regular file, a device or a pipe, is
    never replaced: the bytes are written into it.

    Raises CangateError where `target` cannot be written or lies in a model package, before the block is entered if that
    can be known.
    """
    if target == Path("-"):
        raise UsageError("cannot write -: it is no name of a file, and results do not go to standard output")
    with naming(target):
        special = _is_special(target)
        real = real_path(target)
    _refuse_package(target, real.parent)
    if special:
        with tempfile.TemporaryDirectory(prefix="cangate-") as folder:
            draft = Path(folder, "content")
            draft.touch()
            yield draft
            with naming(target), draft.open("rb") as content, target.open("wb") as sink:
                shutil.copyfileobj(content, sink)
        return
    draft = real.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with naming(target):
            draft.touch()
        yield draft
        with naming(target):
            draft.replace(real)
    finally:
        with suppress(OSError):  # it was never made, or its disk takes nothing any more
            draft.unlink()


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Map what goes wrong while `target` is written, under whatever name, to one line that names it."""
    try:
        yield
    except OSError as exc:
        raise unwritable(target, exc) from exc


def unwritable(target: object, error: OSError) -> CangateError:
    """Return what to raise where `target` could not be written.

    A CangateError where its disk is full or fails, which is a run that failed; else a UsageError, which is one, too.
    """
    kind = CangateError if error.errno in _DISK_FAILS else UsageError
    return kind(f"cannot write {target}: {error.strerror}")


def real_path(path: Path) -> Path:
    """Return `path` without links, as far as they lead anywhere; `Path.resolve` raises where they go in a circle."""
    return Path(os.path.realpath(path))


def read_regular(path: Path, max_bytes: int | None = None) -> bytes:
    """Return the content of a file. Raises OSError, also for a pipe or a device: those may never come to an end.

    max_bytes: a larger file is EFBIG, and not read; None: however large.
    """
    with open_regular(path) as file:
        if max_bytes is not None and os.fstat(file.fileno()).st_size > max_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read()


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError, as `read_regular`."""
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - `Path.open` takes no opener; lent on
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return file


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block with this folder, and keep them out."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _open_at_once(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NONBLOCK)  # else a pipe is waited for until somebody writes into it
    except BlockingIOError:  # a file server holds a lease: the system calls it back while one waits
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - openers are given a string
            raise
        return os.open(path, flags)


def _is_special(target: Path) -> bool:
    """Tell whether there is something that is no regular file. Raises OSError, also for links in a circle."""
    try:
        return not stat.S_ISREG(target.stat().st_mode)
    except FileNotFoundError:
        return False


def _refuse_package(target: Path, folder: Path) -> None:
    """Raise UsageError where `folder` is or lies in a model package: one file more, and it is none."""
    real = real_path(folder)
    with naming(target):
        for around in _possible_packages(real):
            if (around / "model.json").is_file() and (around / "SHA256SUMS").is_file():
                raise UsageError(f"cannot write {target}: it would change the model package {around}")


def _possible_packages(real: Path) -> Iterator[Path]:
    """Yield the nearest folder that is there and those around it, as many as a package has levels.

    None beyond a mount point: to look for a file in `/net` is to look for a host of its name.
    """
    around = next(each for each in (real, *real.parents) if each.exists())
    for _ in range(_PACKAGE_LEVELS):
        yield around
        if os.path.ismount(around):
            return
        around = around.parent


def _locked_draft(parent: Path, prefix: str) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        draft = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            draft.chmod(0o755)
            lock = os.open(draft, os.O_RDONLY)
        except FileNotFoundError:
            continue  # somebody tidied up before it was locked
        with suppress(OSError):  # a file system without locks: nobody removes orphans there either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if draft.exists():
            return draft, lock
        os.close(lock)


def _remove_orphans(parent: Path, prefix: str) -> None:
    for path in parent.iterdir():
        if path.name.startswith(prefix) and _RANDOM.fullmatch(path.name.removeprefix(prefix)):
            with suppress(OSError):  # it is held, somebody else's, or gone
                _remove_unless_held(path)


def _remove_unless_held(draft: Path) -> None:
    lock = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(draft, ignore_errors=True)
    finally:
        os.close(lock)
