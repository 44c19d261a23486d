"""A private PostgreSQL server: a folder of its own, a free loopback port, a password."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from adapters.simulation.broker import LOOPBACK, free_port

_START_TIMEOUT_S = 60.0
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "fsync": "off",  # what a killed process has written is still there; only a loss of power is not survived
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    # a client in another time zone than the server, and neither in UTC, as in a plant
    "timezone": "Asia/Kathmandu",
}


def binaries_or_skip() -> Path:
    """Return the folder with initdb and postgres, or skip the test; Debian keeps them out of PATH."""
    found = shutil.which("initdb")
    folders = [] if found is None else [Path(found).resolve().parent]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("PostgreSQL's server is not installed")


class PostgresqlServer:
    """One server, run by an unprivileged user: PostgreSQL refuses to be run by root."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._password = secrets.token_hex(8)
        self._user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def create(self) -> None:
        """Make the data folder."""
        password = self._folder / "password"
        password.write_text(self._password)
        if self._user is not None:
            shutil.chown(self._folder, self._user)
            shutil.chown(password, self._user)
        subprocess.run(
            [
                self._binaries / "initdb",
                f"--pgdata={self._folder / 'data'}",
                f"--pwfile={password}",
                *("--username=cangate", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            user=self._user,
            extra_groups=None if self._user is None else [],
            cwd=self._folder,
            capture_output=True,
            check=True,
        )

    def start(self) -> None:
        """Start and return when it answers; again where what a killed server left behind still ends."""
        ends = time.monotonic() + _START_TIMEOUT_S
        with (self._folder / "log").open("ab") as log:
            while True:
                if self._process is None or self._process.poll() is not None:
                    self._process = subprocess.Popen(
                        [
                            self._binaries / "postgres",
                            *("-D", self._folder / "data", "-p", str(self.port)),
                            *(f"--{name}={value}" for name, value in _SETTINGS.items()),
                        ],
                        user=self._user,
                        extra_groups=None if self._user is None else [],
                        cwd=self._folder,
                        stdout=log,
                        stderr=log,
                    )
                try:
                    self.connect().close()
                except psycopg.OperationalError:
                    assert time.monotonic() < ends, (self._folder / "log").read_text(errors="replace")[-2000:]
                    time.sleep(0.02)
                else:
                    return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT shuts down at once and in order, SIGKILL ends every process of it without a word."""
        process, self._process = self._process, None
        if process is None:
            return
        ending = self._processes(process) if how is signal.SIGKILL else [process.pid]
        _send(ending, signal.SIGCONT)
        _send(ending, how)
        process.wait(_START_TIMEOUT_S)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let no process of the server run: connections are taken by the kernel and answered by nobody."""
        assert self._process is not None
        stopped = self._processes(self._process)
        _send(stopped, signal.SIGSTOP)
        try:
            yield
        finally:
            _send(stopped, signal.SIGCONT)

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Return a connection of a client of its own."""
        return psycopg.connect(
            host=LOOPBACK,
            port=self.port,
            user="cangate",
            password=self._password,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    @contextmanager
    def database(self, *, encoding: str = "UTF8") -> Iterator[str]:
        """Make an empty database for one test and return its name; it is dropped at the end."""
        name = f"test_{secrets.token_hex(6)}"
        make = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}")
        with self.connect() as connection:
            connection.execute(make.format(sql.Identifier(name), sql.Literal(encoding)))
        try:
            yield name
        finally:
            with self.connect() as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def url(self, database: str) -> str:
        """Return what stands in `journal.url`."""
        return f"postgresql+psycopg://cangate:{self._password}@{LOOPBACK}:{self.port}/{database}"

    @staticmethod
    def _processes(process: subprocess.Popen[bytes]) -> list[int]:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return [process.pid, *map(int, children.split())]  # the parent first: it would replace a child that ends


def _send(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


@contextmanager
def private_postgresql() -> Iterator[PostgresqlServer]:
    """Run a server of our own until the end; skips the test where PostgreSQL is not installed."""
    binaries = binaries_or_skip()
    # not pytest's folder for temporary files, which only its owner may enter
    with tempfile.TemporaryDirectory(prefix="cangate-postgresql-", ignore_cleanup_errors=True) as folder:
        server = PostgresqlServer(binaries, Path(folder))
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop()
