"""The journal as a port of the service, on a SQL database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from adapters.journal.database import Database
from adapters.journal.engine import anothers
from adapters.journal.pages import merged, select_page
from adapters.journal.redo import SHARED_MEMORY
from adapters.journal.retention import Retention
from adapters.journal.rows import EventRows
from adapters.journal.schema import events, key_of, sinks
from adapters.journal.sequence import SequenceMark
from adapters.journal.unstored import RecoveredVerdict, UnstoredVerdicts
from schemas.settings import JournalSettings
from service.errors import JournalConflict, JournalError
from service.ports import Answer, Arrival, Clock, JournalEntry, VerdictQuery

log = structlog.get_logger(__name__)

_RETENTION_ROWS = 200
"""Deleted in one transaction: a few milliseconds that a verdict may have to wait."""

_RETENTION_PAUSE_S = 0.1


class SqlJournal:
    """Fulfils `Journal` (service/ports.py) on SQLite or PostgreSQL.

    Args:
        settings: the database.
        station: whose events these are.
        clock: stamps, and says which monotonic clock a deadline is of.
        memory: the folder for verdicts on their way into the database; one that is memory.
    """

    def __init__(self, settings: JournalSettings, *, station: str, clock: Clock, memory: Path = SHARED_MEMORY) -> None:
        self._station = station
        self._keep = timedelta(days=settings.keep_days)
        self._clock = clock
        self._rows = EventRows(station, clock)
        self._database = Database(settings, station=station)
        path = settings.folder / "journal" if self._database.dialect == "postgresql" else self._database.path
        self._mark = None if path is None else SequenceMark(path.with_name(f"{path.name}.{station}.seq"))
        self._unstored: UnstoredVerdicts | None = None
        if path is not None:  # a database in memory needs no other one
            self._unstored = UnstoredVerdicts(memory, database=self._database.place, path=path, station=station)
        self._memory_is_safe = settings.sync == "normal"
        """A loss of power erases it: where that must erase nothing, only what is stored is safe."""

        self._is_anothers = False
        self._highest = 0
        """What was said in this run, stored or not."""

        self._least = 0
        """What the next seq lies above whatever the database says."""
        insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert
        # an INSERT tells how many rows it made only where it is asked to
        self._note_event = insert(events).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        self._store_verdict = (
            sa.update(events)
            .where(
                events.c.station == station,
                events.c.event_id == sa.bindparam("key"),
                events.c.verdict.is_(None),  # the first verdict stands
            )
            .values(seq=sa.bindparam("seq"), decision=sa.bindparam("decision"), verdict=sa.bindparam("verdict"))
        )
        note_confirmed = insert(sinks)
        self._note_confirmed = note_confirmed.on_conflict_do_update(
            index_elements=["station", "sink"], set_={"confirmed_seq": note_confirmed.excluded.confirmed_seq}
        )
        self._retention: asyncio.Task[None] | None = None
        self._marking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._database.open()
        if self._mark is not None:
            self._is_anothers = not self._mark.take()
            await asyncio.to_thread(self._mark.read)
        if self._unstored is not None:
            self._unstored.take_up()
            if self._unstored.recovered and self._mark is not None and await self._is_new():
                self._least = self._mark.ceiling  # the journal before was lost, though the log fills this one
            await self._store_recovered(self._unstored)
        if self._keep:
            retention = Retention(self.forget, newest=self._newest, keep=self._keep, clock=self._clock)
            self._retention = asyncio.create_task(retention.run(), name="journal retention")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (self._retention, self._marking):
            if task is not None:
                task.cancel()
        await self._database.close()
        if self._unstored is not None:
            self._unstored.close()
        if self._mark is not None:
            self._mark.leave()

    @property
    def folder(self) -> Path | None:
        """Where its files are kept; None where it has none."""
        return self._database.folder

    @property
    def fault(self) -> str | None:
        """What a person must know about the journal, in one line."""
        return self._database.fault

    def reset_fault(self) -> None:
        """Forget a fault that was dealt with."""
        self._database.fault = None

    async def accept(self, arrival: Arrival, deadline_at: datetime) -> JournalEntry | None:
        """Note an event; return what is known of it where it was noted before, else None."""
        recovered = None if self._unstored is None else self._unstored.recovered_of(key_of(arrival.event.event_id))
        if recovered is not None:
            return self._rows.recovered_entry(recovered)
        row = self._rows.row(arrival, deadline_at)

        def work(connection: Connection) -> JournalEntry | None:
            if connection.execute(self._note_event, row).rowcount:
                return None
            return self._rows.entry(
                connection.execute(self._select().where(events.c.event_id == row["event_id"])).one()
            )

        known = await self._database.write(work)
        if known is None and self._unstored is not None:
            self._unstored.note(row)
        return known

    def secure(self, answer: Answer, arrival: Arrival) -> bool:
        """Keep a verdict from a crash of the process until `store` has stored it; tell whether that is safe enough.

        Also where it is not: a journal that hangs for longer than the gate can wait leaves this copy alone.
        """
        verdict = answer.verdict
        self._highest = max(self._highest, verdict.seq)
        if self._unstored is not None and self._unstored.keep(
            verdict, answer.verdict_json, row=lambda: self._rows.row_of_answered(answer, arrival)
        ):
            return self._memory_is_safe
        if self._mark is not None and self._marking is None:
            self._marking = asyncio.create_task(self._mark_numbers(self._mark), name="journal numbers")
        return False

    async def _mark_numbers(self, mark: SequenceMark) -> None:
        """Note the numbers of what may be said before it is safe: a crash must not free them."""
        noted = 0
        try:
            while noted < self._highest:
                noted = self._highest
                await asyncio.to_thread(mark.not_stored, noted)
        finally:
            self._marking = None

    async def store(self, answered: Sequence[tuple[Answer, Arrival]]) -> None:
        """Store verdicts with their exact bytes, in one commit; the first verdict on an event stands.

        Raises:
            JournalConflict: a number was used before.
            JournalError: they could not be stored.
        """
        if self._unstored is not None:
            await self._store_recovered(self._unstored)
        highest = max(answer.verdict.seq for answer, _ in answered)
        rows = [
            {
                "key": key_of(answer.verdict.event_id),
                "seq": answer.verdict.seq,
                "decision": answer.verdict.decision.value,
                "verdict": answer.verdict_json,
            }
            for answer, _ in answered
        ]

        def work(connection: Connection) -> None:
            if connection.execute(self._store_verdict, rows).rowcount < len(rows):
                # some were stored before, or could not be noted when they came
                for answer, arrival in answered:
                    connection.execute(self._note_event, self._rows.row_of_answered(answer, arrival))
                if connection.execute(self._store_verdict, rows).rowcount < len(rows) and self._mark is not None:
                    self._mark.not_stored(
                        highest
                    )  # an earlier verdict stands: the number of this one is used all the same
            if self._mark is not None:
                self._mark.stored(highest)

        try:
            await self._database.write(work)
        except JournalError as exc:
            if isinstance(exc, JournalConflict) and len(answered) == 1:
                self._forget_unstored(highest)
                self._database.fault = f"verdict {highest} is not in the journal: {exc}"
            if self._mark is not None:
                # with those that wait behind them: a crash now must not free their numbers
                await asyncio.to_thread(self._mark.not_stored, max(highest, self._highest))
            raise
        for answer, _ in answered:
            self._forget_unstored(answer.verdict.seq)

    async def store_late(self, event_id: str, verdict_json: bytes) -> None:
        """Keep a result that came after its deadline, for the record."""
        statement = (
            sa.update(events)
            .where(events.c.station == self._station, events.c.event_id == key_of(event_id))
            .values(late_verdict=verdict_json)
        )
        await self._database.write(lambda connection: connection.execute(statement))

    async def confirm(self, sink: str, seq: int) -> None:
        """Note that a sink has confirmed every verdict up to and including `seq`."""
        row = {"station": self._station, "sink": sink, "confirmed_seq": seq}
        await self._database.write(lambda connection: connection.execute(self._note_confirmed, row))

    async def confirmed(self, sink: str) -> int | None:
        """Return up to which seq a sink has confirmed all verdicts; None for a sink never heard of."""
        statement = sa.select(sinks.c.confirmed_seq).where(sinks.c.station == self._station, sinks.c.sink == sink)
        return await self._database.read(lambda connection: connection.execute(statement).scalar())

    async def answered(self, *, after: int, limit: int) -> tuple[Sequence[JournalEntry], int | None]:
        """Return answered events with a seq above `after`, in the order of seq, and the seq that was read to.

        limit: so many rows are read; what is damaged is among them, and passed over. None: to the last one.
        """
        statement = self._select().where(events.c.seq > after).order_by(events.c.seq).limit(limit)
        # looked at first: what is stored while the database is read may be missing there, and gone here by then
        recovered = [] if self._unstored is None else [each for each in self._unstored.recovered if each.seq > after]

        def work(connection: Connection) -> tuple[list[JournalEntry], int | None]:
            rows = connection.execute(statement).all()
            return self._rows.entries(rows), rows[-1].seq if len(rows) == limit else None

        entries, read = await self._database.read(work)
        by_seq = {each.seq: self._rows.recovered_entry(each) for each in recovered if read is None or each.seq <= read}
        by_seq |= {entry.seq: entry for entry in entries if entry.seq is not None}
        return [entry for _, entry in sorted(by_seq.items())], read

    async def unanswered(self) -> Sequence[JournalEntry]:
        """Return events that were accepted and never answered, oldest first."""
        # by seq, which is indexed, and comes with the verdict
        statement = self._select().where(events.c.seq.is_(None)).order_by(events.c.received_at)
        return await self._database.read(lambda connection: self._rows.entries(connection.execute(statement)))

    async def last_seq(self) -> int:
        """Return a seq that no verdict so far has exceeded: the highest one, where all of them could be stored.

        Raises UsageError where another process counts on from there.
        """
        if self._is_anothers:
            raise anothers(self._station)
        try:
            stored = await self._stored_seq()
        except JournalError as exc:
            if self._mark is None or (self._database.path is None and not self._mark.ceiling):
                raise  # a server may hold numbers of which this machine knows nothing
            log.error("journal_read_failed", error=str(exc))
            stored = 0
        recovered = 0 if self._unstored is None else max((each.seq for each in self._unstored.recovered), default=0)
        if self._mark is None:
            return stored
        # an empty journal beside a mark: the one before was lost, and its last numbers with it
        return max(stored, recovered, self._least, self._mark.unstored if stored else self._mark.ceiling)

    async def answered_ids(self, limit: int) -> Sequence[str]:
        """Return the event ids that were answered last, at most `limit`; of one too long for a key, its key."""
        statement = (
            sa.select(events.c.event_id)
            .where(events.c.station == self._station, events.c.seq.is_not(None))
            .order_by(events.c.seq.desc())
            .limit(limit)
        )
        return await self._database.read(lambda connection: list(connection.execute(statement).scalars()))

    async def find(self, event_id: str) -> bytes | None:
        """Return the verdict bytes of an event; those in the redo log are not stored yet."""
        key = key_of(event_id)
        unstored = None if self._unstored is None else self._unstored.find(key)
        if unstored is not None:
            return unstored.verdict_json
        statement = sa.select(events.c.verdict).where(events.c.station == self._station, events.c.event_id == key)
        return await self._database.read(lambda connection: connection.execute(statement).scalar())

    async def page(self, query: VerdictQuery) -> Sequence[bytes]:
        """Return verdict bytes, newest first; those in the redo log are not stored yet."""
        # looked at first: what is stored while the database is read may be missing there, and gone here by then
        unstored = () if self._unstored is None else self._unstored.verdicts
        statement = select_page(self._station, query)
        return merged(
            await self._database.read(lambda connection: connection.execute(statement).all()), unstored, query
        )

    async def forget(self, before: datetime) -> int:
        """Delete events that were received before `before` and answered; return how many.

        The last verdict stays, since numbering goes on from it. Deleted in small pieces: verdicts need not wait.
        """
        newest = sa.select(sa.func.max(events.c.seq)).where(events.c.station == self._station).scalar_subquery()
        old = (
            sa.select(events.c.event_id)
            .where(events.c.station == self._station, events.c.received_at < before, events.c.seq < newest)
            .limit(_RETENTION_ROWS)
        )
        statement = sa.delete(events).where(events.c.station == self._station, events.c.event_id.in_(old))
        total = 0
        while deleted := await self._database.write(lambda connection: connection.execute(statement).rowcount):
            total += deleted
            await asyncio.sleep(_RETENTION_PAUSE_S)
        return total

    async def _newest(self) -> datetime | None:
        """Return when the last event was received."""
        statement = sa.select(sa.func.max(events.c.received_at)).where(events.c.station == self._station)
        return await self._database.read(lambda connection: connection.execute(statement).scalar())

    async def _is_new(self) -> bool:
        """Tell whether the database knows no verdict, or cannot say."""
        try:
            return not await self._stored_seq()
        except JournalError:
            return True

    async def _stored_seq(self) -> int:
        """Return the highest seq that the database knows, of a verdict or of what was confirmed; 0: none."""
        of_verdicts = sa.select(sa.func.max(events.c.seq)).where(events.c.station == self._station)
        confirmed = sa.select(sa.func.max(sinks.c.confirmed_seq)).where(sinks.c.station == self._station)

        def work(connection: Connection) -> int:
            return max(int(connection.execute(statement).scalar() or 0) for statement in (of_verdicts, confirmed))

        return await self._database.read(work)

    async def _store_recovered(self, unstored: UnstoredVerdicts) -> None:
        """Store what the last run said and did not store; where that is not possible yet, the next verdict tries."""
        for recovered in unstored.recovered:
            try:
                await self._database.write(partial(self._store_one_recovered, recovered))
            except JournalConflict as exc:
                log.error("verdict_conflicts", seq=recovered.seq, error=str(exc))
            except JournalError as exc:
                log.error("journal_store_failed", seq=recovered.seq, error=str(exc))
                return
            else:
                log.info("verdict_stored_from_redo_log", event_id=recovered.event_id, seq=recovered.seq)
            unstored.settled(recovered)

    def _store_one_recovered(self, recovered: RecoveredVerdict, connection: Connection) -> None:
        connection.execute(self._note_event, {**recovered.row, "station": self._station})
        answer = {
            "key": recovered.event_id,
            "seq": recovered.seq,
            "decision": recovered.decision,
            "verdict": recovered.verdict_json,
        }
        connection.execute(self._store_verdict, answer)

    def _forget_unstored(self, seq: int) -> None:
        if self._unstored is not None:
            self._unstored.stored(seq)

    def _select(self) -> sa.Select[Any]:
        return sa.select(events).where(events.c.station == self._station)
