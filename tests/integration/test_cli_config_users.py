"""`cangate config add-user`: whose file it is, what becomes of it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import argon2
import pytest

from adapters.accounts import Role, enter_user, read_users
from adapters.secret_files import write_private
from tests.support.cli import CommandLine

HASH = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("x")


def test_new_password_keeps_the_role_unless_another_is_named(cangate: CommandLine, tmp_path: Path) -> None:
    """A PLC that became an operator by it could trigger no more; what became of the role is said."""
    users, said = tmp_path / "users", []
    for role in ((), ("--role", "plc"), (), ("--role", "engineer")):
        done = cangate("config", "add-user", users, "anna", "--password", "x", *role)
        said.append((done.stdout.strip(), read_users(users)["anna"].role))
    may = "anna may now log in as"
    assert said == [
        (f"{may} operator", Role.OPERATOR),
        (f"{may} plc, no longer as operator", Role.PLC),
        (f"{may} plc, as before", Role.PLC),
        (f"{may} engineer, no longer as plc", Role.ENGINEER),
    ]


@pytest.mark.parametrize("content", [b'[mqtt]\nhost = "plant"\n', bytes(4096)])
def test_file_that_holds_no_users_is_left_as_it_is(cangate: CommandLine, tmp_path: Path, content: bytes) -> None:
    """A configuration with a user's line in it is none any more."""
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    refusal = cangate("config", "add-user", file, "anna", "--password", "x").one_line_error()
    assert f"{file}, line 1: expected name:role:argon2-hash" in refusal
    assert file.read_bytes() == content


def test_pipe_is_refused_and_not_waited_for(cangate: CommandLine, tmp_path: Path) -> None:
    """Nobody may ever write into it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused = cangate("config", "add-user", pipe, "anna", "--password", "x")
    assert refused.one_line_error().endswith("pipe: no regular file")


def test_users_that_are_added_at_once_are_all_there(tmp_path: Path) -> None:
    """Each of them was told to be."""
    users, names = tmp_path / "users", [f"u{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as several:
        list(several.map(lambda name: enter_user(users, name, HASH, None), names))
    assert sorted(read_users(users)) == sorted(names)
    assert list(tmp_path.iterdir()) == [users]


def test_private_files_that_are_written_at_once_are_each_whole(tmp_path: Path) -> None:
    """One of them stays, and nothing beside it."""
    file, contents = tmp_path / "secret", [bytes([each]) * 4096 for each in range(16)]
    with ThreadPoolExecutor(8) as several:
        list(several.map(lambda content: write_private(file, content), contents))
    assert file.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [file]


def test_warning_goes_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Standard output is what a script reads."""
    password = tmp_path / "password"
    password.write_text("x\n")
    password.chmod(0o644)
    done = CommandLine(monkeypatch, capfd)(
        "config", "add-user", tmp_path / "users", "anna", "--password-file", password
    )
    assert done.stdout == "anna may now log in as operator\n"
    assert "secret_open_to_others" in done.stderr


def test_refusal_is_one_line_whatever_there_was_to_warn_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """That others may read the password is no news of a user who was not added."""
    password, users = tmp_path / "password", tmp_path / "users"
    password.write_text("x\n")
    password.chmod(0o644)
    users.write_text("nobody\n")
    refused = CommandLine(monkeypatch, capfd)("config", "add-user", users, "anna", "--password-file", password)
    assert "line 1: expected name:role:argon2-hash" in refused.one_line_error()
