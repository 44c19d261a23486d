"""A journal that another version of the service has written."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from adapters.journal.schema import VERSION, metadata
from schemas.messages import Decision
from schemas.settings import JournalSettings
from service.errors import UsageError
from service.ports import VerdictQuery
from tests.support.journals import VERSION_1, answered, fill, in_dialect, opened_in, run_beside, version_1
from tests.support.line import arrival


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
