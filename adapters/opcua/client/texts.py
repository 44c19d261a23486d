"""The texts beside a PLC's trigger: which of them were written before it.

A PLC writes the texts of a part, then its trigger. A server tells what each node held in the order in which it held it,
but of two nodes it may tell in any order, in one publish response or in several. What was written first is known from

1. stamps. A text with an earlier stamp than the trigger was written before it, one with a later stamp after it (but for
   a server that looks at one variable after the other, and stamps a text up to `slack` late). The newest of those
   before is the trigger's.
2. the contract. A text with the very stamp of the trigger, as where a PLC stamps a whole cycle, is the trigger's if it
   is all that was written since the trigger before, and that one's stamp is earlier.
3. a look. Where the first two leave more than one (no stamps, several that are the same, a clock that was set back, a
   server that stamps with the time of the look), it is the one that a look shows which was made after the trigger was
   told and shows no later one. For this a PLC without exact stamps leaves its texts alone from the trigger to the
   result. It has not where another text was told by the time of the trigger than the look shows.

What these leave open is unknown, and such a part is refused. What a text says, and when it came, decides nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from asyncua import ua

from adapters.opcua.events import TriggerTexts

_REMEMBERED: Final = 1000
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)

LARGEST_SLACK: Final = timedelta(milliseconds=10)
"""Shorter than the distance of any two parts."""


@dataclass(frozen=True, slots=True)
class Told:
    """A value of the trigger.

    number: of the publish response that it came in; looks are numbered with them, as they are asked for.
    at: when it came, s on the clock that never jumps.
    """

    value: ua.DataValue
    number: int
    at: float


@dataclass(frozen=True, slots=True)
class Reading:
    """Trigger, texts and clock of the PLC in one answer. `number` as in Told."""

    trigger: ua.DataValue
    texts: Mapping[str, ua.DataValue]
    now: object
    number: int


@dataclass(frozen=True, slots=True)
class _Text:
    """What a text node held. `number` as in Told; 0: it was there before any trigger to come."""

    number: int
    at: datetime | None
    text: str


class TextHistory:
    """What one text node held, in the order in which it was told, from what it held at the trigger before."""

    def __init__(self) -> None:
        self._values: list[_Text] = []

    def note(self, value: ua.DataValue, number: int) -> None:
        """Remember a value that was told, or seen by a look."""
        text = _text(value)
        if not self._values or text != self._values[-1].text:
            self._values.append(_Text(number, stamp_of(value), text))
            del self._values[:-_REMEMBERED]

    def is_told(self, moment: datetime | None, since: datetime | None) -> bool:
        """Tell whether the text of the trigger set at `moment` needs no look.

        It was set just before that trigger and after the one before it, at `since`. An empty one may be what the PLC
        cleared before it wrote the next.
        """
        if moment is None or since is None or since >= moment:
            return False
        possible, _ = self._possible(moment, since, timedelta())
        return len({value.text for value in possible}) == 1 and any(
            value.number and value.text and _when(value) >= moment - LARGEST_SLACK for value in possible
        )

    def settle(
        self, moment: datetime | None, since: datetime | None, slack: timedelta, told: int, look: _Text | None
    ) -> str | None:
        """Return the text of a trigger, None where it is unknown; what was there before it is forgotten.

        Args:
            moment: when the trigger was set; None where its stamp says nothing.
            since: when the trigger before it was set.
            slack: how late a text may have been sampled.
            told: number of the publish response with the trigger.
            look: what a look showed that shows no later trigger.
        """
        possible, later = self._possible(moment, since, slack)
        if len({value.text for value in possible}) == 1:
            self._begin_with(possible[-1].text, later)
            return possible[-1].text
        if look is None:
            return None
        by_then = [value.text for value in self._values if value.number <= told]
        # cleared, or still that of the trigger before: then its own was told late
        was_left_alone = not by_then or by_then[-1] in {look.text, "", by_then[0]}
        self._begin_with(look.text, [value for value in self._values if value.number > look.number])
        return look.text if possible and was_left_alone else None

    def _possible(
        self, moment: datetime | None, since: datetime | None, slack: timedelta
    ) -> tuple[list[_Text], list[_Text]]:
        """Return what may be the text of a trigger by rules 1 and 2, oldest first, and what was written after it."""
        if moment is None or any(value.at is None for value in self._values):
            return self._values, []
        values = sorted(self._values, key=_when)  # stable: the same stamps stay in the order in which they were told
        follows = since is not None and since < moment
        is_written = follows and any(since < _when(value) <= moment for value in values if since)
        end = bisect_right(values, moment if is_written or since == moment else moment + slack, key=_when)
        begin = bisect_left(values, moment, 0, end, key=_when)
        if begin == end or _when(values[end - 1]) > moment:
            return values[max(0, end - 1) : end], values[end:]
        is_all_since = follows and not any(value.number for value in values[:begin])
        return values[begin if is_all_since else max(0, begin - 1) : end], values[end:]

    def _begin_with(self, text: str, later: Iterable[_Text]) -> None:
        self._values = [_Text(0, _LONG_AGO, text), *later]


class PlcTexts:
    """What is known of all texts on one connection.

    Args:
        words: the texts that are mapped.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.slack = timedelta()
        self._histories = {word: TextHistory() for word in words}
        self._since: datetime | None = None

    def note(self, word: str, value: ua.DataValue, number: int) -> None:
        """Remember a value that was told, or seen by a look."""
        self._histories[word].note(value, number)

    def are_told(self, trigger: Told) -> bool:
        """Tell whether no look is needed: it takes a millisecond or two, and the gate waits for it."""
        return all(history.is_told(stamp_of(trigger.value), self._since) for history in self._histories.values())

    def beside(self, trigger: Told, reading: Reading | None) -> tuple[TriggerTexts, list[str]]:
        """Return the texts that were written before a trigger, and the words of those that are unknown.

        Args:
            trigger: each one that is told, in turn.
            reading: a look after the newest trigger; None for earlier ones of a burst, or where all were told.
        """
        moment, since = stamp_of(trigger.value), self._since
        self._since = moment
        stands = reading is not None and _shows(reading, held(trigger.value))
        if (since and moment and since > moment) or (reading and stands and stamp_of(reading.trigger) != moment):
            moment = None  # the clock was set back, or the stamp is that of the look
        texts: dict[str, str] = {}
        for word, history in self._histories.items():
            look = None
            if reading and (stands or _shows(reading, 0)):
                look = _Text(reading.number, None, _text(reading.texts[word]))
            text = history.settle(moment, since, self.slack if stands else timedelta(), trigger.number, look)
            if text is not None:
                texts[word] = text
        return TriggerTexts(**texts), [word for word in self._histories if word not in texts]


def held(value: ua.DataValue) -> object:
    """Return what a value holds, None where that is nothing."""
    return None if value.Value is None else value.Value.Value


def is_bad(value: ua.DataValue) -> bool:
    """Tell whether a value is none, whatever it holds."""
    return value.StatusCode is not None and value.StatusCode.is_bad()


def stamp_of(value: ua.DataValue) -> datetime | None:
    """Return when a value was set, or seen, by the PLC's clock."""
    return value.SourceTimestamp or value.ServerTimestamp


def _shows(reading: Reading, trigger: object) -> bool:
    return not is_bad(reading.trigger) and (held(reading.trigger) or 0) == (trigger or 0)


def _text(value: ua.DataValue) -> str:
    text = held(value)
    return "" if text is None or is_bad(value) else str(text)


def _when(value: _Text) -> datetime:
    return value.at or _LONG_AGO
