"""What was said outlives a crash of the process before the database has it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from adapters.journal import SqlJournal
from adapters.journal.redo import SLOT_BYTES, SLOTS, RedoLog
from schemas.messages import ImageEvent
from schemas.settings import JournalSettings
from service.deadline import Margin
from service.dispatch import Dispatcher
from service.errors import UsageError
from service.journal_health import JournalHealth
from service.outbox import Outbox
from service.ports import Answer, VerdictQuery
from tests.support.journals import crash, full_disk, opened_with
from tests.support.line import CLOCK, RecordingSink, arrival
from tests.support.verdicts import failed_answer
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    folder = tmp_path / "memory"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_verdict_that_was_said_and_not_stored_is_stored_by_the_next_run(tmp_path: Path, memory: Path) -> None:
    """A crash between the gate command and the commit: the event keeps its verdict, byte for byte, and its number."""
    async with opened_with(tmp_path, memory) as crashed:
        noted, unnoted = arrival("e1"), arrival("e2")
        await crashed.accept(noted, noted.received_at + timedelta(seconds=1))
        first, second = failed_answer(noted, 1), failed_answer(unnoted, 2)
        assert crashed.secure(first, noted)
        assert crashed.secure(second, unnoted)
        crash(crashed)
        async with opened_with(tmp_path, memory) as journal:
            assert await journal.last_seq() == 2
            assert await journal.unanswered() == []
            assert [await journal.find("e1"), await journal.find("e2")] == [first.verdict_json, second.verdict_json]
            known = await journal.accept(unnoted, unnoted.received_at)
            assert known is not None
            assert (known.event, known.image, known.seq) == (unnoted.event, unnoted.image, 2)


@pytest.mark.parametrize("sync", ["normal", "full"])
async def test_station_is_numbered_by_one_process(tmp_path: Path, memory: Path, sync: str) -> None:
    """A second one with the same journal would give its numbers again; when the first has ended it may."""
    async with opened_with(tmp_path, memory, sync=sync) as running, opened_with(tmp_path, memory, sync=sync) as second:
        assert await running.last_seq() == 0
        with pytest.raises(
            UsageError, match=r"^journal\.url: another process that runs serves line1 with this journal$"
        ):
            await second.last_seq()
    async with opened_with(tmp_path, memory) as journal:
        assert await journal.last_seq() == 0


async def test_verdict_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    """The same with a real process and the machine's own shared memory."""
    program = f"""
import asyncio, os, signal
from pathlib import Path
from adapters.journal import SqlJournal
from schemas.settings import JournalSettings
from service.errors import JournalError, UsageError
from tests.support.journals import opened_with, crash, full_disk
from tests.support.line import CLOCK, arrival
from tests.support.verdicts import failed_answer

async def main():
    settings = JournalSettings(url="sqlite:///{tmp_path / "journal.sqlite"}")
    async with SqlJournal(settings, station="line1", clock=CLOCK) as journal:
        event = arrival("e1")
        assert journal.secure(failed_answer(event, 7), event)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, text=True)  # noqa: ASYNC221 - nothing else runs
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    settings = JournalSettings(url=f"sqlite:///{tmp_path / 'journal.sqlite'}")
    async with SqlJournal(settings, station="line1", clock=CLOCK) as journal:
        assert await journal.last_seq() == 7
        stored = await journal.find("e1")
    assert stored is not None
    assert b'"seq":7' in stored


async def test_what_was_said_of_a_refused_name_outlives_a_crash(tmp_path: Path, memory: Path) -> None:
    """A name too long for a key is found again, and whoever asked by his correlation data."""
    name = "x" * 300
    event = replace(arrival(), event=ImageEvent(event_id=name), correlation_data=b"\x00\xff")
    answer = failed_answer(event, 1)
    async with opened_with(tmp_path, memory) as crashed:
        assert await crashed.accept(event, event.received_at) is None
        assert crashed.secure(answer, event)
        crash(crashed)
        async with opened_with(tmp_path, memory) as journal:
            assert await journal.find(name) == answer.verdict_json
            (entry,), _ = await journal.answered(after=0, limit=10)
            assert (entry.event.event_id, entry.correlation_data) == (name, b"\x00\xff")


@pytest.mark.parametrize("correlation_data", [None, b"", b"\x00\xff"])
async def test_correlation_data_outlives_a_crash_where_the_event_could_not_be_noted(
    tmp_path: Path, memory: Path, correlation_data: bytes | None
) -> None:
    """The redo log alone knows who asked."""
    event = replace(arrival("e1"), correlation_data=correlation_data)
    async with opened_with(tmp_path, memory) as crashed:
        assert crashed.secure(failed_answer(event, 1), event)
        crash(crashed)
        async with opened_with(tmp_path, memory) as journal:
            (entry,), _ = await journal.answered(after=0, limit=10)
            assert entry.correlation_data == correlation_data


async def test_first_verdict_stands(tmp_path: Path, memory: Path) -> None:
    """What was stored, but not dropped from the log before the crash, changes nothing."""
    async with opened_with(tmp_path, memory) as crashed:
        event = arrival("e1")
        answer = failed_answer(event, 1)
        await crashed.store([(answer, event)])
        assert crashed.secure(failed_answer(event, 2), event)
        crash(crashed)
        async with opened_with(tmp_path, memory) as journal:
            assert await journal.find("e1") == answer.verdict_json


async def test_what_cannot_be_stored_yet_is_known_all_the_same(tmp_path: Path, memory: Path) -> None:
    """A disk that is still full after the crash: the event has its answer, and the next verdict brings it along."""
    async with opened_with(tmp_path, memory) as crashed:
        for seq in range(1, 61):  # a write-ahead log that has reached what the disk will hold
            stored = arrival(f"stored {seq}")
            await crashed.store([(failed_answer(stored, seq), stored)])
        event = arrival("e1")
        answer = failed_answer(event, 61)
        assert crashed.secure(answer, event)
        crash(crashed)
        with full_disk():
            journal = SqlJournal(
                JournalSettings(url=f"sqlite:///{tmp_path / 'journal.sqlite'}"),
                station="line1",
                clock=CLOCK,
                memory=memory,
            )
            await journal.__aenter__()
            known = await journal.accept(event, event.received_at)
            assert known is not None
            assert known.verdict_json == answer.verdict_json
            assert await journal.last_seq() == 61
            assert await journal.find("e1") == answer.verdict_json
            assert list(await journal.page(VerdictQuery(limit=1))) == [answer.verdict_json]
            (entry,), _ = await journal.answered(after=60, limit=10)
            assert (entry.seq, entry.verdict_json) == (61, answer.verdict_json)
        following = arrival("e2")
        await journal.store([(failed_answer(following, 62), following)])
        assert await journal.find("e1") == answer.verdict_json
        await journal.__aexit__(None, None, None)


async def test_what_is_stored_leaves_nothing_behind(tmp_path: Path, memory: Path) -> None:
    """Each slot is free again once its verdict is stored, and the file goes with the journal."""
    async with opened_with(tmp_path, memory) as journal:
        for seq in range(1, 3 * SLOTS):
            event = arrival(f"e{seq}")
            answer = failed_answer(event, seq)
            assert journal.secure(answer, event)
            await journal.store([(answer, event)])
        assert names(memory)
    assert not names(memory)


async def test_no_more_is_remembered_than_the_log_has_room_for(tmp_path: Path, memory: Path) -> None:
    """What is not safe is not said yet, so nobody may find it."""
    async with opened_with(tmp_path, memory) as journal:
        said = [(failed_answer(arrival(f"e{seq}"), seq), arrival(f"e{seq}")) for seq in range(1, SLOTS + 3)]
        assert [journal.secure(answer, event) for answer, event in said] == [True] * SLOTS + [False] * 2
        assert len(await journal.page(VerdictQuery(limit=200))) == SLOTS
        assert await journal.find(f"e{SLOTS + 1}") is None
        await journal.store(said)
        assert len(await journal.page(VerdictQuery(limit=200))) == SLOTS + 2


class Asking(RecordingSink):
    """A sink beside which whoever hears a verdict asks the journal for it."""

    def __init__(self, journal: SqlJournal) -> None:
        super().__init__()
        self._journal = journal
        self.found: list[tuple[bytes | None, list[bytes]]] = []

    async def publish(self, answer: Answer) -> None:
        newest = list(await self._journal.page(VerdictQuery(limit=1)))
        self.found.append((await self._journal.find(answer.verdict.event_id), newest))
        await super().publish(answer)


async def test_who_hears_a_verdict_finds_it(tmp_path: Path, memory: Path) -> None:
    """The dispatcher stores after it has published; nobody who asks in between may hear that there is none."""
    async with opened_with(tmp_path, memory) as journal, asyncio.TaskGroup() as running:
        sink, margin = Asking(journal), Margin(25, clock=CLOCK)
        outbox = Outbox(sink, journal=None, clock=CLOCK)
        dispatcher = Dispatcher(journal, [outbox], clock=CLOCK, margin=margin, health=JournalHealth())
        tasks = [running.create_task(part.run()) for part in (outbox, dispatcher)]
        for seq in range(1, 21):
            event = arrival(f"e{seq}")
            await journal.accept(event, event.received_at)
            dispatcher.dispatch(failed_answer(event, seq, left_s=60), event)
            await sink.wait_for(seq)
        said = [answer.verdict_json for answer in sink.published]
        assert sink.found == [(text, [text]) for text in said]
        await eventually(lambda: dispatcher.idle)
        assert list(await journal.page(VerdictQuery())) == said[::-1]
        for task in tasks:
            task.cancel()


async def test_station_without_shared_memory_waits_for_its_disk(tmp_path: Path) -> None:
    """No such folder, as on macOS: nothing is secured, nothing fails."""
    async with opened_with(tmp_path, tmp_path / "none") as journal:
        event = arrival("e1")
        answer = failed_answer(event, 1)
        assert not journal.secure(answer, event)
        await journal.store([(answer, event)])
        assert await journal.find("e1") == answer.verdict_json


def test_full_log_takes_no_more(memory: Path) -> None:
    """What has no slot, or does not fit one, is not kept, and says so."""
    log = RedoLog(memory, "x")
    assert log.open() == []
    assert not log.put(0, bytes(SLOT_BYTES))
    assert all(log.put(seq, b"verdict") for seq in range(SLOTS))
    assert not log.put(SLOTS, b"verdict")
    log.drop(3)
    assert log.put(SLOTS, b"verdict")


def test_log_that_is_in_use_is_left_alone(memory: Path) -> None:
    """A second service of the same station, started by mistake, neither writes to the log nor takes it away."""
    first, second = RedoLog(memory, "x"), RedoLog(memory, "x")
    first.open()
    assert second.open() == []
    assert not second.put(1, b"verdict")
    second.close()
    assert first.put(1, b"verdict")
    first._close_file()
    assert [record for _, record in second.open()] == [b"verdict"]


async def test_log_is_that_of_the_database_whoever_logs_in(memory: Path, tmp_path: Path) -> None:
    """A changed password finds the same log, and a name that anybody can list tells nothing of it."""
    for password in ("old", "new"):
        settings = JournalSettings(url=f"postgresql://cangate:{password}@127.0.0.1:1/plant", folder=tmp_path)
        journal = SqlJournal(settings, station="line1", clock=CLOCK, memory=memory)
        assert journal._unstored is not None
        journal._unstored.take_up()
        crash(journal)
    assert len(names(memory)) == 1


async def test_lost_journal_begins_above_every_number_though_the_log_fills_it(tmp_path: Path, memory: Path) -> None:
    """What was said and did not fit the log may have had any number up to the mark."""
    async with opened_with(tmp_path, memory) as crashed:
        event = arrival("e1")
        await crashed.store([(failed_answer(event, 1), event)])
        assert crashed.secure(failed_answer(arrival("e2"), 2), arrival("e2"))
        crash(crashed)
    for name in names(tmp_path):
        if name.startswith("journal.sqlite") and not name.endswith(".seq"):
            (tmp_path / name).unlink()
    async with opened_with(tmp_path, memory) as journal:
        assert await journal.find("e2") is not None
        assert await journal.last_seq() > 100


def test_torn_record_is_no_record(memory: Path) -> None:
    """A record that was not written to its end, or was tampered with, is passed over; the others are found."""
    log = RedoLog(memory, "x")
    log.open()
    for seq in range(3):
        log.put(seq, f"verdict {seq}".encode())
    log._close_file()
    with (memory / "x").open("r+b") as file:
        file.seek((SLOTS - 2) * SLOT_BYTES + 10)
        file.write(b"?")
    assert sorted(record for _, record in RedoLog(memory, "x").open()) == [b"verdict 0", b"verdict 2"]


async def test_record_of_something_else_is_passed_over(tmp_path: Path, memory: Path) -> None:
    """Rubbish in a slot costs that slot's record and no start."""
    async with opened_with(tmp_path, memory) as crashed:
        assert crashed.secure(failed_answer(arrival("e1"), 1), arrival("e1"))
        (name,) = names(memory)
        crash(crashed)
        log = RedoLog(memory, name)
        log.open()
        log.put(2, b'{"no": "verdict"}')
        log._close_file()
        async with opened_with(tmp_path, memory) as journal:
            assert await journal.last_seq() == 1
            assert await journal.find("e1") is not None


@pytest.mark.parametrize("kind", ["link", "readable", "folder"])
def test_file_that_is_not_ours_alone_is_left_alone(memory: Path, kind: str) -> None:
    """Anybody may put a file into shared memory; what others could read or have prepared is not used."""
    path = memory / "x"
    if kind == "link":
        (memory / "elsewhere").write_bytes(b"")
        path.symlink_to(memory / "elsewhere")
    elif kind == "readable":
        path.touch(0o644)
        path.chmod(0o644)
    else:
        path.mkdir()
    log = RedoLog(memory, "x")
    assert log.open() == []
    assert not log.put(1, b"verdict")
    log.close()
    assert path.exists()
