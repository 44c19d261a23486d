"""The journal's files when something is wrong with them."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from schemas.settings import JournalSettings
from service.errors import JournalDamaged, JournalError
from service.ports import VerdictQuery
from tests.support.journals import answered, fill, opened, opened_in, run_beside
from tests.support.line import CLOCK, arrival
from tests.support.waiting import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    return tmp_path / "journal" / "journal.sqlite"


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


@pytest.mark.parametrize("moved", [None, "j.bak", "replaced"])
async def test_log_of_a_journal_that_went_alone_is_not_played_into_the_next(path: Path, moved: str | None) -> None:
    """`rm journal.sqlite` leaves the write-ahead log: beside another file it would make rubbish of it."""
    async with opened(path) as journal:
        await fill(journal, 300)
        # written back, as every five seconds: the log begins anew and holds some pages only
        await journal._database.read(lambda each: each.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").all())
        await fill(journal, 20, first=301)
        if moved is None:
            path.unlink()  # noqa: ASYNC240 - nothing else runs
        elif moved == "replaced":
            path.with_name("other").write_bytes(b"somebody else's")
            path.with_name("other").rename(path)
        else:
            path.rename(path.with_name(moved))  # noqa: ASYNC240 - nothing else runs
        await fill(journal, 20, first=321)
        assert journal.fault is not None
        assert "corrupt" not in journal.fault
        assert len(await journal.page(VerdictQuery(limit=500))) == 340
    assert not [*path.parent.glob("*corrupt*"), *path.parent.glob("*-wal")]
    async with opened(path) as journal:
        assert len(await journal.page(VerdictQuery(limit=500))) == 340


async def test_journal_that_is_removed_again_and_again_is_written_again_at_its_end(path: Path) -> None:
    """Not each time: two services with one file would do nothing else. It is told, and nothing is lost."""
    async with opened(path) as journal:
        for seq in range(1, 6):
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - nothing else runs
            await fill(journal, 1, first=seq)
        assert journal.fault is not None
        assert journal.fault.endswith("; it will be written again")
        assert not path.exists()  # noqa: ASYNC240 - nothing else runs
    async with opened(path) as journal:
        assert await journal.answered_ids(10) == ["e5", "e4", "e3", "e2", "e1"]


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
    # nothing else reads it: what keeps events for so many days would
    async with opened_in(JournalSettings(url=f"sqlite:///{path}", keep_days=0)) as journal:
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
        with pytest.raises(JournalError, match="damaged") as not_answered:
            await journal.accept(arrival("rotten"), CLOCK.now())
        assert not isinstance(not_answered.value, JournalDamaged), "it may be judged"


async def test_journal_reads_on_behind_verdicts_that_are_damaged(database: JournalSettings) -> None:
    """A page of damaged rows is not the end: what lies behind is found."""
    async with opened_in(database) as journal:
        await fill(journal, 6)
    run_beside(database, "UPDATE events SET verdict = event WHERE seq < 5")
    async with opened_in(database) as journal:
        assert await journal.answered(after=0, limit=4) == ([], 4)
        with pytest.raises(JournalDamaged):
            await journal.accept(arrival("e1"), CLOCK.now())
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
