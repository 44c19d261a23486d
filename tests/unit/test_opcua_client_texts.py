"""Which texts belong to a PLC's trigger, whatever the PLC's stamps are worth and however its server tells of them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.client.texts import PlcTexts, Reading, Told
from adapters.opcua.events import TriggerTexts
from tests.support.plc_texts import (
    EXACT,
    NAMES,
    NONE,
    RESOLUTIONS,
    STEPS_S,
    Line,
    refuse_what_changes_too_early,
    told_parts,
)


@given(
    RESOLUTIONS,
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(NAMES), STEPS_S, STEPS_S, st.booleans(), st.booleans(), st.booleans())),
    st.sampled_from(["", None, 0, "   ", "\0\0"]),
)
def test_line_that_waits_gets_every_part_under_its_own_text(
    resolution_s: float,
    looks_stamped: bool,
    parts: list[tuple[str, float, float, bool, bool, bool]],
    cleared: str | int | None,
) -> None:
    """With any stamps or none: told before its trigger, with it or after it, cleared before or not, the same or new."""
    line = Line(resolution_s, looks_stamped=looks_stamped)
    for number, (name, before_s, between_s, is_cleared, is_early, is_late) in enumerate(parts, start=1):
        if is_cleared:
            line.write(cleared, line.now_s + before_s / 2)
            assert not is_late or line.service() == []
        line.write(name, line.now_s + before_s)
        if is_early:
            assert line.service() == []
        line.give(number, line.now_s + between_s)
        assert line.service(texts=not is_late) == [name]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), STEPS_S, STEPS_S, st.integers(0, 3))),
    st.booleans(),
)
def test_line_that_does_not_wait_gets_every_part_under_its_own_text_where_stamps_are_exact(
    parts: list[tuple[str, float, float, int]], looks: bool
) -> None:
    """Told one by one or in bursts, written ahead or not, looked at or not."""
    line, expected, found = Line(), [], []
    for number, (name, before_s, between_s, when) in enumerate(parts, start=1):
        line.write(name, line.now_s + before_s)
        if when == 1:
            found += line.judge(line.publish(), look=looks)
        line.give(number, line.now_s + between_s)
        if when == 2:
            found += line.judge(line.publish(), look=looks)
        expected.append(name)
    assert found + line.judge(line.publish(), look=looks) == expected


@pytest.mark.parametrize("resolution_s", [NONE, 1.0])
def test_text_that_was_told_between_two_that_are_the_same_is_not_overlooked(resolution_s: float) -> None:
    """Without exact stamps: the trigger's own text is the one before's again, and the next part's is looked at."""
    line = Line(resolution_s)
    for number, name in ((1, "Z"), (2, "A")):
        line.write(name, number + 0.01)
        line.give(number, number + 0.02)
        assert line.service() == [name]
    line.write("B", 2.2)
    line.write("A", 2.25)
    line.give(3, 2.3)
    told = line.publish()
    line.write("C", 2.4)
    assert line.judge(told) == [None]


def test_two_parts_at_once_without_stamps_are_unknown_unless_their_text_is_the_same() -> None:
    """The first is gone when it is looked at; and where there were two texts, one may be that of a part to come."""
    line = Line(NONE)
    line.write("A", 1.0)
    line.give(1, 1.0)
    line.give(2, 1.1)
    assert line.service() == [None, "A"]
    line.write("B", 2.0)
    line.give(3, 2.0)
    line.write("C", 2.1)
    line.give(4, 2.1)
    assert line.service() == [None, None]
    line.give(5, 3.0)
    line.give(6, 3.1)
    assert line.service() == ["C", "C"]


@pytest.mark.parametrize("resolution_s", [NONE, 1.0])
def test_text_that_is_changed_before_its_part_has_a_result_is_unknown(resolution_s: float) -> None:
    """A PLC without exact stamps that does not wait: another text was told with the trigger than the look shows."""
    line = Line(resolution_s)
    told_parts(line, 2)
    refuse_what_changes_too_early(line, 3, 2.2)


@pytest.mark.parametrize("resolution_s", [NONE, 1.0])
def test_text_of_the_next_part_is_not_taken_though_it_is_all_that_a_look_shows(resolution_s: float) -> None:
    """Both were told with the trigger: the second is written ahead, and stands there long before its own trigger."""
    line = Line(resolution_s)
    told_parts(line, 2)
    line.write("C-3", 3.0)
    line.give(3, 3.0)
    line.write("C-4", 3.0)
    assert line.service() == [None]
    line.give(4, 3.3)
    assert line.service() == ["C-4"]


@given(
    st.sampled_from([(NONE, False), (NONE, True), (0.05, False), (1.0, False)]),
    st.lists(st.integers(1, 4), min_size=1),
    st.booleans(),
)
def test_line_that_writes_texts_ahead_gets_no_part_under_another_s(
    stamps: tuple[float, bool], batches: list[int], is_pulsed: bool
) -> None:
    """It writes the next part's text as soon as it has given a trigger, told by then or not, while there is one."""
    resolution_s, is_told = stamps
    line = Line(resolution_s)
    told_parts(line, 2)
    number = 2
    for parts in batches:
        line.write(f"C-{number + 1}", line.now_s + 0.3)
        for left in reversed(range(parts)):
            number += 1
            line.give(number, line.now_s + 0.01)
            told = line.publish() if is_told else []
            if left:
                line.write(f"C-{number + 1}", line.now_s)
            (found,) = line.judge(told or line.publish())
            assert found == f"C-{number}" or (found is None and left)
            if is_pulsed:
                line.give(0, line.now_s + 0.1)
                assert line.service() == [None]
            line.now_s += 0.3


@pytest.mark.parametrize("resolution_s", [NONE, 1.0])
def test_trigger_that_is_gone_when_it_is_looked_at_is_unknown(resolution_s: float) -> None:
    """What the look shows is the next part's, or that of one after it; the line is in its stride again after that."""
    line = Line(resolution_s)
    told_parts(line, 2)
    line.write("B", 2.2)
    line.give(3, 2.3)
    line.write("C", 2.4)
    told = line.publish()
    line.give(4, 2.5)
    assert line.judge(told) == [None]
    assert line.service() == [None]
    line.write("D", 3.2)
    line.give(5, 3.3)
    assert line.service() == ["D"]


def test_burst_within_a_second_of_the_clock_is_unknown() -> None:
    """Texts with the stamp of their trigger, and of another one: any order is possible, so nothing is guessed."""
    line = Line(1.0)
    for number, at_s in enumerate((1.9, 2.0, 2.3), start=1):
        line.write(f"C-{number}", at_s)
        line.give(number, at_s + 0.02)
        line.write(f"C-{number + 1}", at_s + 0.05)
    assert line.service() == [None, None, None]


def test_burst_within_a_second_of_which_one_part_has_the_text_before_is_unknown() -> None:
    """One text and two triggers with one stamp: it may belong to both, or only to the second."""
    line = Line(1.0)
    told_parts(line, 2)
    line.give(3, 2.1)
    line.write("B", 2.2)
    line.give(4, 2.3)
    assert line.service() == [None, "B"]


def test_text_without_a_stamp_beside_a_trigger_with_one_is_looked_at() -> None:
    """Nothing tells which of two was there first."""
    line = Line()
    for text in ("A", "B"):
        line.texts.tell("part_id", ua.DataValue(ua.Variant(text)), line.number)
    line.give(1, 1.0)
    assert line.judge(line.publish(), look=False) == [None]


def test_text_that_is_told_while_a_look_is_under_way_stays_in_its_place() -> None:
    """The answer to the look comes after it, but is older."""
    line = Line()
    line.write("A", 0.9)
    line.give(1, 1.0)
    (told,) = line.publish(texts=False)
    line.number += 1
    reading = Reading(line.trigger, {"part_id": line.text}, None, line.number)
    line.write("B", 1.5)
    line.publish()
    line.texts.see("part_id", reading.texts["part_id"], reading.number)
    assert line.texts.beside(told, reading) == (TriggerTexts(part_id="A"), [])
    line.give(2, 2.0)
    assert line.judge(line.publish(), look=False) == ["B"]


def test_trigger_that_is_taken_back_at_once_keeps_its_text_without_stamps() -> None:
    """A pulse: by the time of the look it is 0 again, and nothing else was given."""
    line = Line(NONE)
    line.write("A", 1.0)
    line.give(1, 1.0)
    told = line.publish()
    line.give(0, 1.01)
    assert line.judge(told) == ["A"]


def test_text_that_was_set_after_its_trigger_is_not_its_own() -> None:
    """A trigger that is found standing, with the text of the next part beside it."""
    line = Line()
    line.give(1, 1.0)
    line.write("B", 1.5)
    line.texts = PlcTexts(["part_id"])  # of a new connection, which is told what stands there
    line.waiting, line.given = [line.text], [line.trigger]
    assert line.service() == [None]
    line.give(2, 2.0)
    assert line.service() == ["B"]


@pytest.mark.parametrize("late_s", [0.004, 0.02])
def test_text_that_is_sampled_a_moment_late_was_written_before(late_s: float) -> None:
    """Part after part, up to the slack; beyond that it is what held when the trigger was set."""
    line = Line()
    line.texts.sampled_every(timedelta(milliseconds=5))
    told_parts(line, 1, name="A")
    for number in range(2, 5):
        line.give(number, float(number))
        told = line.publish()
        line.write(f"C-{number}", number + late_s)
        assert line.judge(told) == [f"C-{number}" if late_s < 0.005 else "A" if number == 2 else f"C-{number - 1}"]


def test_text_that_is_written_ahead_within_the_slack_is_the_next_part_s() -> None:
    """Where the trigger has a text of its own already, or two triggers are closer than the clock can tell."""
    tick_s = 1 / 128
    line = Line(tick_s)
    line.texts.sampled_every(timedelta(milliseconds=10))
    line.write("A", 1.0)
    line.give(1, 1.0 + tick_s)
    told = line.publish()
    line.write("B", 1.0 + 2 * tick_s)
    assert line.judge(told) == ["A"]
    line.give(2, 2.0)
    assert line.service() == ["B"]
    line.give(3, 2.003)
    told = line.publish()
    line.write("C", 2.0 + tick_s)
    assert line.judge(told) == ["B"]


@pytest.mark.parametrize("resolution_s", [EXACT, NONE, 1.0])
@pytest.mark.parametrize("status", [ua.StatusCodes.BadNotConnected, ua.StatusCodes.UncertainLastUsableValue])
def test_text_that_the_plc_does_not_call_good_is_unknown(resolution_s: float, status: int) -> None:
    """It may be that of the part before; from the next one on all is well."""
    line = Line(resolution_s)
    told_parts(line, 2)
    line.write("C-2", 2.5, status=status)
    line.give(3, 3.0)
    assert line.service() == [None]
    for number in (4, 5):
        line.write(f"C-{number}", number - 0.01)
        line.give(number, float(number))
        assert line.service() == [f"C-{number}"]


def test_text_that_is_null_is_empty() -> None:
    """A PLC's String that was never written."""
    line = Line()
    told_parts(line, 1)
    line.write(None, 2.5)
    line.give(2, 3.0)
    assert line.service() == [""]


@pytest.mark.parametrize(
    ("text", "at_s", "expected"),
    [
        ("A", 1.999, True),
        ("A", 2.0, True),
        ("A", 1.9, False),  # so long before that another part may have come in between
        ("A", 2.001, False),  # of the next part
        ("A", 1.0, False),  # of the part before
        ("", 1.999, False),  # cleared, and not yet seen to be written
    ],
)
def test_text_needs_no_look_where_it_was_told_with_its_trigger(text: str, at_s: float, expected: bool) -> None:
    """The trigger before was set at 1.0 s, this one at 2.0 s; what cannot be told apart is looked at."""
    line = Line()
    line.give(1, 1.0)
    line.service()
    line.write(text, at_s)
    line.give(2, 2.0)
    (told,) = line.publish()
    assert line.texts.are_told(told) is expected


def test_texts_that_are_not_mapped_are_empty_and_known() -> None:
    """Nothing to look at, nothing to refuse."""
    texts, trigger = PlcTexts([]), Told(ua.DataValue(ua.Variant(1)), 1, 0.0)
    assert texts.are_told(trigger)
    assert texts.beside(trigger, None) == (TriggerTexts(), [])


def _trouble(line: Line) -> str | None:
    return line.texts.trouble


def test_text_that_would_refuse_the_next_part_is_told() -> None:
    """While the PLC does not stand by it, and while it writes it ahead: every part would be rejected in silence."""
    line = Line(resolution_s=NONE)
    assert _trouble(line) is None
    line.write("A", 1.0, status=ua.StatusCodes.UncertainInitialValue)
    line.give(1, 1.001)
    assert line.service() == [None]
    assert _trouble(line) == "part_id is not Good"
    for number in (2, 3):  # two texts for one trigger
        line.write(f"A{number}", line.now_s + 1)
        line.service()
        line.write(f"B{number}", line.now_s + 0.001)
        line.give(number, line.now_s + 0.001)
        line.service()
    assert _trouble(line) == "part_id is written for the next part before the result is there"
