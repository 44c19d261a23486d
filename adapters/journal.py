"""The journal: every accepted event and every verdict with its exact bytes, in SQLite or PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from schemas.messages import ImageEvent, ImageRef
from schemas.settings import JournalSettings
from service.errors import JournalError, UsageError
from service.ports import Answer, Arrival, JournalEntry, VerdictQuery

T = TypeVar("T")
_BATCH = 256


class _UtcDateTime(sa.TypeDecorator[datetime]):
    """Aware UTC in Python; SQLite keeps no offset."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 - theirs
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 - theirs
        return None if value is None else value.replace(tzinfo=UTC)


_metadata = sa.MetaData()

_events = sa.Table(
    "events",
    _metadata,
    sa.Column("station", sa.String, primary_key=True),
    sa.Column("event_id", sa.String, primary_key=True),
    sa.Column("part_id", sa.String),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("event", sa.LargeBinary, nullable=False),
    sa.Column("image", sa.LargeBinary),
    sa.Column("received_at", _UtcDateTime, nullable=False),
    sa.Column("deadline_at", _UtcDateTime, nullable=False),
    # filled when the event is answered
    sa.Column("seq", sa.BigInteger),
    sa.Column("decision", sa.String),
    sa.Column("verdict", sa.LargeBinary),
    sa.Column("late_verdict", sa.LargeBinary),
    sa.Index("events_by_seq", "station", "seq", unique=True),
    sa.Index("events_by_part", "station", "part_id"),
)

_sinks = sa.Table(
    "sinks",
    _metadata,
    sa.Column("station", sa.String, primary_key=True),
    sa.Column("sink", sa.String, primary_key=True),
    sa.Column("confirmed_seq", sa.BigInteger, nullable=False),
)


class SqlJournal:
    """A journal in one SQL database, written and read by one thread of its own.

    Writes that come in while a commit is under way share the next one (group commit), so a burst costs few commits and
    a lone write waits for nobody. SQLite runs in WAL mode: `sync = "normal"` survives a crash of the process, `full`
    also a loss of power (SQLite documentation, PRAGMA synchronous).
    """

    def __init__(self, settings: JournalSettings, *, station: str) -> None:
        self._station = station
        self._settings = settings
        self._engine = _open_engine(settings)
        self._insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        self._note_event = self._insert(_events).on_conflict_do_nothing()
        self._store_verdict = (
            sa.update(_events)
            .where(
                _events.c.station == station,
                _events.c.event_id == sa.bindparam("key"),
                _events.c.verdict.is_(None),  # the first verdict stands
            )
            .values(seq=sa.bindparam("seq"), decision=sa.bindparam("decision"), verdict=sa.bindparam("verdict"))
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._waiting: list[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = []
        self._flush: asyncio.Task[None] | None = None
        self._connection: Connection | None = (
            None  # of the thread alone; taking one from a pool costs as much as a commit
        )

    async def __aenter__(self) -> Self:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, _metadata.create_all, self._engine)
        except SQLAlchemyError as exc:
            raise UsageError(f"journal.url: {self._settings.url} cannot be opened: {_one_line(exc)}") from exc
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._flush is not None:
            await asyncio.wait({self._flush})
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    async def accept(self, arrival: Arrival, deadline_at: datetime) -> JournalEntry | None:
        """Note an event; return what is known of it where it was noted before, else None."""
        event = arrival.event
        row = {
            "station": self._station,
            "event_id": event.event_id,
            "part_id": event.part_id,
            "source": arrival.source,
            "event": event.model_dump_json(include=set(ImageEvent.model_fields)).encode(),
            "image": None if arrival.image is None else arrival.image.to_json(),
            "received_at": arrival.received_at,
            "deadline_at": deadline_at,
        }

        def work(connection: Connection) -> JournalEntry | None:
            if connection.execute(self._note_event, row).rowcount:
                return None
            known = connection.execute(self._select().where(_events.c.event_id == event.event_id)).one()
            return _entry(known)

        return await self._submit(work)

    async def store(self, answers: Sequence[Answer]) -> None:
        """Store verdicts with their exact bytes, in one commit."""
        rows = [
            {
                "key": answer.verdict.event_id,
                "seq": answer.verdict.seq,
                "decision": answer.verdict.decision.value,
                "verdict": answer.verdict_json,
            }
            for answer in answers
        ]
        await self._submit(lambda connection: connection.execute(self._store_verdict, rows))

    async def store_late(self, event_id: str, verdict_json: bytes) -> None:
        """Keep a result that came after its deadline, for the record."""
        statement = (
            sa.update(_events)
            .where(_events.c.station == self._station, _events.c.event_id == event_id)
            .values(late_verdict=verdict_json)
        )
        await self._submit(lambda connection: connection.execute(statement))

    async def confirm(self, sink: str, seq: int) -> None:
        """Note that a sink has confirmed every verdict up to and including `seq`."""
        statement = (
            self._insert(_sinks)
            .values(station=self._station, sink=sink, confirmed_seq=seq)
            .on_conflict_do_update(index_elements=["station", "sink"], set_={"confirmed_seq": seq})
        )
        await self._submit(lambda connection: connection.execute(statement))

    async def confirmed(self, sink: str) -> int | None:
        """Return up to which seq a sink has confirmed all verdicts; None for a sink never heard of."""
        statement = sa.select(_sinks.c.confirmed_seq).where(_sinks.c.station == self._station, _sinks.c.sink == sink)
        return await self._submit(lambda connection: connection.execute(statement).scalar())

    async def answered(self, *, after: int, limit: int) -> Sequence[JournalEntry]:
        """Return answered events with a seq above `after`, in the order of seq."""
        statement = self._select().where(_events.c.seq > after).order_by(_events.c.seq).limit(limit)
        return await self._submit(lambda connection: [_entry(row) for row in connection.execute(statement)])

    async def unanswered(self) -> Sequence[JournalEntry]:
        """Return events that were accepted and never answered, oldest first."""
        statement = self._select().where(_events.c.verdict.is_(None)).order_by(_events.c.received_at)
        return await self._submit(lambda connection: [_entry(row) for row in connection.execute(statement)])

    async def last_seq(self) -> int:
        """Return the highest seq ever stored, 0 where there is none."""
        statement = sa.select(sa.func.max(_events.c.seq)).where(_events.c.station == self._station)
        return int(await self._submit(lambda connection: connection.execute(statement).scalar()) or 0)

    async def find(self, event_id: str) -> bytes | None:
        """Return the verdict bytes of an event."""
        statement = sa.select(_events.c.verdict).where(
            _events.c.station == self._station, _events.c.event_id == event_id
        )
        return await self._submit(lambda connection: connection.execute(statement).scalar())

    async def page(self, query: VerdictQuery) -> Sequence[bytes]:
        """Return verdict bytes, newest first."""
        statement = sa.select(_events.c.verdict).where(_events.c.station == self._station, _events.c.seq.is_not(None))
        if query.before is not None:
            statement = statement.where(_events.c.seq < query.before)
        if query.decision is not None:
            statement = statement.where(_events.c.decision == query.decision.value)
        if query.part_id is not None:
            statement = statement.where(_events.c.part_id == query.part_id)
        statement = statement.order_by(_events.c.seq.desc()).limit(query.limit)
        return await self._submit(lambda connection: list(connection.execute(statement).scalars()))

    def _select(self) -> sa.Select[Any]:
        return sa.select(_events).where(_events.c.station == self._station)

    async def _submit(self, work: Callable[[Connection], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._flush is None:
            self._flush = asyncio.create_task(self._flush_all(), name="journal-flush")
        return await future

    async def _flush_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                works = [work for work, _ in batch]
                outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, works)
                for (_, future), outcome in zip(batch, outcomes, strict=True):
                    if future.cancelled():
                        continue
                    if isinstance(outcome, JournalError):
                        future.set_exception(outcome)
                    else:
                        future.set_result(outcome)
        finally:
            self._flush = None

    def _commit(self, works: Sequence[Callable[[Connection], Any]]) -> list[Any]:
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                return [work(self._connection) for work in works]
        except SQLAlchemyError as exc:
            self._disconnect()
            if len(works) > 1:  # one bad write must not take its neighbours along
                return [outcome for work in works for outcome in self._commit([work])]
            return [JournalError(_one_line(exc))]

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._engine.dispose()


def _open_engine(settings: JournalSettings) -> Engine:
    try:
        url = sa.make_url(settings.url)
        if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url)
    except (ArgumentError, NoSuchModuleError, ImportError) as exc:
        raise UsageError(f"journal.url: {_one_line(exc)}") from exc
    except OSError as exc:
        raise UsageError(f"journal.url: {exc.filename}: {exc.strerror}") from exc
    if engine.dialect.name not in ("sqlite", "postgresql"):
        raise UsageError(f"journal.url: {engine.dialect.name} is not supported, sqlite and postgresql are")
    if engine.dialect.name == "sqlite":
        sync = settings.sync.upper()

        @sa.event.listens_for(engine, "connect")
        def _set_pragmas(connection: DBAPIConnection, _: object) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute(f"PRAGMA synchronous = {sync}")
            cursor.close()

    return engine


def _entry(row: sa.Row[Any]) -> JournalEntry:
    return JournalEntry(
        event=ImageEvent.model_validate_json(row.event),
        image=None if row.image is None else ImageRef.model_validate_json(row.image),
        source=row.source,
        received_at=row.received_at,
        deadline_at=row.deadline_at,
        verdict_json=row.verdict,
    )


def _one_line(exc: Exception) -> str:
    return " ".join(str(getattr(exc, "orig", None) or exc).split())[:200]
