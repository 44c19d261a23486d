"""Which texts belong to a PLC's trigger, whatever the PLC's stamps are worth and however its server tells of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.client.texts import PlcTexts, Reading, Told, held
from adapters.opcua.events import TriggerTexts

MORNING = datetime(2026, 1, 1, 6, tzinfo=UTC)
EXACT, NONE = 0.0, -1.0
NAMES = ("", "99", "100", "A", "B")


@dataclass
class Line:
    """A PLC with a trigger and one text, its server, and what the service has been told of them.

    Args:
        resolution_s: of the PLC's clock; EXACT or NONE, where it stamps nothing.
        now_s: since the morning began.
        looks_stamped: whether the server stamps a look with the time of it.
        trigger_behind_s: how far the clock that stamps the trigger is behind that of the texts.
    """

    resolution_s: float = EXACT
    now_s: float = 0.5
    looks_stamped: bool = False
    trigger_behind_s: float = 0.0
    texts: PlcTexts = field(default_factory=lambda: PlcTexts(["part_id"]))

    def __post_init__(self) -> None:
        self.number, self.published_s = 0, 0.0
        self.text = self.value("Z")
        self.trigger = self.value(0)
        self.waiting: list[ua.DataValue] = [self.text]
        self.given: list[ua.DataValue] = [self.trigger]
        assert self.service() == [None]

    def value(self, content: str | int | None, status: int = ua.StatusCodes.Good) -> ua.DataValue:
        return ua.DataValue(ua.Variant(content), ua.StatusCode(ua.UInt32(status)), SourceTimestamp=self.stamp())

    def stamp(self) -> Any:
        if self.resolution_s == NONE:
            return None
        ticks_s = self.now_s // self.resolution_s * self.resolution_s if self.resolution_s else self.now_s
        return MORNING + timedelta(seconds=ticks_s)

    def write(self, text: str | None, at_s: float, *, status: int = ua.StatusCodes.Good) -> None:
        """Write the text; a server tells only of changes."""
        self.now_s = at_s
        before, self.text = self.text, self.value(text, status)
        if (before.Value, before.StatusCode) != (self.text.Value, self.text.StatusCode):
            self.waiting.append(self.text)

    def give(self, trigger: int, at_s: float) -> None:
        self.now_s = at_s
        self.trigger = self.value(trigger)
        if self.trigger_behind_s and self.trigger.SourceTimestamp is not None:
            behind = timedelta(seconds=self.trigger_behind_s)
            self.trigger = replace(self.trigger, SourceTimestamp=self.trigger.SourceTimestamp - behind)
        self.given.append(self.trigger)

    def publish(self, *, texts: bool = True, sent_s: float | None = None) -> list[Told]:
        """Tell of the changes; of those of the text only where the server has looked at it by now."""
        sent_s = self.now_s if sent_s is None else sent_s
        self.number += 1
        if texts:
            for value in self.waiting:
                self.texts.tell("part_id", value, self.number)
            self.waiting = []
        span, self.published_s = timedelta(seconds=sent_s - self.published_s), sent_s
        told = [Told(value, self.number, 0.0, span if span > timedelta() else None) for value in self.given]
        self.given = []
        return told

    def look(self) -> Reading:
        self.number += 1
        trigger, text = self.trigger, self.text
        if self.looks_stamped:
            self.now_s += 0.001
            trigger, text = (replace(value, SourceTimestamp=self.stamp()) for value in (trigger, text))
        self.texts.see("part_id", text, self.number)
        return Reading(trigger, {"part_id": text}, None, self.number)

    def judge(self, told: list[Told], *, look: bool = True) -> list[str | None]:
        """Return the text of each trigger that was told, as the service takes it; None where it does not know."""
        found: list[str | None] = []
        for count, trigger in enumerate(told, start=1):
            looks = look and count == len(told) and not self.texts.are_told(trigger)
            texts, unknown = self.texts.beside(trigger, self.look() if looks else None)
            assert unknown in ([], ["part_id"])
            found.append(None if unknown else texts.part_id)
        return found

    def service(self, *, texts: bool = True) -> list[str | None]:
        """Tell of the changes and return the texts of those triggers that are not 0."""
        told = self.publish(texts=texts)
        found = self.judge(told)
        return [text if held(trigger.value) else None for text, trigger in zip(found, told, strict=True)]


RESOLUTIONS = st.sampled_from([EXACT, NONE, 0.001, 0.05, 1.0])
STEPS_S = st.sampled_from([0.0001, 0.003, 0.04, 0.3])


@given(
    RESOLUTIONS,
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(NAMES), STEPS_S, STEPS_S, st.booleans(), st.booleans(), st.booleans())),
)
def test_line_that_waits_gets_every_part_under_its_own_text(
    resolution_s: float, looks_stamped: bool, parts: list[tuple[str, float, float, bool, bool, bool]]
) -> None:
    """With any stamps or none: told before its trigger, with it or after it, cleared before or not, the same or new."""
    line = Line(resolution_s, looks_stamped=looks_stamped)
    for number, (name, before_s, between_s, is_cleared, is_early, is_late) in enumerate(parts, start=1):
        if is_cleared:
            line.write("", line.now_s + before_s / 2)
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


def test_clocks_that_differ_make_a_part_unknown_whose_text_was_not_left_alone() -> None:
    """Neither its stamp nor a look tells; and from then on no stamp does."""
    line = Line(trigger_behind_s=1.0)
    for number in (1, 2):
        line.published_s = float(number)
        line.write(f"C-{number}", number + 0.1)
        line.give(number, number + 0.2)
        assert line.service() == [f"C-{number}"]
    line.published_s = 3.0
    line.write("B", 3.2)
    line.give(3, 3.3)
    told = line.publish()
    line.write("C", 3.4)
    assert line.judge(told) == [None]
    line.give(4, 3.5)
    assert line.service() == ["C"]


def told_parts(line: Line, parts: int, *, name: str = "C-{}") -> None:
    """Let parts through, one a second, so that the line is in its stride."""
    for number in range(1, parts + 1):
        line.write(name.format(number), number - 0.01)
        line.give(number, float(number))
        assert line.service() == [name.format(number)]


def test_two_parts_at_once_without_stamps_are_unknown_unless_their_text_is_the_same() -> None:
    """The first is gone when it is looked at, and its text may be either; the second stands there with its own."""
    line = Line(NONE)
    line.write("A", 1.0)
    line.give(1, 1.0)
    line.give(2, 1.1)
    assert line.service() == [None, "A"]
    line.write("B", 2.0)
    line.give(3, 2.0)
    line.write("C", 2.1)
    line.give(4, 2.1)
    assert line.service() == [None, "C"]
    line.give(5, 3.0)
    line.give(6, 3.1)
    assert line.service() == ["C", "C"]


@pytest.mark.parametrize("resolution_s", [NONE, 1.0])
def test_text_that_is_changed_before_its_part_has_a_result_is_unknown(resolution_s: float) -> None:
    """A PLC without exact stamps that does not wait: another text was told with the trigger than the look shows."""
    line = Line(resolution_s)
    told_parts(line, 2)
    line.write("B", 2.2)
    line.give(3, 2.3)
    told = line.publish()
    line.write("C", 2.4)
    assert line.judge(told) == [None]
    line.give(4, 2.5)
    assert line.service() == ["C"]


@pytest.mark.parametrize("resolution_s", [NONE, 1.0])
def test_trigger_that_is_gone_when_it_is_looked_at_is_unknown(resolution_s: float) -> None:
    """What the look shows is the next part's."""
    line = Line(resolution_s)
    told_parts(line, 2)
    line.write("B", 2.2)
    line.give(3, 2.3)
    line.write("C", 2.4)
    told = line.publish()
    line.give(4, 2.5)
    assert line.judge(told) == [None]
    assert line.service() == ["C"]


def test_burst_within_a_second_of_the_clock_is_unknown() -> None:
    """Texts with the stamp of their trigger, and of another one: any order is possible, so nothing is guessed."""
    line = Line(1.0)
    for number, at_s in enumerate((1.9, 2.0, 2.3), start=1):
        line.write(f"C-{number}", at_s)
        line.give(number, at_s + 0.02)
        line.write(f"C-{number + 1}", at_s + 0.05)
    assert line.service() == [None, None, "C-4"]  # the last has not waited, and nothing shows it


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


def test_text_that_is_bad_or_null_is_empty() -> None:
    """A value that the PLC itself calls bad says nothing."""
    line = Line()
    told_parts(line, 1)
    line.write("A", 1.5, status=ua.StatusCodes.BadNotConnected)
    line.give(2, 2.0)
    assert line.service() == [""]
    line.write(None, 2.5)
    line.give(3, 3.0)
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
