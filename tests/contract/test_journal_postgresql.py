"""The journal on a PostgreSQL server that is killed, falls silent, or is not what was said."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from adapters.journal import SqlJournal
from adapters.journal import postgresql as bounds
from schemas.settings import JournalSettings
from service.errors import JournalError, UsageError
from tests.support.journals import fill, opened_in, run_beside, version_1
from tests.support.line import CLOCK, arrival
from tests.support.postgresql import PostgresqlServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgresql


@pytest.fixture
def name(postgresql: PostgresqlServer) -> Iterator[str]:
    """A database of one test."""
    with postgresql.database() as name:
        yield name


@pytest.fixture
def settings(postgresql: PostgresqlServer, name: str, tmp_path: Path) -> JournalSettings:
    return JournalSettings(url=postgresql.url(name), folder=tmp_path / "kept")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for the server end after a moment."""
    monkeypatch.setattr(bounds.BoundedConnection, "answer_s", 0.3)
    monkeypatch.setitem(bounds._CONNECTION, "connect_timeout", 1)


async def test_journal_loses_nothing_that_it_confirmed_when_its_server_is_killed(
    postgresql: PostgresqlServer, settings: JournalSettings
) -> None:
    """SIGKILL in the middle of a stream: writes fail by name until the server is back, what was confirmed is there."""
    confirmed: list[int] = []
    failed: list[int] = []
    down = asyncio.Event()
    up = asyncio.Event()

    async def stream(journal: SqlJournal) -> None:
        seq = 0
        while not (up.is_set() and confirmed and failed and confirmed[-1] > failed[-1] + 50):
            seq += 1
            try:
                await fill(journal, 1, first=seq)
            except JournalError:
                failed.append(seq)
                down.set()
                await asyncio.sleep(0.01)
            else:
                confirmed.append(seq)

    async with opened_in(settings) as journal:
        streaming = asyncio.create_task(stream(journal))
        await eventually(lambda: len(confirmed) > 50)
        await asyncio.to_thread(postgresql.stop, signal.SIGKILL)
        try:
            async with asyncio.timeout(20):
                await down.wait()
            with pytest.raises(JournalError):
                await journal.find("e1")
        finally:
            await asyncio.to_thread(postgresql.start)
            up.set()
        async with asyncio.timeout(20):
            await streaming
        stored, _ = await journal.answered(after=0, limit=100_000)
        assert set(confirmed) - {entry.seq for entry in stored} == set()
        assert await journal.last_seq() == confirmed[-1]
    async with opened_in(settings) as journal:
        assert await journal.last_seq() == confirmed[-1]


async def test_journal_connects_again_without_a_failure_when_its_server_was_restarted_meanwhile(
    postgresql: PostgresqlServer, settings: JournalSettings
) -> None:
    """A connection that broke while nobody used it costs no write and no read."""
    async with opened_in(settings) as journal:
        await fill(journal, 1)
        assert await journal.last_seq() == 1
        await asyncio.to_thread(postgresql.stop)
        await asyncio.to_thread(postgresql.start)
        await fill(journal, 1, first=2)
        assert await journal.last_seq() == 2


@pytest.mark.usefixtures("impatient")
async def test_journal_gives_up_a_server_that_does_not_answer(
    postgresql: PostgresqlServer, settings: JournalSettings
) -> None:
    """A frozen server: each write and read fails by name, all that wait together, and it works again afterwards."""
    async with opened_in(settings) as journal:
        await fill(journal, 1)
        assert await journal.last_seq() == 1
        with postgresql.frozen():
            async with asyncio.timeout(60):  # for ever is what it must not take
                outcomes = await asyncio.gather(
                    *(journal.confirm("mqtt", seq) for seq in range(600)), journal.find("e1"), return_exceptions=True
                )
        assert {type(outcome) for outcome in outcomes} == {JournalError}
        await fill(journal, 1, first=2)
        assert await journal.last_seq() == 2


async def test_journal_numbers_on_above_what_its_server_never_heard_of(
    postgresql: PostgresqlServer, settings: JournalSettings
) -> None:
    """Verdicts given while the server was away, and lost with the process: their numbers are not used again."""
    async with opened_in(settings) as journal:
        await fill(journal, 3)
        await asyncio.to_thread(postgresql.stop, signal.SIGKILL)
        try:
            with pytest.raises(JournalError):
                await fill(journal, 1, first=4)
        finally:
            await asyncio.to_thread(postgresql.start)
    async with opened_in(settings) as journal:
        assert await journal.last_seq() == 4


async def test_journal_that_knows_no_number_asks_until_it_does(
    postgresql: PostgresqlServer, settings: JournalSettings, tmp_path: Path
) -> None:
    """A new machine beside a server that went away just now must not begin at one."""
    async with opened_in(settings) as journal:
        await fill(journal, 3)
    async with opened_in(settings.model_copy(update={"folder": tmp_path / "another machine"})) as journal:
        await asyncio.to_thread(postgresql.stop, signal.SIGKILL)
        try:
            with pytest.raises(JournalError):
                await journal.last_seq()
        finally:
            await asyncio.to_thread(postgresql.start)
        assert await journal.last_seq() == 3


@pytest.mark.usefixtures("impatient")
async def test_journal_closes_beside_a_server_that_does_not_answer(
    postgresql: PostgresqlServer, settings: JournalSettings
) -> None:
    """The service must be able to end, with a write under way."""
    journal = SqlJournal(settings, station="line1", clock=CLOCK)
    await journal.__aenter__()
    await fill(journal, 1)
    with postgresql.frozen():
        writing = asyncio.create_task(journal.confirm("mqtt", 1))
        await asyncio.sleep(0)  # it is on its way
        async with asyncio.timeout(60):  # for ever is what it must not take
            await journal.__aexit__(None, None, None)
    with pytest.raises(JournalError):
        await writing


async def test_journal_gives_up_a_row_that_somebody_locks(
    postgresql: PostgresqlServer, settings: JournalSettings, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person who left a transaction open in a console holds up no thread for good."""
    monkeypatch.setattr(bounds, "_SESSION", "SET statement_timeout = '500ms'")
    async with opened_in(settings) as journal:
        await journal.confirm("mqtt", 1)
        with postgresql.connect(name) as console:
            console.autocommit = False
            console.execute("SELECT * FROM sinks FOR UPDATE")
            with pytest.raises(JournalError, match="statement timeout"):
                await journal.confirm("mqtt", 2)
        await journal.confirm("mqtt", 3)
        assert await journal.confirmed("mqtt") == 3


async def test_journal_bounds_every_session(postgresql: PostgresqlServer, settings: JournalSettings, name: str) -> None:
    """The server, too, gives up a statement, and a transaction whose client is gone."""
    async with opened_in(settings) as journal:
        shown = await journal._database.read(
            lambda connection: [
                connection.exec_driver_sql(f"SHOW {what}").scalar()
                for what in ("statement_timeout", "idle_in_transaction_session_timeout", "client_encoding")
            ]
        )
        assert shown == ["4s", "10s", "UTF8"]
        with postgresql.connect(name) as other:
            sessions = other.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cangate' AND datname = %s", [name]
            ).fetchone()
        assert sessions == (2,)


@pytest.mark.parametrize("old", [False, True], ids=["new", "version 1"])
async def test_stations_that_open_one_journal_at_once_all_find_its_tables(
    settings: JournalSettings, *, old: bool
) -> None:
    """Several stations share a database, and start together after a loss of power."""
    if old:
        run_beside(settings, version_1(settings))
    stations = [SqlJournal(settings, station=f"line{number}", clock=CLOCK) for number in range(2, 8)]
    await asyncio.gather(*(station.__aenter__() for station in stations))
    try:
        await asyncio.gather(*(fill_station(station, 5) for station in stations))
        assert [await station.last_seq() for station in stations] == [0] * 6  # fill() is of line1
    finally:
        await asyncio.gather(*(station.__aexit__(None, None, None) for station in stations))


async def fill_station(journal: SqlJournal, count: int) -> None:
    for number in range(count):
        event = arrival(f"e{number}")
        assert await journal.accept(event, event.received_at) is None


async def test_station_is_served_by_one_process_of_any_machine(settings: JournalSettings, tmp_path: Path) -> None:
    """A second one would use its numbers and answer its events again; another station is welcome."""
    elsewhere = settings.model_copy(update={"folder": tmp_path / "another machine"})
    refusal = r"^journal\.url: another process that runs serves line1 with this journal$"
    async with opened_in(settings) as journal:
        await fill(journal, 1)
        with pytest.raises(UsageError, match=refusal):
            async with opened_in(elsewhere):
                pass
        async with SqlJournal(elsewhere, station="line2", clock=CLOCK) as other:
            assert await other.last_seq() == 0
    async with opened_in(elsewhere) as second:
        assert await second.last_seq() >= 1


async def test_station_whose_session_broke_takes_its_place_again_or_says_who_has_it(
    settings: JournalSettings, tmp_path: Path
) -> None:
    """The server may not have heard that the session is over; and meanwhile another process may have come."""
    elsewhere = settings.model_copy(update={"folder": tmp_path / "another machine"})
    async with opened_in(settings) as journal:
        await fill(journal, 1)
        lingering, journal._database._write_connection = journal._database._write_connection, None
        assert lingering is not None

        async def stored() -> bool:
            with suppress(JournalError):
                await fill(journal, 1, first=2)
            return await journal.last_seq() == 2

        await eventually(stored)
        run_beside(settings, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        async with opened_in(elsewhere):
            with pytest.raises(JournalError, match="another process that runs serves line1"):
                await fill(journal, 1, first=3)
        await fill(journal, 1, first=3)
        lingering.invalidate()


async def test_journal_in_a_database_without_an_encoding_returns_text(
    postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    """A server that was made in the C locale has SQL_ASCII databases; text in them is still text."""
    with postgresql.database(encoding="SQL_ASCII") as name:
        async with opened_in(JournalSettings(url=postgresql.url(name), folder=tmp_path)) as journal:
            event = arrival("ü€")
            await journal.accept(event, event.received_at)
            (entry,) = await journal.unanswered()
            assert (entry.event, entry.source) == (event.event, event.source)


async def test_journal_takes_the_plain_name_of_the_database(settings: JournalSettings) -> None:
    """`postgresql://` needs no name of a driver."""
    async with opened_in(settings.model_copy(update={"url": settings.url.replace("+psycopg", "")})) as journal:
        await fill(journal, 1)
        assert await journal.last_seq() == 1


async def test_journal_refuses_a_server_that_is_not_there_or_refuses_it(
    postgresql: PostgresqlServer, settings: JournalSettings, name: str, tmp_path: Path
) -> None:
    """At start that is a configuration error in one line, without the password."""
    for url, says in (
        (settings.url.replace(f":{postgresql.port}/", ":1/"), "refused"),
        (settings.url.replace("@", "x@"), "password authentication failed"),
        (settings.url.replace(name, "nowhere"), "does not exist"),
    ):
        with pytest.raises(UsageError, match=rf"^journal\.url: .* cannot be opened: .*{says}") as caught:
            async with opened_in(JournalSettings(url=url, folder=tmp_path)):
                pass
        password = url.split("://cangate:")[1].split("@")[0]
        assert password not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql+psycopg2://host/db", "postgresql+asyncpg://host/db"])
async def test_journal_refuses_another_driver(url: str, tmp_path: Path) -> None:
    """One driver was tried; another one would hang where this one gives up."""
    with pytest.raises(UsageError, match=r"not supported, sqlite and postgresql\+psycopg are"):
        async with opened_in(JournalSettings(url=url, folder=tmp_path)):
            pass


async def test_journal_without_the_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Psycopg comes with an extra."""
    monkeypatch.delitem(sys.modules, "adapters.journal.postgresql")
    monkeypatch.delattr("adapters.journal.postgresql")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"pip install 'cangate\[postgresql\]'"):
        async with opened_in(JournalSettings(url="postgresql://host/db", folder=tmp_path)):
            pass


async def test_journal_finds_open_events_by_an_index(
    postgresql: PostgresqlServer, settings: JournalSettings, name: str
) -> None:
    """After ninety days of parts the start must not read them all."""
    async with opened_in(settings) as journal:
        await fill(journal, 200)
        with postgresql.connect(name) as console:
            console.execute("ANALYZE events")
            console.execute("SET enable_seqscan = off")
            plan = console.execute(
                "EXPLAIN SELECT * FROM events WHERE station = 'line1' AND seq IS NULL ORDER BY received_at"
            ).fetchall()
        assert "events_by_seq" in str(plan)


def test_postgresql_server_is_no_server_of_the_machine(postgresql: PostgresqlServer) -> None:
    """The tests have a server of their own, which asks for a password."""
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(host="127.0.0.1", port=postgresql.port, user="cangate", password="another", dbname="postgres")
