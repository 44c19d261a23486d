"""Users with passwords: the lines of a `users_file`, checked without holding up anybody else."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import argon2
import structlog
from argon2.exceptions import InvalidHashError, VerificationError

from adapters.secret_files import reason, warn_where_others_read, write_private
from service.errors import UsageError
from service.files import locked, read_regular, real_path

log = structlog.get_logger(__name__)

_FREE_FAILURES = 3
_LONGEST_PAUSE_S = 60.0
_REMEMBERED = 1000
_WHILE_S = 1.0  # between tries from where somebody guesses and the user was let in before
_WAITING = 8
"""Logins that may wait for their turn: argon2 takes 64 MiB and a core for 0.1 s each, on purpose."""


class Role(StrEnum):
    """What a user may do: all read, `plc` and `engineer` write the PLC's tags, `engineer` alone chooses the model."""

    OPERATOR = "operator"
    PLC = "plc"
    ENGINEER = "engineer"


@dataclass(frozen=True, slots=True)
class Account:
    """A line of a users_file."""

    role: Role
    password_hash: str


def read_users(path: Path, key: str = "opcua.server.users_file") -> dict[str, Account]:
    """Read `name:role:argon2-hash` lines; empty lines and lines that begin with # are skipped.

    Raises:
        UsageError: the file, named by the setting `key`, cannot be read, or a line cannot be used; it is named.
    """
    try:
        text = read_regular(path).decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{key}: cannot read {path}: {reason(exc)}") from exc
    return _accounts_of(path, text)


def enter_user(path: Path, name: str, password_hash: str, role: Role | None) -> tuple[Role, Role | None]:
    """Write a user into a users_file, in place of a line that he has there; the file is made where there is none.

    role: None leaves a user's role as it is, and a new one is an operator.

    Returns the role that the user has now, and that of before. Raises UsageError where the file holds anything but
    users, OSError or UnicodeDecodeError where it cannot be read or written; then it is left as it is.
    """
    with locked(real_path(path).parent):  # else of two who add users at once one is lost
        try:
            text = read_regular(path).decode()
        except FileNotFoundError:
            text = ""
        before = _accounts_of(path, text).get(name)
        role = role or (Role.OPERATOR if before is None else before.role)
        kept = [line for line in text.splitlines() if line.strip().partition(":")[0] != name]
        # complete or not at all: a service that runs reads it at the next login
        write_private(path, "".join(f"{line}\n" for line in (*kept, f"{name}:{role}:{password_hash}")).encode())
    return role, None if before is None else before.role


def _accounts_of(path: Path, text: str) -> dict[str, Account]:
    accounts: dict[str, Account] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, role, password_hash = line.strip().split(":", 2)
            argon2.extract_parameters(password_hash)
            accounts[name] = Account(Role(role), password_hash)
        except (ValueError, InvalidHashError) as exc:
            raise UsageError(f"{path}, line {number}: expected name:role:argon2-hash, role {'|'.join(Role)}") from exc
    return accounts


@dataclass(slots=True)
class _Line:
    """Those who wait while somebody guesses where they come from."""

    waiting: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class PasswordBook:
    """Who may log in. A changed file counts from the next login on, without a restart.

    A password that was right once is remembered as a keyed digest, so that a PLC that comes again from where it was let
    in need not wait; not long, where somebody guesses at its name from there.

    Raises:
        UsageError: the file cannot be used.
    """

    def __init__(self, path: Path, *, key: str = "opcua.server.users_file") -> None:
        self._path = path
        self._key = key
        warn_where_others_read(key, path)
        self._stamp = _stamp(path)
        self._accounts = read_users(path, key)
        self._hasher = argon2.PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_hex(16))  # so that an unknown name takes as long as a known one
        self._secret = secrets.token_bytes(32)
        self._verified: dict[str, bytes] = {}
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()  # address and name of those let in
        self._lines: dict[tuple[str, str], _Line] = {}
        self._throttle = Throttle()
        self._waiting = 0
        self._turn = asyncio.Semaphore(1)

    def __bool__(self) -> bool:
        return bool(self._accounts)

    async def check(self, name: str, password: str, *, peer: str) -> Account | None:
        """Return the account of a user who gives the right password; None for everybody else, which is logged.

        Args:
            name: of the user.
            password: what he gives.
            peer: the address he comes from; too many failures of a name from there make both wait.
        """
        await asyncio.to_thread(self.refresh)
        shown = name if name in self._accounts else "unknown"  # some type their password where the name belongs
        whence, refusal = (peer, name), None
        if self._throttle.pause_s(whence) > 0:
            if not await self._fits_after_a_while(whence, password):
                refusal = "too many failures"
        elif whence in self._known and self.verified(name, password) is not None:
            pass
        elif self._waiting >= _WAITING:
            refusal = "too many logins at a time"
        elif not await self._verify(name, password):
            self._throttle.failed(whence)
            refusal = "wrong name or password"
        if refusal is not None:
            log.warning("login_refused", user=shown, peer=peer, reason=refusal)
            return None
        self._throttle.succeeded(whence)
        self._known[whence] = None
        self._known.move_to_end(whence)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return self.verified(name, password)

    async def _fits_after_a_while(self, whence: tuple[str, str], password: str) -> bool:
        """Compare with what is remembered, one by one, for an address from where that user was let in before."""
        if whence not in self._known:
            return False
        line = self._lines.setdefault(whence, _Line())
        if line.waiting >= _WAITING:
            return False
        line.waiting += 1
        try:
            async with line.turn:
                if self._throttle.pause_s(whence) > 0:  # one before may have been right
                    await asyncio.sleep(_WHILE_S)
                return self.verified(whence[1], password) is not None
        finally:
            line.waiting -= 1
            if not line.waiting:
                del self._lines[whence]

    def verified(self, name: str, password: str) -> Account | None:
        """Return the account where this very password was found right before; takes no time, so ask `check` first."""
        account = self._accounts.get(name)
        if account is None or not hmac.compare_digest(self._verified.get(name, b""), self._digest(account, password)):
            return None
        return account

    def has(self, name: str | None, account: Account) -> bool:
        """Tell whether a user who was let in is still there, with the same role and password."""
        return name is not None and self._accounts.get(name) == account

    def refresh(self) -> None:
        """Read the file again where it has changed; what cannot be read leaves all as it was, and is logged."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._accounts = read_users(self._path, self._key)
        except UsageError as exc:
            log.error("users_unreadable", error=str(exc), instead="the users known before stay")
        else:
            log.info("users_read", path=str(self._path), users=len(self._accounts))

    async def _verify(self, name: str, password: str) -> bool:
        self._waiting += 1
        try:
            async with self._turn:
                account = self._accounts.get(name)
                password_hash = self._nobody if account is None else account.password_hash
                fits = await asyncio.to_thread(self._fits, password_hash, password)
        finally:
            self._waiting -= 1
        if account is not None and fits:
            self._verified[name] = self._digest(account, password)
        return account is not None and fits

    def _fits(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    def _digest(self, account: Account, password: str) -> bytes:
        text = f"{account.password_hash}\0{password}".encode(errors="surrogatepass")
        return hashlib.blake2b(text, key=self._secret).digest()


class Throttle:
    """Growing pauses for those who fail: 1, 2, 4 ... 60 s after a few free attempts."""

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def pause_s(self, key: tuple[str, str]) -> float:
        """Return how long `key` has to wait yet."""
        count, at = self._failures.get(key, (0, 0.0))
        if count <= _FREE_FAILURES:
            return 0.0
        return at + min(_LONGEST_PAUSE_S, 2.0 ** min(count - _FREE_FAILURES - 1, 6)) - time.monotonic()

    def failed(self, key: tuple[str, str]) -> None:
        """Note a failure; the oldest of a thousand names is forgotten."""
        count, _ = self._failures.pop(key, (0, 0.0))
        self._failures[key] = (count + 1, time.monotonic())
        if len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)

    def succeeded(self, key: tuple[str, str]) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_ino
