"""A SQL journal to test with, and what goes into it."""

from __future__ import annotations

import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import sqlalchemy as sa

from adapters.journal import SqlJournal
from schemas.settings import JournalSettings
from service.ports import Answer, Arrival
from tests.support.line import CLOCK, arrival
from tests.support.verdicts import failed_answer


@asynccontextmanager
async def opened(path: Path, *, station: str = "line1") -> AsyncIterator[SqlJournal]:
    async with SqlJournal(JournalSettings(url=f"sqlite:///{path}"), station=station, clock=CLOCK) as journal:
        yield journal


@asynccontextmanager
async def opened_with(folder: Path, memory: Path, *, sync: str = "normal") -> AsyncIterator[SqlJournal]:
    """Open a journal in `folder`, with a folder of its own for what is to outlive the process."""
    settings = JournalSettings.model_validate({"url": f"sqlite:///{folder / 'journal.sqlite'}", "sync": sync})
    async with SqlJournal(settings, station="line1", clock=CLOCK, memory=memory) as journal:
        yield journal


@asynccontextmanager
async def opened_in(settings: JournalSettings) -> AsyncIterator[SqlJournal]:
    async with SqlJournal(settings, station="line1", clock=CLOCK) as journal:
        yield journal


def crash(journal: SqlJournal) -> None:
    """Let go of the log as the end of the process does: as it is."""
    assert journal._unstored is not None
    assert journal._mark is not None
    journal._unstored._log._close_file()
    journal._mark.leave()


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 64 KiB."""
    ignored, before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def run_beside(settings: JournalSettings, statements: str) -> None:
    """Run statements in the database of a journal, past the journal."""
    with sa.create_engine(settings.url, poolclass=sa.NullPool).begin() as connection:
        for statement in statements.split(";"):
            connection.exec_driver_sql(statement)


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
