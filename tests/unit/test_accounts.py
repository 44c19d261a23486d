"""Logins: users come and go with their file, guessing gets slow, and nobody waits for somebody else's password."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import argon2
import pytest

from adapters import accounts
from adapters.accounts import Account, PasswordBook, Role, Throttle
from service.errors import UsageError

QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def write_users(path: Path, **passwords: str) -> Path:
    """Write a users_file in which everybody is a plc."""
    new = path.with_suffix(".new")
    new.write_text("".join(f"{name}:plc:{QUICK.hash(password)}\n" for name, password in passwords.items()))
    new.chmod(0o600)
    new.replace(path)
    return path


@pytest.fixture
def book(tmp_path: Path) -> PasswordBook:
    return PasswordBook(write_users(tmp_path / "users", plc="right", scada="other"))


async def test_only_the_right_password_opens(book: PasswordBook) -> None:
    """Not that of another, not an empty one, not an unknown name."""
    account = await book.check("plc", "right", peer="10.0.0.1")
    assert account is not None
    assert account.role is Role.PLC
    for name, password in (
        ("plc", "other"),
        ("plc", ""),
        ("nobody", "right"),
        ("", ""),
        ("plc", "right\0"),
        ("PLC", "right"),
    ):
        assert await book.check(name, password, peer="10.0.0.2") is None, (name, password)


async def test_verified_asks_only_what_was_checked_before(book: PasswordBook) -> None:
    """It takes no time, and knows no password that was not right."""
    assert book.verified("plc", "right") is None
    await book.check("plc", "right", peer="p")
    assert book.verified("plc", "right") is not None
    assert book.verified("plc", "wrong") is None
    assert book.verified("scada", "right") is None


async def test_argon2_never_runs_on_the_event_loop(book: PasswordBook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part in work must not wait for a login."""
    threads = set()
    genuine = book._fits

    def fits(password_hash: str, password: str) -> bool:
        threads.add(threading.current_thread())
        return genuine(password_hash, password)

    monkeypatch.setattr(book, "_fits", fits)
    await book.check("plc", "right", peer="p")
    await book.check("nobody", "x", peer="p")
    assert threads
    assert threading.current_thread() not in threads


async def test_changed_file_counts_at_the_next_login(book: PasswordBook, tmp_path: Path) -> None:
    """A user who is gone is gone, also where his password was remembered; a new password ends the old one."""
    assert await book.check("plc", "right", peer="p")
    write_users(tmp_path / "users", plc="new", scada="other")
    assert await book.check("plc", "right", peer="p") is None
    assert await book.check("plc", "new", peer="p")
    write_users(tmp_path / "users", scada="other")
    assert await book.check("plc", "new", peer="p") is None
    assert book.verified("plc", "new") is None


async def test_file_that_breaks_locks_nobody_out(book: PasswordBook, tmp_path: Path) -> None:
    """The users known before stay, and the log says so; at start it is an error."""
    (tmp_path / "users").write_text("nonsense\n")
    assert await book.check("plc", "right", peer="p")
    (tmp_path / "users").unlink()
    assert await book.check("scada", "other", peer="p")
    with pytest.raises(UsageError, match="users_file"):
        PasswordBook(tmp_path / "users")


async def test_guessing_gets_slow_for_the_guesser_alone(book: PasswordBook) -> None:
    """The PLC whose name is guessed at logs in from elsewhere, and from there where it was let in before."""
    assert await book.check("plc", "right", peer="same")
    for _ in range(6):
        assert await book.check("scada", "guess", peer="guesser") is None
    assert await book.check("scada", "other", peer="guesser") is None, "right, but he has to wait"
    assert await book.check("scada", "other", peer="elsewhere")
    for _ in range(6):
        assert await book.check("plc", "guess", peer="same") is None
    assert await book.check("plc", "right", peer="same")


async def test_a_password_that_is_remembered_is_no_help_to_a_guesser(
    book: PasswordBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere it is hashed as any other, and not at all in a pause; where it was let in, one in a while counts."""
    monkeypatch.setattr(accounts, "_WHILE_S", 0.2)
    assert await book.check("plc", "right", peer="same")
    for _ in range(6):
        assert await book.check("plc", "guess", peer="guesser") is None
        assert await book.check("plc", "guess", peer="same") is None
    assert await book.check("plc", "right", peer="guesser") is None
    compared: list[str] = []
    verified = book.verified

    def counted(name: str, password: str) -> Account | None:
        compared.append(password)
        return verified(name, password)

    monkeypatch.setattr(book, "verified", counted)
    guesses = await asyncio.gather(*(book.check("plc", f"guess {number}", peer="same") for number in range(50)))
    assert set(guesses) == {None}
    assert len(compared) == 8, "those who wait; the rest is told no at once"
    assert await book.check("plc", "right", peer="same")


async def test_flood_of_logins_is_bounded(book: PasswordBook, monkeypatch: pytest.MonkeyPatch) -> None:
    """argon2 takes memory on purpose: one at a time, a few wait, the rest is told no."""
    running, most, lock = 0, 0, threading.Lock()

    def fits(password_hash: str, password: str) -> bool:  # noqa: ARG001 - as the genuine one
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return False

    monkeypatch.setattr(book, "_fits", fits)
    answers = await asyncio.gather(*(book.check("plc", f"{number}", peer=f"p{number}") for number in range(100)))
    assert set(answers) == {None}
    assert most == 1


def test_passwords_and_typed_names_are_not_logged(book: PasswordBook, capsys: pytest.CaptureFixture[str]) -> None:
    """Some type their password where the name belongs."""

    async def attempts() -> None:
        await book.check("hunter2", "hunter2", peer="10.0.0.9")
        await book.check("plc", "hunter2", peer="10.0.0.9")

    asyncio.run(attempts())
    said = capsys.readouterr().out
    assert "hunter2" not in said
    assert "user=unknown" in said
    assert "user=plc" in said
    assert "peer=10.0.0.9" in said


def test_throttle_pauses_longer_each_time_and_forgets_the_oldest() -> None:
    """1, 2, 4 ... 60 s after three free failures; its memory is bounded."""
    throttle = Throttle()
    pauses = []
    for _ in range(12):
        throttle.failed(("p", "n"))
        pauses.append(round(throttle.pause_s(("p", "n"))))
    assert pauses == [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    for number in range(2000):
        throttle.failed(("p", str(number)))
    assert len(throttle._failures) == 1000
    throttle.succeeded(("p", "1999"))
    assert throttle.pause_s(("p", "1999")) == 0
