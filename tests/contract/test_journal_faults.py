"""The journal's files when something is wrong with them."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from adapters.journal import SqlJournal
from adapters.journal.schema import VERSION, metadata
from adapters.journal.sequence import SequenceMark
from schemas.messages import Decision
from schemas.settings import JournalSettings
from service.errors import JournalError, UsageError
from service.ports import Answer, Arrival, VerdictQuery
from tests.support.line import CLOCK, arrival
from tests.support.verdicts import failed_answer
from tests.support.waiting import eventually


@asynccontextmanager
async def opened(path: Path, *, station: str = "line1") -> AsyncIterator[SqlJournal]:
    async with SqlJournal(JournalSettings(url=f"sqlite:///{path}"), station=station, clock=CLOCK) as journal:
        yield journal


@asynccontextmanager
async def opened_in(settings: JournalSettings) -> AsyncIterator[SqlJournal]:
    async with SqlJournal(settings, station="line1", clock=CLOCK) as journal:
        yield journal


def run_beside(settings: JournalSettings, statements: str) -> None:
    """Run statements in the database of a journal, past the journal."""
    with sa.create_engine(settings.url, poolclass=sa.NullPool).begin() as connection:
        for statement in statements.split(";"):
            connection.exec_driver_sql(statement)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    return tmp_path / "journal" / "journal.sqlite"


def answered(event_id: str, seq: int) -> tuple[Answer, Arrival]:
    event = arrival(event_id)
    return failed_answer(event, seq), event


async def fill(journal: SqlJournal, count: int, *, first: int = 1) -> None:
    for seq in range(first, first + count):
        await journal.store([answered(f"e{seq}", seq)])


VERSION_1 = """
CREATE TABLE events (station VARCHAR NOT NULL, event_id VARCHAR NOT NULL, part_id VARCHAR, source VARCHAR NOT NULL,
    event BLOB NOT NULL, image BLOB, received_at DATETIME NOT NULL, deadline_at DATETIME NOT NULL, seq BIGINT,
    decision VARCHAR, verdict BLOB, late_verdict BLOB, PRIMARY KEY (station, event_id));
CREATE UNIQUE INDEX events_by_seq ON events (station, seq);
CREATE INDEX events_by_part ON events (station, part_id);
CREATE TABLE sinks (station VARCHAR NOT NULL, sink VARCHAR NOT NULL, confirmed_seq BIGINT NOT NULL,
    PRIMARY KEY (station, sink));
INSERT INTO events VALUES ('line1', 'old', 'P', 'mqtt', CAST('{"event_id":"old"}' AS BLOB), NULL,
    '2026-01-31 08:00:00.000000', '2026-01-31 08:00:01.000000', 7, 'ERROR', CAST('{}' AS BLOB), NULL);
INSERT INTO events VALUES ('line1', 'open', 'P', 'mqtt', CAST('{"event_id":"open"}' AS BLOB), NULL,
    '2026-01-31 08:00:02.000000', '2026-01-31 08:00:03.000000', NULL, NULL, NULL, NULL)
"""


def version_1(settings: JournalSettings) -> str:
    return in_dialect(settings, VERSION_1)


def in_dialect(settings: JournalSettings, statements: str) -> str:
    if settings.url.startswith("sqlite"):
        return statements
    return (
        statements.replace("BLOB", "BYTEA")
        .replace("DATETIME", "TIMESTAMP WITH TIME ZONE")
        .replace(".000000", ".000000+00")
    )


async def test_journal_of_the_first_version_is_brought_up_to_date(database: JournalSettings, tmp_path: Path) -> None:
    """What an older version wrote is kept, and the tables are those of a new journal."""
    (tmp_path / "sub").mkdir(exist_ok=True)
    run_beside(database, version_1(database))
    async with opened_in(database) as journal:
        assert await journal.last_seq() == 7
        assert await journal.find("old") == b"{}"
        (entry,) = await journal.unanswered()
        assert (entry.event.event_id, entry.deadline_monotonic, entry.correlation_data) == ("open", None, None)
        assert entry.received_at == datetime(2026, 1, 31, 8, 0, 2, tzinfo=UTC)
        await fill(journal, 1, first=8)
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    inspected = sa.inspect(engine)
    for table in metadata.sorted_tables:
        columns = {column["name"] for column in inspected.get_columns(table.name)}
        assert columns == {column.name for column in table.columns}
        indexes = {index["name"]: index["column_names"] for index in inspected.get_indexes(table.name)}
        assert indexes == {index.name: list(index.columns.keys()) for index in table.indexes}


VERSION_2 = f"""{VERSION_1};
ALTER TABLE events ADD COLUMN deadline_monotonic DOUBLE PRECISION;
ALTER TABLE events ADD COLUMN epoch VARCHAR;
CREATE INDEX events_by_age ON events (station, received_at);
CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY);
INSERT INTO schema_version VALUES (2)
"""


async def test_journal_of_the_second_version_learns_correlation_data(database: JournalSettings, tmp_path: Path) -> None:
    """What it knew is kept, and what comes from then on has its correlation data, in a column of the right kind."""
    (tmp_path / "sub").mkdir(exist_ok=True)
    run_beside(database, in_dialect(database, VERSION_2))
    event = replace(arrival("new"), correlation_data=b"\x00\xff")
    async with opened_in(database) as journal:
        await journal.accept(event, event.received_at)
    async with opened_in(database) as journal:
        entries = {entry.event.event_id: entry.correlation_data for entry in await journal.unanswered()}
        assert entries == {"open": None, "new": b"\x00\xff"}
    with sa.create_engine(database.url, poolclass=sa.NullPool).connect() as connection:
        assert connection.execute(sa.text("SELECT version FROM schema_version")).scalars().all() == [VERSION]
        column = next(c for c in sa.inspect(connection).get_columns("events") if c["name"] == "correlation_data")
        assert isinstance(column["type"], sa.LargeBinary)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (VerdictQuery(), "events_by_seq"),
        (VerdictQuery(decision=Decision.DAMAGED), "events_by_decision"),
        (VerdictQuery(decision=Decision.DAMAGED, before=150), "events_by_decision"),
        (VerdictQuery(part_id="P-e7"), "events_by_part"),
        (VerdictQuery(part_id="P-e7", decision=Decision.ERROR, before=150), "events_by_part"),
    ],
)
async def test_page_of_verdicts_is_found_by_an_index(
    database: JournalSettings, query: VerdictQuery, index: str
) -> None:
    """What is rare, or not there at all, must not cost a look at ninety days of parts."""
    said: list[tuple[str, Any]] = []
    async with opened_in(database) as journal:
        await journal.store([answered(f"e{seq}", seq) for seq in range(1, 201)])
        engine = journal._database._engine
        is_sqlite = engine.dialect.name == "sqlite"
        if not is_sqlite:
            run_beside(database, "ANALYZE events")
            await journal._database.read(lambda connection: connection.exec_driver_sql("SET enable_seqscan = off"))

        @sa.event.listens_for(engine, "before_cursor_execute")
        def _note(_: object, __: object, statement: str, values: Any, ___: object, ____: object) -> None:
            said.append((statement, values))

        await journal.page(query)
        statement, values = next(each for each in said if each[0].startswith("SELECT"))
        explain = f"EXPLAIN {'QUERY PLAN' if is_sqlite else ''} {statement}"
        plan = await journal._database.read(lambda connection: connection.exec_driver_sql(explain, values).all())
    assert index in str(plan)


async def test_journal_of_a_newer_version_is_refused(database: JournalSettings) -> None:
    """What a newer version wrote is not touched, and the way out is one line."""
    async with opened_in(database) as journal:
        await fill(journal, 1)
    run_beside(database, "UPDATE schema_version SET version = 99")
    with pytest.raises(UsageError, match=f"newer version .schema 99, this one knows {VERSION}"):
        async with opened_in(database):
            pass


def overwrite(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.write(b"\xde\xad" * (length // 2))


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.write_bytes(b"no database"), partial(overwrite, length=100), partial(overwrite, length=8192)],
    ids=["another file", "no header", "no schema"],
)
async def test_corrupt_journal_is_set_aside_and_numbering_goes_on(path: Path, damage: Callable[[Path], object]) -> None:
    """No database any more: it is kept under another name, a new one begun, and no number is used twice."""
    async with opened(path) as journal:
        await fill(journal, 5)
    damage(path)
    async with opened(path) as journal:
        after = await journal.last_seq()
        assert after >= 5
        await fill(journal, 1, first=after + 1)
        assert journal.fault is not None
        (aside,) = path.parent.glob("journal.sqlite.corrupt-*[Z]")
        assert f"set aside as {aside.name}" in journal.fault
        journal.reset_fault()
        assert journal.fault is None


async def test_journal_that_was_deleted_begins_above_its_last_number(path: Path) -> None:
    """Whoever deletes the journal loses what it recorded; a number is still not used twice."""
    async with opened(path) as journal:
        await fill(journal, 5)
    path.unlink()  # noqa: ASYNC240 - nothing else runs
    async with opened(path) as journal:
        assert await journal.last_seq() >= 5


async def test_journal_that_becomes_corrupt_is_set_aside_while_it_runs(path: Path) -> None:
    """A disk that goes bad in service costs what was recorded, not what is decided."""
    async with opened(path) as journal:
        await fill(journal, 200)
        await asyncio.to_thread(_checkpoint, path)
        overwrite(path, 100_000)
        journal._database._disconnect()  # else SQLite answers from its cache, which is as good
        await fill(journal, 1, first=201)
        assert journal.fault is not None
        assert await journal.find("e201") is not None
        assert await journal.last_seq() == 201


def rot(path: Path) -> None:
    """Damage every page but those that a database is opened by."""
    with path.open("r+b") as file:
        file.seek(10 * 4096)
        file.write(b"\xde\xad" * ((path.stat().st_size - 10 * 4096) // 2))


async def test_corrupt_journal_is_set_aside_once_whoever_finds_out(path: Path) -> None:
    """Many reads at once, and verdicts beside them: the whole of it is kept, and nothing stored since is lost."""
    async with opened(path) as journal:
        await journal.store([answered(f"e{seq}", seq) for seq in range(1, 2001)])
    rot(path)
    damaged = path.read_bytes()  # noqa: ASYNC240 - nothing else runs
    async with opened(path) as journal:
        outcomes = await asyncio.gather(
            *(journal.page(VerdictQuery(limit=500)) for _ in range(6)),
            *(fill(journal, 1, first=seq) for seq in range(3000, 3012)),
            return_exceptions=True,
        )
        # none, where a verdict found out before any read did
        assert {str(outcome) for outcome in outcomes if isinstance(outcome, Exception)} <= {
            "database disk image is malformed"
        }
        stored = [seq for seq, outcome in enumerate(outcomes[6:], start=3000) if outcome is None]
        assert len(await journal.page(VerdictQuery(limit=500))) == len(stored) == 12
        (aside,) = path.parent.glob("journal.sqlite.corrupt-*[Z]")
        assert aside.read_bytes() == damaged


async def test_journal_that_a_read_set_aside_can_be_read(path: Path) -> None:
    """The new one has its tables before anything is written to it."""
    async with opened(path) as journal:
        await fill(journal, 200)
    rot(path)
    async with opened(path) as journal:
        with pytest.raises(JournalError, match="malformed"):
            await journal.page(VerdictQuery(limit=500))
        assert await journal.page(VerdictQuery()) == []


@pytest.mark.parametrize("replaced", [False, True])
async def test_journal_that_is_removed_while_it_is_open_is_written_again(path: Path, *, replaced: bool) -> None:
    """With all that it knew, and its numbering; what took its place is kept, and it is told."""
    async with opened(path) as journal:
        await journal.last_seq()
        await fill(journal, 3)
        for file in path.parent.iterdir():
            file.unlink()
        if replaced:
            path.write_bytes(b"somebody else's")  # noqa: ASYNC240 - nothing else runs
        else:
            path.parent.rmdir()
        await fill(journal, 1, first=4)
        fault = journal.fault
        assert [row["seq"] for row in map(json.loads, await journal.page(VerdictQuery()))] == [4, 3, 2, 1]
    assert fault is not None
    assert "was removed or replaced while it was open" in fault
    assert fault.endswith("; it was written again")
    kept = [aside.read_bytes() for aside in path.parent.glob("journal.sqlite.replaced-*")]
    assert kept == ([b"somebody else's"] if replaced else [])
    async with opened(path) as journal:
        assert await journal.last_seq() == 4
        assert await journal.answered_ids(10) == ["e4", "e3", "e2", "e1"]
    path.unlink()  # noqa: ASYNC240 - nothing else runs
    async with opened(path) as journal:
        assert await journal.last_seq() > 4, "the mark of the numbers was written again, too"


async def test_journal_that_cannot_be_written_again_goes_on_and_says_so(path: Path) -> None:
    """It is tried again after a while."""
    async with opened(path) as journal:
        await fill(journal, 3)
        for file in path.parent.iterdir():
            file.unlink()
        path.parent.rmdir()
        path.parent.write_bytes(b"in the way")
        await fill(journal, 1, first=4)
        assert journal.fault is not None
        assert "cannot be written again: " in journal.fault
        path.parent.unlink()
        journal._database._put_back_at = 0.0
        await fill(journal, 1, first=5)
    async with opened(path) as journal:
        assert await journal.answered_ids(10) == ["e5", "e4", "e3", "e2", "e1"]


async def test_no_corrupt_journal_is_lost_to_the_next_one(path: Path) -> None:
    """Two within a second are both kept."""
    for number in (1, 2, 3):
        path.write_bytes(b"no database %d" % number)  # noqa: ASYNC240 - nothing else runs
        async with opened(path):
            pass
    kept = {aside.read_bytes() for aside in path.parent.glob("journal.sqlite.corrupt-*") if aside.suffix != ".seq"}
    assert kept == {b"no database %d" % number for number in (1, 2, 3)}


async def test_corrupt_journal_that_cannot_be_set_aside_fails_by_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads and writes say that it is corrupt, a person is told what hinders, and once that is mended it works."""

    def refused(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(self), None, str(target))

    async with opened(path) as journal:
        await fill(journal, 200)
    rot(path)
    async with opened(path) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", refused)
            with pytest.raises(JournalError, match="malformed"):
                await journal.page(VerdictQuery(limit=500))
            assert journal.fault is not None
            assert journal.fault.endswith("cannot be set aside: Permission denied")
        with pytest.raises(JournalError, match="malformed"):
            await journal.page(VerdictQuery(limit=500))
        await fill(journal, 1, first=201)
        assert await journal.find("e201") is not None


def _checkpoint(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def test_journal_on_a_full_disk_fails_by_name_and_recovers(path: Path) -> None:
    """No room: every write says so, numbering still survives, and when there is room the journal works again."""
    async with opened(path) as journal:
        await fill(journal, 60)  # a log of more than the 64 KiB that are all that there will be
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
            with pytest.raises(JournalError):
                await fill(journal, 1, first=61)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        assert await journal.last_seq() == 61
        await fill(journal, 1, first=62)
        assert await journal.last_seq() == 62


async def test_journal_forgets_what_is_old_but_not_where_it_is(database: JournalSettings) -> None:
    """Answered events are deleted after their time, in pieces; the newest and the unanswered stay."""
    async with opened_in(database) as journal:
        await fill(journal, 450)
        open_event = arrival("open")
        await journal.accept(open_event, open_event.received_at)
        assert await journal.forget(CLOCK.now() + timedelta(minutes=1)) == 449
        assert await journal.last_seq() == 450
        assert [entry.event.event_id for entry in await journal.unanswered()] == ["open"]
        assert await journal.forget(CLOCK.now() - timedelta(days=1)) == 0


async def test_journal_skips_a_record_that_is_damaged(database: JournalSettings) -> None:
    """Rotten bytes inside a row cost that row alone."""
    async with opened_in(database) as journal:
        for event_id in ("good", "rotten"):
            event = arrival(event_id)
            await journal.accept(event, event.received_at)
    rotten = "x'00ff'" if database.url.startswith("sqlite") else r"'\x00ff'"
    run_beside(database, f"UPDATE events SET event = {rotten} WHERE event_id = 'rotten'")
    async with opened_in(database) as journal:
        assert [entry.event.event_id for entry in await journal.unanswered()] == ["good"]
        with pytest.raises(JournalError, match="damaged"):
            await journal.accept(arrival("rotten"), CLOCK.now())


async def test_journal_reads_on_behind_verdicts_that_are_damaged(database: JournalSettings) -> None:
    """A page of damaged rows is not the end: what lies behind is found."""
    async with opened_in(database) as journal:
        await fill(journal, 6)
    run_beside(database, "UPDATE events SET verdict = event WHERE seq < 5")
    async with opened_in(database) as journal:
        assert await journal.answered(after=0, limit=4) == ([], 4)
        entries, read = await journal.answered(after=4, limit=4)
        assert ([entry.seq for entry in entries], read) == ([5, 6], None)


async def test_record_that_is_no_moment_fails_by_name(path: Path) -> None:
    """Rotten bytes in a column that is no text of ours end in the journal's own error, not in one of a library."""
    async with opened(path) as journal:
        await fill(journal, 2)
        with sqlite3.connect(path) as beside:
            beside.execute("UPDATE events SET received_at = 'yesterday' WHERE seq = 1")
        beside.close()
        with pytest.raises(JournalError):
            await journal.answered(after=0, limit=10)
        assert (await journal.answered(after=1, limit=10))[1] is None


@pytest.mark.parametrize("text", ["", "x", "1", "12 -5 7", "\xff", "9" * 400])
def test_sequence_mark_that_is_damaged_says_nothing(tmp_path: Path, text: str) -> None:
    """A mark that cannot be read is no reason not to start."""
    path = tmp_path / "mark"
    path.write_text(text, encoding="latin-1")
    mark = SequenceMark(path)
    mark.read()
    assert (mark.ceiling, mark.unstored) == (0, 0)


def test_sequence_mark_is_above_every_number(tmp_path: Path) -> None:
    """Whatever was numbered, the mark on disk says at least that."""
    mark = SequenceMark(tmp_path / "mark")
    for seq in (1, 2, 905, 1500, 12):
        mark.stored(seq)
        again = SequenceMark(tmp_path / "mark")
        again.read()
        assert again.ceiling >= seq


@pytest.mark.parametrize("note", [SequenceMark.stored, SequenceMark.not_stored])
def test_sequence_mark_that_could_not_be_written_is_written_later(
    tmp_path: Path, note: Callable[[SequenceMark, int], None]
) -> None:
    """The disk was full when the numbers were used; once there is room, the next number takes them along."""
    path = tmp_path / "later" / "mark"
    mark = SequenceMark(path)
    with capture_logs() as lines:
        for seq in (1, 2, 3):
            note(mark, seq)
    assert [line["event"] for line in lines] == ["sequence_mark_failed"]
    path.parent.mkdir()
    mark.stored(1)
    again = SequenceMark(path)
    again.read()
    assert again.ceiling >= 3
    assert again.unstored == mark.unstored


async def test_what_was_committed_is_written_back_beside_the_line(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log beside the database does not wait for a commit to be written back: it would be the one that is slow."""
    monkeypatch.setattr("adapters.journal.database._CHECKPOINT_S", 0.01)

    def written_back() -> int:
        copy = tmp_path / "alone.sqlite"
        copy.write_bytes(path.read_bytes())
        try:
            with sqlite3.connect(copy) as alone:
                return int(alone.execute("SELECT count(*) FROM events WHERE seq IS NOT NULL").fetchone()[0])
        except sqlite3.Error:  # not yet, or copied while it was written
            return 0

    with capture_logs() as lines:
        async with opened(path) as journal:
            await fill(journal, 20)
            await eventually(lambda: written_back() == 20)
    assert [line["event"] for line in lines] == []
