"""What a database on a server needs beyond one in a file: every wait for it has an end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection

T = TypeVar("T")

CONNECT_S = 3
"""For each address of the server."""

ANSWER_S = 5.0
"""How long a server may keep silent. It gives up a statement itself a second before."""

_MIGRATION_S = 3600.0
_MIGRATION_LOCK = 0x63616E67617465  # "cangate": any number that nobody else takes

_CONNECTION: dict[str, str | int] = {
    "connect_timeout": CONNECT_S,
    "client_encoding": "utf8",
    "application_name": "cangate",
    # a connection that rests is not forgotten by what lies between
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}

_SESSION = f"""
SET statement_timeout = '{ANSWER_S - 1:g}s';
SET idle_in_transaction_session_timeout = '{2 * ANSWER_S:g}s';
SET tcp_keepalives_idle = 10;
SET tcp_keepalives_interval = 5;
SET tcp_keepalives_count = 3;
SET default_transaction_isolation = 'read committed'
"""
"""The second: a transaction whose client vanished must not keep its rows from the next one. Nor may a session keep the
name of its station (`Claim`) for the hours that the server would take to notice by itself."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed where the server says nothing for `answer_s`: a frozen one never would.

    `statement_timeout` alone is kept by the server, and a lost network loses its word as well.
    """

    answer_s = ANSWER_S

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Return what the server answers. Raises OperationalError where it does not."""
        limit_s = self.answer_s if timeout is None else timeout
        try:
            return super().wait(gen, interval=interval, timeout=limit_s)
        except psycopg.OperationalError as exc:
            if exc.sqlstate is not None or self.closed:
                raise
            self.close()
            raise psycopg.OperationalError(f"the server did not answer within {limit_s:g} s") from exc


def open_engine(url: sa.URL) -> Engine:
    """Return an engine whose connections give up; what `url` says goes before what is usual here."""
    usual = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    # no pool: the journal keeps its two connections itself, and one that is given back is closed
    engine = sa.create_engine(url, connect_args=usual, poolclass=sa.NullPool)

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_: sa.Dialect, __: object, arguments: list[Any], named: dict[str, Any]) -> DBAPIConnection:
        connection = BoundedConnection.connect(*arguments, **named)
        try:
            connection.execute(_SESSION)
            connection.commit()
        except psycopg.Error:
            connection.close()
            raise
        return cast("DBAPIConnection", connection)

    return engine


_ENDING_S, _ENDING_TRIES = 1.0, 50
_END = sa.text("""
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND pid = :pid AND objsubid = 1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (classid::bigint << 32 | objid::bigint) = :key
""")
"""Ends the session that holds the lock with that key: ours, which broke, and of which the server may not have heard.
Another one may have its number by now, and holds no such lock."""


class Claim:
    """The right to write of a station: held by one session in a database, wherever its process runs."""

    def __init__(self, station: str) -> None:
        digest = hashlib.sha256(f"cangate {station}".encode()).digest()
        self._key = int.from_bytes(digest[:8], "big", signed=True)
        self._held_by: int | None = None

    def take(self, connection: Connection) -> bool:
        """Take it for the session of `connection`, until that ends; tell whether that was possible."""
        tries = 1
        if self._held_by is not None and connection.execute(_END, {"pid": self._held_by, "key": self._key}).first():
            tries = _ENDING_TRIES  # it ends, but not at once
        while not connection.execute(sa.select(sa.func.pg_try_advisory_lock(self._key))).scalar():
            tries -= 1
            if not tries:
                return False
            time.sleep(_ENDING_S / _ENDING_TRIES)
        self._held_by = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar()
        return True


@contextmanager
def migrating(connection: Connection) -> Iterator[None]:
    """Give the statements of a migration their time, and let no second station migrate beside; in a transaction."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, BoundedConnection)
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    raw.answer_s = _MIGRATION_S
    try:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        yield
    finally:
        del raw.answer_s
