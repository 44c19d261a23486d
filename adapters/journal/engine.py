"""From a journal's URL to an engine, and what its errors say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from schemas.settings import JournalSettings
from service.errors import UsageError, one_line

Migrating = Callable[[Connection], AbstractContextManager[None]]
Claiming = Callable[[Connection], bool]

_WAL_PAGES = 20_000
"""A write-ahead log this long is written back within a commit after all, so that it cannot grow for ever."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine, and its file where it has one.

    migrating: keeps other processes from migrating beside. claim: takes the right to write of a station for as long as
    the connection lives, and tells whether it did: another process may have it. Of a file it is taken beside it
    (`SequenceMark.take`).
    """

    engine: Engine
    path: Path | None = None
    migrating: Migrating = lambda _: nullcontext()
    claim: Claiming = lambda _: True


def open_engine(settings: JournalSettings, *, station: str) -> Opened:
    """Return an engine for the database of the settings. Raises UsageError."""
    path: Path | None = None
    try:
        url = sa.make_url(settings.url)
        if url.drivername in ("postgresql", "postgresql+psycopg"):
            return _open_postgresql(url.set(drivername="postgresql+psycopg"), station)
        if url.get_backend_name() == "sqlite":
            if url.database not in (None, "", ":memory:"):
                path = Path(str(url.database))
            engine = sa.create_engine(url)
        else:
            raise UsageError(f"journal.url: {url.drivername} is not supported, sqlite and postgresql+psycopg are")
    except (ArgumentError, NoSuchModuleError, ImportError) as exc:
        raise UsageError(f"journal.url: {database_says(exc)}") from exc
    except ValueError as exc:  # a port that is no number, which may be the end of a password
        raise UsageError("journal.url: cannot be read; what is special in a password must be percent-encoded") from exc
    sync = settings.sync.upper()

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: DBAPIConnection, _: object) -> None:
        # transactions as SQLAlchemy sees them, not as the sqlite3 module guesses them: ALTER TABLE is part of one
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {sync}")
        cursor.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return Opened(engine, path)


def _open_postgresql(url: sa.URL, station: str) -> Opened:
    try:
        from adapters.journal import postgresql  # noqa: PLC0415 - its library is installed where it is used
    except ImportError as exc:
        raise UsageError("journal.url: needs psycopg, pip install 'cangate[postgresql]'") from exc
    claim = postgresql.Claim(station)
    return Opened(postgresql.open_engine(url), migrating=postgresql.migrating, claim=claim.take)


def anothers(station: str) -> UsageError:
    """Return what refuses a second process of a station."""
    return UsageError(f"journal.url: another process that runs serves {station} with this journal")


def database_says(exc: Exception) -> str:
    """Return what the database said, short; SQLAlchemy adds the statement and its values."""
    return one_line(getattr(exc, "orig", None) or exc)
