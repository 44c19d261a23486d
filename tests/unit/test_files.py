"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.errors import CangateError, UsageError
from service.files import draft_folder, locked, made_folder, naming, read_regular, whole_file

LEASE = """
import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDWR)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
signal.sigwait({signal.SIGIO})
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
"""


def write(target: Path, content: str) -> None:
    with whole_file(target) as draft:
        draft.write_text(content)


def test_file_takes_the_place_of_another(tmp_path: Path) -> None:
    """And nothing is left beside it."""
    target = tmp_path / "results.csv"
    write(target, "old")
    write(target, "new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_file_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """The old content, and no half a file."""
    target = tmp_path / "results.csv"
    write(target, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(target) as draft:  # noqa: PT012 - it is interrupted while writing
        draft.write_text("ha")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("there", [True, False])
def test_link_stays_one(tmp_path: Path, there: bool) -> None:
    """The file that it names is replaced, or made."""
    link, target = tmp_path / "latest.csv", tmp_path / "elsewhere" / "results.csv"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    link.symlink_to(target)
    write(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_pipe_gets_the_bytes(tmp_path: Path) -> None:
    """As a device does: it is written into and stays what it is."""
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe, "new")
    reader.join()
    assert read == ["new"]
    assert pipe.is_fifo()


def test_device_that_is_full_is_named(tmp_path: Path) -> None:
    """It is written into, through a link as well."""
    device = tmp_path / "device"
    device.symlink_to("/dev/full")
    with pytest.raises(CangateError, match=r"^cannot write .*/device: No space left on device$"):
        write(device, "new")
    assert device.is_char_device()


def test_file_on_a_read_only_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a disk refuses to remove what is not there, too: that does not displace what is told."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UsageError, match=r"^cannot write .*/results\.csv: Read-only file system$"):
        write(tmp_path / "results.csv", "new")


@pytest.mark.parametrize("place", ["", "golden", "golden/new"])
def test_nothing_is_written_into_a_package(tmp_path: Path, place: str) -> None:
    """Neither a file nor a folder or a draft of one, and not through a link."""
    package, link = tmp_path / "package", tmp_path / "link"
    (package / "golden").mkdir(parents=True)
    link.symlink_to(package)
    for file in ("model.json", "SHA256SUMS"):
        (package / file).touch()
    for lent in (whole_file(link / place / "r.csv"), made_folder(link / place), draft_folder(link / place, ".draft-")):
        with pytest.raises(UsageError, match="it would change the model package"), lent:
            pytest.fail("nothing is lent")
    assert len(list(package.rglob("*"))) == 3


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A pipe that nobody writes into is not waited for, nor is a device read for ever."""
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_bytes(b"content")
    os.mkfifo(pipe)
    assert read_regular(file) == b"content"
    for strange in (pipe, Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            read_regular(strange)


def test_file_under_a_lease_is_waited_for(tmp_path: Path) -> None:
    """A file server gives it back when asked, and is asked by whoever waits for it."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    holder = subprocess.Popen((sys.executable, "-c", LEASE, file), stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert read_regular(file) == b"content"
    assert holder.returncode == 0


def test_links_in_a_circle_are_named(tmp_path: Path) -> None:
    """And stay what they are."""
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(UsageError, match=r"circle: Too many levels of symbolic links$"), whole_file(circle):
        pytest.fail("nothing is lent")
    assert circle.is_symlink()


def test_no_package_is_looked_for_far_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither further up than a package reaches nor beyond a mount point: `/net/model.json` would be a host."""
    place, looked = tmp_path / "1" / "2" / "3" / "4", list[Path]()
    place.mkdir(parents=True)
    is_file = Path.is_file

    def noted(path: Path) -> bool:
        looked.append(path.parent)
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", noted)
    write(place / "results.csv", "new")
    assert looked == [place, *place.parents[:2]]
    looked.clear()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == place.parent)
    write(place / "results.csv", "new")
    assert looked == [place, place.parent]


def test_lock_keeps_others_out(tmp_path: Path) -> None:
    """Until the block is left."""
    with locked(tmp_path):
        descriptor = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_file_in_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Before anything is done for it."""
    with pytest.raises(UsageError, match=r"nowhere/results\.csv"), whole_file(tmp_path / "nowhere" / "results.csv"):
        pytest.fail("nothing is lent")


@pytest.mark.parametrize(
    ("number", "is_usage"),
    [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EIO, False), (errno.EACCES, True), (errno.EROFS, True)],
)
def test_disk_that_fails_is_nobodys_arguments(tmp_path: Path, number: int, is_usage: bool) -> None:
    """A run that failed has an exit status of its own."""
    target = tmp_path / "file"
    with pytest.raises(CangateError, match=f"^cannot write {target}: ") as told, naming(target):
        raise OSError(number, os.strerror(number))
    assert isinstance(told.value, UsageError) == is_usage


def test_dash_is_no_file() -> None:
    """Whoever means standard output by it would look for the file."""
    with pytest.raises(UsageError, match=r"^cannot write -: "), whole_file(Path("-")):
        pass
