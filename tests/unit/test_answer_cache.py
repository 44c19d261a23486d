"""What memory knows of answered events."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from service.answer_cache import AnswerCache, Earlier
from service.ports import Answer
from tests.support.opcua import answer, verdict


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three answers in full, of 100 characters together; five events by number."""
    monkeypatch.setattr("service.answer_cache._REMEMBERED", 3)
    monkeypatch.setattr("service.answer_cache._REMEMBERED_CHARACTERS", 100)
    monkeypatch.setattr("service.answer_cache.EARLIER", 5)


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
    cache, waiting = AnswerCache(), stored()
    cache.begin("first").write(any_answer(), waiting)
    for number in range(4):
        cache.begin(f"e{number}").write(any_answer(), stored(is_so=True))
    assert cache.find("first") is not None
    asyncio.get_running_loop().call_soon(waiting.set_result, True)
    await waiting
    for number in range(3):
        cache.begin(f"later{number}").write(any_answer(), stored(is_so=True))
    assert (cache.find("first"), cache.earlier("first")) == (None, Earlier.JOURNALED)


async def test_one_that_waits_keeps_none_behind_it() -> None:
    """While the disk is full the first verdicts wait for days, and memory must last as long."""
    cache = AnswerCache()
    cache.begin("waits").write(any_answer(), stored())
    for number in range(1_000):
        cache.begin(f"e{number}").write(any_answer(), stored(is_so=False))
    assert [number for number in range(1_000) if cache.find(f"e{number}")] == [998, 999]
    assert cache.find("waits") is not None


async def test_an_event_in_work_is_kept() -> None:
    """Its twin waits for the same answer."""
    cache = AnswerCache()
    cached = cache.begin("in work")
    for number in range(10):
        cache.begin(f"e{number}").write(any_answer(), stored(is_so=True))
    assert cache.find("in work") is cached


async def test_what_the_journal_never_got_is_known_to_be_lost() -> None:
    """So that it is not taken for an event that the journal knows nothing of since it is new."""
    cache = AnswerCache()
    cache.begin("lost").write(any_answer(), stored(is_so=False))
    for number in range(3):
        cache.begin(f"e{number}").write(any_answer(), stored(is_so=True))
    assert cache.earlier("lost") is Earlier.LOST


async def test_long_event_ids_make_room_sooner() -> None:
    """Their characters are bounded together."""
    cache = AnswerCache()
    cache.begin("a" * 60).write(any_answer(), stored(is_so=True))
    cache.begin("b" * 60).write(any_answer(), stored(is_so=True))
    assert (cache.find("a" * 60), cache.earlier("a" * 60)) == (None, Earlier.JOURNALED)
    assert cache.find("b" * 60) is not None
    cache.begin("c" * 30).write(any_answer(), stored(is_so=True))
    cache.begin("d" * 90).write(any_answer(), stored(is_so=True))
    assert (cache.find("b" * 60), cache.find("c" * 30)) == (None, None)


async def test_the_oldest_numbers_are_forgotten_first() -> None:
    """Events of earlier runs come before those of this one."""
    cache = AnswerCache()
    for number in range(5):
        cache.begin(f"e{number}").write(any_answer(), stored(is_so=True))
    cache.take_up(f"old{number}" for number in range(4))
    known = [name for name in ("old0", "old1", "old2", "old3", "e0", "e1") if cache.earlier(name)]
    assert known == ["old1", "old2", "old3", "e0", "e1"]


async def test_numbers_of_this_run_are_bounded_too() -> None:
    """A service runs for months: of twelve answers three are kept in full, and five more by number."""
    cache = AnswerCache()
    for number in range(12):
        cache.begin(f"e{number}").write(any_answer(), stored(is_so=True))
    assert [number for number in range(12) if cache.earlier(f"e{number}")] == [4, 5, 6, 7, 8]


async def test_what_the_first_asker_sent_along_is_not_kept() -> None:
    """It may be 64 KiB, and nobody else gets it."""
    cache, said = AnswerCache(), any_answer()
    cache.begin("e1").write(replace(said, asker=replace(said.asker, correlation_data=bytes(65_535))), stored())
    cached = cache.find("e1")
    assert cached is not None
    assert await cached.answer == said
