"""A SQL database that is written by one thread and read by another."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from adapters.journal.engine import anothers, database_says, open_engine
from adapters.journal.schema import upgrade
from adapters.journal.sqlite_file import SqliteFile
from schemas.settings import JournalSettings, without_password
from service.errors import CangateError, JournalConflict, JournalError, UsageError
from service.threads import DaemonThreads

log = structlog.get_logger(__name__)

T = TypeVar("T")
Work = Callable[[Connection], T]

_BATCH = 256
_WAITING = 10_000
_CHECKPOINT_S = 5.0
_PUT_BACK_S = 30.0
"""Not sooner after the last time: two processes with one file would do nothing but put theirs in the other's place."""

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


class Database:
    """Runs pieces of work in transactions, off the event loop.

    Writes that come in while a commit is under way share the next one (group commit), so a burst costs few commits and
    a lone write waits for nobody. SQLite runs in WAL mode: readers hold up no writer, and with `sync = "normal"` a
    commit waits for no disk; the log is written back, with its fsync, beside the commits.

    A server that was away is connected to again by the next call. One that does not answer fails whatever waits for it
    in bounded time. Where it fell silent over a commit, nobody knows whether it holds: writes can be repeated.

    A SQLite file that turns out to be corrupt is set aside under a name that says so, and a new one is begun: once,
    however many find out at the same time. One that is removed or replaced while it is open is written again.
    """

    def __init__(self, settings: JournalSettings, *, station: str) -> None:
        opened = open_engine(settings, station=station)
        self._engine, self.path, self._migrating, self._claim = (
            opened.engine,
            opened.path,
            opened.migrating,
            opened.claim,
        )
        self._station = station
        self.dialect = self._engine.dialect.name
        beside = None if self.path is None else self.path.parent
        self.folder = settings.folder if self.dialect == "postgresql" else beside
        """Where files are kept, None for a database in memory; made when the database is opened."""

        url = self._engine.url
        self.place = f"{self.dialect} {url.host or ''} {url.port or ''} {url.database or ''}"
        """Which database this is, whoever logs in to it."""

        self._writer = DaemonThreads("journal")
        # a database in memory belongs to the one connection that made it
        self._reader = self._writer if self.dialect == "sqlite" and self.path is None else DaemonThreads("journal-read")
        self._write_connection: Connection | None = None
        self._read_connection: Connection | None = None
        self._reading = threading.RLock()  # held by a read: the file is not set aside beneath it
        self._generation = 0  # how many files were set aside, or written again
        self._file = None if self.path is None else SqliteFile(self.path)
        self._put_back_at = 0.0  # not sooner
        self._not_put_back: str | None = None  # why not, at the last try
        self._waiting: list[tuple[Work[Any], asyncio.Future[Any]]] = []
        self._flush: asyncio.Task[None] | None = None
        self._checkpoints: asyncio.Task[None] | None = None
        self.fault: str | None = None

    async def open(self) -> None:
        """Open the database and bring its tables up to date. One without room for that is opened when there is room.

        Raises:
            UsageError: it cannot be opened, or another process writes of the station there.
        """
        self._make_folder()
        try:
            await self._writer.submit(self._open)
        except SQLAlchemyError as exc:
            if _code(exc) not in _NO_ROOM:
                raise UsageError(
                    f"journal.url: {without_password(str(self._engine.url))} cannot be opened: {database_says(exc)}"
                ) from exc
            log.error("journal_not_opened", error=database_says(exc))
        if self.path is not None:
            self._checkpoints = asyncio.create_task(self._write_back(), name="journal checkpoints")

    def _make_folder(self) -> None:
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise UsageError(f"journal.url: {exc.filename}: {exc.strerror}") from exc

    async def close(self) -> None:
        """Finish what was begun and close."""
        if self._checkpoints is not None:
            self._checkpoints.cancel()
        if self._flush is not None:
            await asyncio.wait({self._flush})
        self._put_back_at = 0.0  # now or never
        await self._writer.submit(self._put_back)
        await self._reader.submit(self._close_read_connection)
        await self._writer.submit(self._disconnect)
        self._writer.close()
        self._reader.close()

    async def write(self, work: Work[T]) -> T:
        """Return what `work` returns, once it is committed. Raises JournalError."""
        if len(self._waiting) >= _WAITING:
            raise JournalError("the database does not answer")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._flush is None:
            self._flush = asyncio.create_task(self._flush_all(), name="journal-flush")
        return await future

    async def read(self, work: Work[T]) -> T:
        """Return what `work` returns. Raises JournalError."""
        generation = self._generation
        try:
            return await self._reader.submit(lambda: self._read(work))
        except (SQLAlchemyError, ValueError) as exc:  # the latter: a column that holds nothing of its type
            if _code(exc) in _CORRUPT:
                await self._writer.submit(partial(self._set_aside, exc, generation))
            raise JournalError(database_says(exc)) from exc

    async def _flush_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                try:
                    outcomes = await self._writer.submit(partial(self._commit, [work for work, _ in batch]))
                except JournalError as exc:
                    # the database is away: who came meanwhile need not wait for it once more
                    batch, self._waiting = batch + self._waiting, []
                    outcomes = [exc] * len(batch)
                except Exception as exc:  # whoever waits for the commit must hear of it, whatever it was
                    log.exception("journal_commit_failed")
                    outcomes = [JournalError(database_says(exc))] * len(batch)
                for (_, future), outcome in zip(batch, outcomes, strict=True):
                    if future.cancelled():
                        continue
                    if isinstance(outcome, JournalError):
                        future.set_exception(outcome)
                    else:
                        future.set_result(outcome)
        finally:
            self._flush = None

    async def _write_back(self) -> None:
        while True:
            await asyncio.sleep(_CHECKPOINT_S)
            try:
                # read to its end: a statement in progress would keep the transaction from ending
                await self.read(lambda connection: connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").all())
                await self._writer.submit(self._put_back)
            except JournalError as exc:
                log.warning("journal_checkpoint_failed", error=str(exc))

    # from here on: on the threads

    def _open(self) -> None:
        try:
            self._connection_for_writing()
        except SQLAlchemyError as exc:
            if _code(exc) not in _CORRUPT:
                raise
            self._set_aside(exc, self._generation)
            self._connection_for_writing()

    def _connection_for_writing(self) -> Connection:
        if self._write_connection is None:
            # kept: taking one from a pool costs as much as a commit
            connection = self._engine.connect()
            try:
                with connection.begin():
                    self._make_ours(connection)
            except BaseException:  # raised again: whatever ended it, a half-open connection must not keep the file
                connection.close()
                self._engine.dispose()
                raise
            self._write_connection = connection
            if self._file is not None:
                self._file.note()
        return self._write_connection

    def _make_ours(self, connection: Connection) -> None:
        upgrade(connection, self._migrating)
        if not self._claim(connection):
            raise anothers(self._station)

    def _commit(self, works: Sequence[Work[Any]], *, again: bool = False) -> list[Any]:
        """Return what each of `works` returned, or why it was refused. Raises JournalError where none was to blame."""
        done = False
        self._put_back()
        try:
            connection = self._connection_for_writing()
            with connection.begin():
                outcomes = [work(connection) for work in works]
                done = True
        except UsageError as exc:  # of the connection, not of what was to be written
            raise JournalError(str(exc)) from exc
        except (SQLAlchemyError, CangateError) as exc:
            if _is_refusal(exc):
                if len(works) > 1:  # one bad write must not take its neighbours along
                    return [outcome for work in works for outcome in self._commit([work])]
                if isinstance(exc, JournalError):
                    return [exc]
                kind = JournalConflict if isinstance(exc, IntegrityError) else JournalError
                return [kind(database_says(exc))]
            self._disconnect()
            if _code(exc) in _CORRUPT and not again:
                self._set_aside(exc, self._generation)
                return self._commit(works, again=True)
            if _is_lost(exc) and not again and not done:  # a commit that was begun may hold
                return self._commit(works, again=True)
            raise JournalError(database_says(exc)) from exc
        return outcomes

    def _read(self, work: Work[T], *, again: bool = False) -> T:
        try:
            with self._reading:
                if self._read_connection is None:
                    self._read_connection = self._engine.connect()
                with self._read_connection.begin():
                    return work(self._read_connection)
        except SQLAlchemyError as exc:
            self._close_read_connection()
            if _is_lost(exc) and not again:
                return self._read(work, again=True)
            raise

    def _close_read_connection(self) -> None:
        with self._reading:
            opened, self._read_connection = self._read_connection, None
            if opened is not None:
                opened.close()

    def _disconnect(self) -> None:
        if self._write_connection is not None:
            self._write_connection.close()
            self._write_connection = None
        self._engine.dispose()

    def _set_aside(self, exc: Exception, generation: int) -> None:
        """Keep a corrupt file under another name and begin a new one; that of an earlier `generation` is gone."""
        assert self._file is not None  # a database in memory is not corrupt
        if generation != self._generation:
            return
        with self._reading:
            self._close_read_connection()
            self._disconnect()
            try:
                name = self._file.move_away("corrupt")
            except OSError as failed:
                self.fault = (
                    f"{self._file.name} is corrupt ({database_says(exc)}) and cannot be set aside: {failed.strerror}"
                )
                log.error("journal_not_set_aside", fault=self.fault)
                return
            self._generation += 1
            was = f"{self._file.name} was corrupt ({database_says(exc)})"
            self.fault = f"{was}; it was set aside as {name} and a new one begun"
            log.error("journal_set_aside", fault=self.fault)
            with suppress(SQLAlchemyError):  # no room: the next write begins it, or says why not
                self._connection_for_writing()

    def _put_back(self) -> None:
        """Write the file again where somebody removed it, or put another in its place: what is open is still whole."""
        file, connection = self._file, self._write_connection
        if file is None or connection is None or file.is_in_place:
            return
        was = f"{file.name} was removed or replaced while it was open"
        if time.monotonic() < self._put_back_at:
            self.fault = self._not_put_back or f"{was}; it will be written again"
            return
        self._put_back_at = time.monotonic() + _PUT_BACK_S
        with self._reading:
            try:
                draft = file.new_draft()
                # past SQLAlchemy, which would begin a transaction
                connection.connection.cursor().execute("VACUUM INTO ?", (str(draft),))
                self._close_read_connection()
                self._disconnect()
                if (other := file.put_in_place(draft)) is not None:
                    was = f"{was}; what took its place is {other}"
            except (sqlite3.Error, SQLAlchemyError, OSError) as exc:
                self.fault = self._not_put_back = f"{was}, and cannot be written again: {database_says(exc)}"
                log.error("journal_not_put_back", fault=self.fault)
                return
            self._generation += 1
            self.fault, self._not_put_back = f"{was}; it was written again", None
            log.error("journal_put_back", fault=self.fault)


def _is_refusal(exc: Exception) -> bool:
    """Tell whether a write was refused by a database that works."""
    return not isinstance(exc, DBAPIError) or isinstance(exc, IntegrityError | DataError)


def _is_lost(exc: Exception) -> bool:
    """Tell whether the connection broke; another one may work."""
    return isinstance(exc, DBAPIError) and exc.connection_invalidated


def _code(exc: BaseException) -> int | None:
    """Return SQLite's primary result code, None where it is another error."""
    code = getattr(getattr(exc, "orig", None), "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF
