"""Whose result an answer is."""

from __future__ import annotations

from dataclasses import replace

from adapters.opcua.asked import AskedTriggers
from service.ports import Answer
from tests.support.opcua import answer, verdict


def said(trigger_id: int | None = None, *, repeated: bool = False) -> Answer:
    """Return the answer to the event e1, whose verdict names a trigger."""
    return answer(verdict(event_id="e1", trigger_id=trigger_id), repeated=repeated)


def test_answer_that_nobody_asked_for_is_nobodys() -> None:
    """Neither before a trigger is given nor for another event."""
    asked = AskedTriggers()
    assert not asked
    assert asked.take(said(7)) is None
    asked.add("e2", 7)
    assert asked.take(said(7)) is None
    assert asked


def test_triggers_of_one_event_are_answered_one_by_one() -> None:
    """The oldest first, each with its own number, none twice."""
    asked = AskedTriggers()
    asked.add("e1", 7)
    asked.add("e1", 8)
    assert [asked.take(said(7)), asked.take(said(7, repeated=True)), asked.take(said(7, repeated=True))] == [7, 8, None]
    assert not asked


def test_answer_to_another_trigger_is_not_taken_by_who_waits() -> None:
    """It came another way; what names no trigger, or is repeated, is for who waits."""
    asked = AskedTriggers()
    for trigger in (7, 8):
        asked.add("e1", trigger)
    assert [asked.take(said(123)), asked.take(said(None)), asked.take(said(123, repeated=True))] == [None, 7, 8]


def test_job_without_a_trigger_waits_as_zero() -> None:
    """Its verdict names none."""
    asked = AskedTriggers()
    asked.add("e1", 0)
    assert asked.take(said(None)) == 0
    assert asked.take(said(None)) is None


def test_trigger_that_got_no_result_is_the_next_again() -> None:
    """Before one that was given later."""
    asked = AskedTriggers()
    for trigger in (7, 8):
        asked.add("e1", trigger)
    first = said(7)
    assert asked.take(first) == 7
    asked.put_back("e1", 7)
    assert [asked.take(replace(first)), asked.take(said(7, repeated=True))] == [7, 8]
