"""Which texts belong to a PLC's trigger where clocks differ or are put right, and where a look runs ahead."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plc_texts import NAMES, STEPS_S, Line, refuse_what_changes_too_early, told_parts


@given(st.lists(st.tuples(st.sampled_from(NAMES), STEPS_S, STEPS_S, st.booleans()), min_size=1), st.integers(1, 4))
def test_look_that_runs_ahead_of_what_is_told_mixes_no_parts(
    parts: list[tuple[str, float, float, bool]], responses: int
) -> None:
    """Exact stamps, a line that does not wait, a slow network: a look shows what is told some responses later."""
    line, expected, found = Line(), [], list[str | None]()
    underway: list[tuple[list[ua.DataValue], list[ua.DataValue], float]] = []

    def send() -> None:
        underway.append((line.waiting, line.given, line.now_s))
        line.waiting, line.given = [], []

    def arrive() -> None:
        held_back = line.waiting, line.given
        line.waiting, line.given, sent_s = underway.pop(0)
        found.extend(line.judge(line.publish(sent_s=sent_s)))
        line.waiting, line.given = held_back

    for number, (name, before_s, between_s, is_sent) in enumerate(parts, start=1):
        line.write(name, line.now_s + before_s)
        line.give(number, line.now_s + between_s)
        expected.append(name)
        if is_sent:
            send()
        if len(underway) > responses:
            arrive()
    send()
    while underway:
        arrive()
    assert found == expected


@pytest.mark.parametrize("behind_s", [7200.0, 1.0, 0.3, -1.0, -7200.0])
@pytest.mark.parametrize("is_early", [False, True])
def test_clocks_that_differ_mix_no_parts(behind_s: float, is_early: bool) -> None:
    """A gateway passes on the stamps of two devices: the texts are left alone from the trigger to the result."""
    line = Line(trigger_behind_s=behind_s)
    line.texts.sampled_every(timedelta(milliseconds=10))
    line.published_s = line.now_s
    for number in range(1, 6):
        line.now_s = line.published_s = float(number)
        assert line.service() == []
        line.write(f"C-{number}", number + 0.01)
        if is_early:
            assert line.service() == []
        line.give(number, number + 0.05)
        assert line.service() == [f"C-{number}"]


def test_clock_that_is_put_right_once_costs_one_look() -> None:
    """By a second between a text and its trigger: stamps count again from the next part on."""
    line = Line()
    told_parts(line, 3)
    line.write("B", 5.0)
    assert line.service() == []
    line.give(4, 4.1)
    assert line.service() == ["B"]
    line.write("C", 4.3)
    line.give(5, 4.4)
    told = line.publish()
    line.write("D", 4.5)
    assert line.judge(told, look=False) == ["C"]


def test_clocks_that_differ_make_a_part_unknown_whose_text_was_not_left_alone() -> None:
    """Neither its stamp nor a look tells; and from then on no stamp does."""
    line = Line(trigger_behind_s=1.0)
    for number in (1, 2):
        line.published_s = float(number)
        line.write(f"C-{number}", number + 0.1)
        line.give(number, number + 0.2)
        assert line.service() == [f"C-{number}"]
    line.published_s = 3.0
    refuse_what_changes_too_early(line, 3, 3.2)


def test_clock_that_is_set_back_mixes_no_parts() -> None:
    """By an hour, with a text that stays as it is for some parts; a burst over the change is unknown."""
    line = Line(now_s=7200.0)
    line.write("A", 7201.0)
    line.give(1, 7202.0)
    assert line.service() == ["A"]
    for number in range(2, 5):
        line.give(number, 3600.0 + number)
        assert line.service() == ["A"]
    line.write("B", 3605.0)
    line.give(5, 3605.1)
    assert line.service() == ["B"]
    line.write("C", 60.0)
    line.give(6, 60.001)
    assert line.service() == ["C"]
    line.write("D", 30.0)
    line.give(7, 30.1)
    line.write("E", 31.0)
    line.give(8, 31.1)
    assert line.service() == [None, "E"]
