"""What memory knows of answered events."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from service.answer_book import AnswerBook, Earlier
from service.ports import Answer
from tests.support.opcua import answer, verdict


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three answers in full, of 100 characters together; five events by number."""
    monkeypatch.setattr("service.answer_book._REMEMBERED", 3)
    monkeypatch.setattr("service.answer_book._REMEMBERED_CHARACTERS", 100)
    monkeypatch.setattr("service.answer_book.EARLIER", 5)


def stored(is_so: bool | None = None) -> asyncio.Future[bool]:
    """Return what the dispatcher would: whether the journal has it, None where that is not known yet."""
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    if is_so is not None:
        future.set_result(is_so)
    return future


def any_answer() -> Answer:
    return answer(verdict())


async def test_an_answer_is_kept_until_the_journal_has_it() -> None:
    """However many come meanwhile: decided anew, the event might end otherwise."""
    book, waiting = AnswerBook(), stored()
    book.begin("first").write(any_answer(), waiting)
    for number in range(4):
        book.begin(f"e{number}").write(any_answer(), stored(is_so=True))
    assert book.find("first") is not None
    asyncio.get_running_loop().call_soon(waiting.set_result, True)
    await waiting
    for number in range(3):
        book.begin(f"later{number}").write(any_answer(), stored(is_so=True))
    assert (book.find("first"), book.earlier("first")) == (None, Earlier.JOURNALED)


async def test_one_that_waits_keeps_none_behind_it() -> None:
    """While the disk is full the first verdicts wait for days, and memory must last as long."""
    book = AnswerBook()
    book.begin("waits").write(any_answer(), stored())
    for number in range(1_000):
        book.begin(f"e{number}").write(any_answer(), stored(is_so=False))
    assert [number for number in range(1_000) if book.find(f"e{number}")] == [998, 999]
    assert book.find("waits") is not None


async def test_an_event_in_work_is_kept() -> None:
    """Its twin waits for the same answer."""
    book = AnswerBook()
    page = book.begin("in work")
    for number in range(10):
        book.begin(f"e{number}").write(any_answer(), stored(is_so=True))
    assert book.find("in work") is page


async def test_what_the_journal_never_got_is_known_to_be_lost() -> None:
    """So that it is not taken for an event that the journal knows nothing of since it is new."""
    book = AnswerBook()
    book.begin("lost").write(any_answer(), stored(is_so=False))
    for number in range(3):
        book.begin(f"e{number}").write(any_answer(), stored(is_so=True))
    assert book.earlier("lost") is Earlier.LOST


async def test_long_event_ids_make_room_sooner() -> None:
    """Their characters are bounded together."""
    book = AnswerBook()
    book.begin("a" * 60).write(any_answer(), stored(is_so=True))
    book.begin("b" * 60).write(any_answer(), stored(is_so=True))
    assert (book.find("a" * 60), book.earlier("a" * 60)) == (None, Earlier.JOURNALED)
    assert book.find("b" * 60) is not None


async def test_the_oldest_numbers_are_forgotten_first() -> None:
    """Events of earlier runs come before those of this one."""
    book = AnswerBook()
    for number in range(5):
        book.begin(f"e{number}").write(any_answer(), stored(is_so=True))
    book.take_up(f"old{number}" for number in range(4))
    known = [name for name in ("old0", "old1", "old2", "old3", "e0", "e1") if book.earlier(name)]
    assert known == ["old1", "old2", "old3", "e0", "e1"]


async def test_what_the_first_asker_sent_along_is_not_kept() -> None:
    """It may be 64 KiB, and nobody else gets it."""
    book, said = AnswerBook(), any_answer()
    book.begin("e1").write(replace(said, asker=replace(said.asker, correlation_data=bytes(65_535))), stored())
    page = book.find("e1")
    assert page is not None
    assert await page.answer == said
