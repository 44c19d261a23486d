"""Whose result an answer is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.opcua.asked import Asked, AskedTriggers
from service.ports import Answer
from tests.support.opcua import answer, verdict

SEVEN, EIGHT = Asked(7, "C-1"), Asked(8, "C-2")


def said(trigger_id: int | None = None, *, repeated: bool = False) -> Answer:
    """Return the answer to the event e1, whose verdict names a trigger."""
    return answer(verdict(event_id="e1", trigger_id=trigger_id), repeated=repeated)


def test_answer_that_nobody_asked_for_is_nobodys() -> None:
    """Neither before a trigger is given nor for another event."""
    asked = AskedTriggers()
    assert not asked
    assert asked.take(said(7)) is None
    asked.add("e2", SEVEN)
    assert asked.take(said(7)) is None
    assert asked


def test_triggers_of_one_event_are_answered_one_by_one() -> None:
    """The oldest first, each with its own number, none twice."""
    asked = AskedTriggers()
    asked.add("e1", SEVEN)
    asked.add("e1", EIGHT)
    assert [asked.take(said(7)), asked.take(said(7, repeated=True)), asked.take(said(7, repeated=True))] == [
        SEVEN,
        EIGHT,
        None,
    ]
    assert not asked


def test_answer_to_another_trigger_is_not_taken_by_who_waits() -> None:
    """It came another way; what names no trigger, or is repeated, is for who waits."""
    asked = AskedTriggers()
    for trigger in (SEVEN, EIGHT):
        asked.add("e1", trigger)
    assert [asked.take(said(123)), asked.take(said(None)), asked.take(said(123, repeated=True))] == [
        None,
        SEVEN,
        EIGHT,
    ]


def test_job_without_a_trigger_waits_as_zero() -> None:
    """Its verdict names none."""
    asked = AskedTriggers()
    asked.add("e1", Asked(0))
    assert asked.take(said(None)) == Asked(0)
    assert asked.take(said(None)) is None


def test_trigger_that_got_no_result_is_the_next_again() -> None:
    """Before one that was given later."""
    asked = AskedTriggers()
    for trigger in (SEVEN, EIGHT):
        asked.add("e1", trigger)
    first = said(7)
    assert asked.take(first) == SEVEN
    asked.put_back("e1", SEVEN)
    assert [asked.take(replace(first)), asked.take(said(7, repeated=True))] == [SEVEN, EIGHT]


@pytest.mark.parametrize(
    ("asked", "trigger_id", "part_id", "about"),
    [
        (Asked(7, "C-1"), 7, "C-1", True),
        (Asked(8, "C-1"), 7, "C-1", True),  # asked once more for the same part
        (Asked(8, "C-2"), 7, "C-1", False),  # the event id was left standing
        (Asked(8, "C-2"), 7, None, False),
        (Asked(8, None), 7, "C-1", True),  # named by its event alone
        (Asked(8, ""), 7, None, True),
        (Asked(8, "C-1"), None, "C-1", True),  # it came over MQTT
        (Asked(0, None), None, None, True),  # a job without a trigger
    ],
)
def test_verdict_is_on_the_part_that_a_trigger_stands_for(
    asked: Asked, trigger_id: int | None, part_id: str | None, about: bool
) -> None:
    """Another part than it names must not pass."""
    assert asked.is_about(verdict(event_id="e1", trigger_id=trigger_id, part_id=part_id)) is about
