"""Files that hold a secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from adapters.secret_files import read_password, write_private
from service.errors import UsageError


def test_private_file_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    """Nothing else is left beside it."""
    path = tmp_path / "secret"
    write_private(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o640, 0o640), (0o644, 0o640)])
def test_private_file_that_is_there_stays_its_owners(tmp_path: Path, before: int, after: int) -> None:
    """A service may read its users after somebody else has added one; a link to them stays one."""
    path, link = tmp_path / "secret", tmp_path / "link"
    path.write_text("old")
    if os.getuid() == 0:
        os.chown(path, 12345, 12346)
    path.chmod(before)
    link.symlink_to(path.name)
    owner = path.stat().st_uid, path.stat().st_gid
    write_private(link, b"new")
    found = path.stat()
    assert (path.read_bytes(), stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid)) == (b"new", after, owner)
    assert link.is_symlink()


def test_password_file_that_others_read_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The warning names the file and its mode, never what stands in it."""
    path = tmp_path / "password"
    path.write_text("hunter2\n")
    for mode, warned in ((0o600, False), (0o640, True), (0o604, True)):
        path.chmod(mode)
        assert read_password("mqtt.password_file", path) == "hunter2"
        said = capsys.readouterr().out
        assert (f"mode={mode:04o}" in said) == warned
        assert "hunter2" not in said


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfehunter2"])
def test_password_file_that_holds_none_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    """An empty one would log in without a password."""
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"mqtt\.password_file {path}: ") as refusal:
        read_password("mqtt.password_file", path)
    assert "hunter2" not in str(refusal.value)
