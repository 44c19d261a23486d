"""A PLC that writes a text and a trigger, and its server, as far as the texts beside triggers need them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncua import ua
from hypothesis import strategies as st

from adapters.opcua.client.texts import PlcTexts, Reading, Told, held

MORNING = datetime(2026, 1, 1, 6, tzinfo=UTC)
EXACT, NONE = 0.0, -1.0
NAMES = ("", "99", "100", "A", "B")
RESOLUTIONS = st.sampled_from([EXACT, NONE, 0.001, 0.05, 1.0])
STEPS_S = st.sampled_from([0.0001, 0.003, 0.04, 0.3])


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
        self.late: list[ua.DataValue] = []
        self.given: list[ua.DataValue] = [self.trigger]
        assert self.service() == [None]

    def value(self, content: str | int | None, status: int = ua.StatusCodes.Good) -> ua.DataValue:
        return ua.DataValue(ua.Variant(content), ua.StatusCode(ua.UInt32(status)), SourceTimestamp=self.stamp())

    def stamp(self) -> Any:
        if self.resolution_s == NONE:
            return None
        ticks_s = self.now_s // self.resolution_s * self.resolution_s if self.resolution_s else self.now_s
        return MORNING + timedelta(seconds=ticks_s)

    def write(self, text: str | int | None, at_s: float, *, status: int = ua.StatusCodes.Good) -> None:
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
        """Tell of the changes; of those of the text in the next response where the server has not looked at it yet."""
        sent_s = self.now_s if sent_s is None else sent_s
        self.number += 1
        for value in [*self.late, *(self.waiting if texts else [])]:
            self.texts.tell("part_id", value, self.number)
        self.late, self.waiting = [] if texts else self.waiting, []
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


def told_parts(line: Line, parts: int, *, name: str = "C-{}") -> None:
    """Let parts through, one a second, so that the line is in its stride."""
    for number in range(1, parts + 1):
        line.write(name.format(number), number - 0.01)
        line.give(number, float(number))
        assert line.service() == [name.format(number)]


def refuse_what_changes_too_early(line: Line, number: int, at_s: float) -> None:
    """Give a part whose text is another one before it is looked at: it is unknown, and the next part has the other."""
    line.write("B", at_s)
    line.give(number, at_s + 0.1)
    told = line.publish()
    line.write("C", at_s + 0.2)
    assert line.judge(told) == [None]
    line.give(number + 1, at_s + 0.3)
    assert line.service() == ["C"]
