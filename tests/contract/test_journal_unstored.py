"""What was said while the journal could not store it, and a crash after that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.journal.redo import SLOTS
from adapters.journal.sequence import SequenceMark
from service.errors import JournalConflict, JournalError
from tests.support.journals import answered, crash, full_disk, opened_with
from tests.support.line import arrival
from tests.support.verdicts import failed_answer
from tests.support.waiting import eventually


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    folder = tmp_path / "memory"
    folder.mkdir()
    return folder


async def test_memory_is_not_enough_against_a_loss_of_power(tmp_path: Path, memory: Path) -> None:
    """With `full` only what is on the disk is safe; what must be said before stands against a crash all the same."""
    answer, event = answered("e1", 1)
    async with opened_with(tmp_path, memory, sync="full") as crashed:
        assert not crashed.secure(answer, event)
        crash(crashed)
        async with opened_with(tmp_path, memory, sync="full") as journal:
            assert await journal.last_seq() == 1
            assert await journal.find("e1") == answer.verdict_json


@pytest.mark.parametrize("length", [9_000, 65_535])
async def test_verdict_outlives_a_crash_whatever_its_correlation_data(
    tmp_path: Path, memory: Path, length: int
) -> None:
    """What is too much for the log is left out of it; the verdict stands."""
    event = replace(arrival("e1"), correlation_data=bytes(length))
    answer = failed_answer(event, 1)
    async with opened_with(tmp_path, memory) as crashed:
        assert await crashed.accept(event, event.received_at) is None
        assert crashed.secure(answer, event)
        crash(crashed)
        async with opened_with(tmp_path, memory) as journal:
            assert await journal.find("e1") == answer.verdict_json


async def test_number_of_a_second_verdict_on_an_event_is_used(tmp_path: Path, memory: Path) -> None:
    """It was said, though the first one stands in the journal."""
    async with opened_with(tmp_path, memory) as journal:
        await journal.store([answered("e1", 1)])
        await journal.store([answered("e1", 2)])
        assert await journal.last_seq() == 2


async def test_verdict_that_is_never_stored_is_told(tmp_path: Path, memory: Path) -> None:
    """Decisions flow, and a person must know that the record has a hole."""
    async with opened_with(tmp_path, memory) as journal:
        await journal.store([answered("e1", 1)])
        with pytest.raises(JournalConflict):
            await journal.store([answered("e2", 1)])
        assert str(journal.fault).startswith("verdict 1 is not in the journal: UNIQUE constraint failed")


async def test_number_of_what_did_not_fit_the_log_is_used(tmp_path: Path, memory: Path) -> None:
    """It is said before it is stored where a disk hangs; a crash then frees no number."""
    async with opened_with(tmp_path, memory) as crashed:
        await crashed.store([answered("stored", 1)])
        for seq in range(2, SLOTS + 22):
            crashed.secure(*answered(f"e{seq}", seq))
        mark = SequenceMark(tmp_path / "journal.sqlite.line1.seq")

        def noted() -> bool:
            mark.read()
            return mark.unstored == SLOTS + 21

        await eventually(noted)
        crash(crashed)
        async with opened_with(tmp_path, memory) as journal:
            assert await journal.last_seq() == SLOTS + 21


async def test_numbers_of_all_that_was_said_are_used(tmp_path: Path, memory: Path) -> None:
    """The database takes the oldest first; a crash while it is away must not free the numbers of those behind."""
    async with opened_with(tmp_path, memory) as journal:
        for seq in range(1, 61):
            event = arrival(f"stored {seq}")
            await journal.store([(failed_answer(event, seq), event)])
        with full_disk():
            said = [(failed_answer(arrival(f"e{seq}"), seq), arrival(f"e{seq}")) for seq in range(61, 500)]
            for answer, event in said:
                journal.secure(answer, event)
            with pytest.raises(JournalError):
                await journal.store(said[:100])
        crash(journal)
    mark = SequenceMark(tmp_path / "journal.sqlite.line1.seq")
    mark.read()
    assert mark.unstored == 499
