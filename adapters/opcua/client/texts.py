"""The texts beside a PLC's trigger: which of them were written before it.

A PLC writes the texts of a part, then its trigger. A server tells what each node held in the order in which it held it,
but of two nodes it may tell in any order, in one publish response or, where the PLC waits for each result, in several.
What was written first is known from

1. stamps. A text with an earlier stamp than the trigger was written before it, one with a later stamp after it (but for
   a server that looks at one variable after the other, and stamps a text up to `slack` late). The newest of those
   before is the trigger's.
2. the contract. A text with the very stamp of the trigger, as where a PLC stamps a whole cycle, is the trigger's if it
   is all that was written since the trigger before, and that one's stamp is earlier.
3. a look. Where the first two leave more than one (no stamps, several that are the same, a clock that was set back, a
   server that stamps with the time of the look), it is the one that a look shows which was made after the trigger was
   told and shows no later one. For this a PLC without exact stamps leaves its texts alone from the trigger to the
   result. It has not where another text was told by the time of the trigger than the look shows, nor where it has
   written two since the trigger before: the second may be the next part's. One that has once written more texts than it
   has given triggers writes them ahead: then only a text that was told before its trigger is its own, until one was.

Stamps compare only where one clock made them. Two did where a text is stamped later than its trigger by more than it
can be: one that was told in an earlier response was sampled before the trigger was, and what is told in one response
was sampled since the response before. From then on the stamps of that connection count for nothing.

Where the server has no queue for a text, or one that overflowed, what was overwritten is not told: then only what a
look shows counts, and nothing where its stamp is later than the trigger's.

What these leave open is unknown, and such a part is refused, as is one whose text the PLC does not call Good. What a
text says, and when it came, decides nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

import structlog
from asyncua import ua

from adapters.opcua.events import TriggerTexts

log = structlog.get_logger(__name__)

_REMEMBERED: Final = 1000
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)

LARGEST_SLACK: Final = timedelta(milliseconds=10)
"""Shorter than the distance of any two parts."""

_SOON: Final = 100
"""Triggers; where stamps contradict each other again so soon, they come of two clocks."""

_UNPUNCTUAL: Final = timedelta(milliseconds=20)
"""How late a server may be with sampling, beside what it promised."""


@dataclass(frozen=True, slots=True)
class Told:
    """A value of the trigger.

    number: of the publish response that it came in; looks are numbered with them, as they are asked for.
    at: when it came, s on the clock that never jumps.
    span: within which all that came in one response was written; None where that is not known.
    """

    value: ua.DataValue
    number: int
    at: float
    span: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """Trigger, texts and clock of the PLC in one answer. `number` as in Told."""

    trigger: ua.DataValue
    texts: Mapping[str, ua.DataValue]
    now: object
    number: int


@dataclass(frozen=True, slots=True)
class _Text:
    """What a text node held.

    number: as in Told, where it was first known; 0: it was there before any trigger to come. text: None where the PLC
    does not stand by what it tells. told: number of the response that told of it, None while only a look has seen it.
    """

    number: int
    at: datetime | None
    text: str | None
    told: int | None = None

    def is_same(self, other: _Text) -> bool:
        return (self.at, self.text) == (other.at, other.text)


class TextHistory:
    """What one text node held from the trigger before on: what was told, in that order, then what only a look saw."""

    def __init__(self) -> None:
        self._told: list[_Text] = []
        self._seen: list[_Text] = []
        self._began_at: datetime | None = None  # stamp of the first of them
        self._triggers = 0  # since then
        self._is_ahead = False  # the PLC has written the next part's text before it had the result
        self._is_lossy = False  # the server has no queue for it, or not one that was long enough

    @property
    def trouble(self) -> str | None:
        """Why the text of a next part would be unknown, or may be, whatever it is."""
        if self._values and self._values[-1].text is None:
            return "is not Good"
        if self._is_lossy:
            return "is not told in full: the PLC's queue is too short"
        return "is written for the next part before the result is there" if self._is_ahead else None

    @property
    def _values(self) -> list[_Text]:
        return [*self._told, *self._seen]

    def tell(self, value: ua.DataValue, number: int) -> None:
        """Remember a value that was told. It may be older than what a look has seen."""
        told = _Text(number, stamp_of(value), _text(value), told=number)
        while self._seen and told.at is not None and _when(self._seen[0]) < told.at:
            self._told.append(self._seen.pop(0))  # the server had not looked in time
        if self._seen and told.is_same(self._seen[0]):
            told = replace(told, number=self._seen.pop(0).number)
        last = self._told[-1] if self._told else None
        if last and last.number == 0 and self._began_at and told.at and told.at <= self._began_at:
            last = replace(last, at=told.at)  # it was seen before it was told
        if last is None or not told.is_same(last):
            self._told.append(told)
            del self._told[:-_REMEMBERED]

    def lose(self) -> None:
        """Note that the server drops what was overwritten before it was told: only what a look shows is known."""
        self._is_lossy = True

    def see(self, value: ua.DataValue, number: int) -> None:
        """Remember a value that a look has seen."""
        seen = _Text(number, stamp_of(value), _text(value))
        if not self._values or seen.text != self._values[-1].text:
            self._seen.append(seen)
            del self._seen[:-_REMEMBERED]

    def contradicts(self, trigger: Told, unpunctual: timedelta) -> bool:
        """Tell whether a text that was told by the time of a trigger is stamped later than it can have been written."""
        moment, span = stamp_of(trigger.value), trigger.span
        for value in self._told:
            if moment and value.at and value.told is not None and value.told <= trigger.number:
                ahead = value.at - moment - unpunctual
                if ahead > timedelta() and (value.told < trigger.number or (span is not None and ahead > span)):
                    return True
        return False

    def is_told(self, moment: datetime | None, since: datetime | None) -> bool:
        """Tell whether the text of the trigger set at `moment` needs no look.

        It was set just before that trigger and after the one before it, at `since`. An empty one may be what the PLC
        cleared before it wrote the next.
        """
        if moment is None or since is None or since >= moment or self._is_lossy:
            return False
        possible, _ = self._possible(moment, since, timedelta())
        return len({value.text for value in possible}) == 1 and any(
            value.number and value.text and _when(value) >= moment - LARGEST_SLACK for value in possible
        )

    def settle(
        self,
        moment: datetime | None,
        since: datetime | None,
        slack: timedelta,
        told: int,
        look: _Text | None,
        *,
        is_given: bool = True,
    ) -> str | None:
        """Return the text of a trigger, None where it is unknown; what was there before it is forgotten.

        Args:
            moment: when the trigger was set; None where its stamp says nothing.
            since: when the trigger before it was set.
            slack: how late a text may have been sampled.
            told: number of the publish response with the trigger.
            look: what a look showed that shows no later trigger.
            is_given: whether it is a trigger, and not one that was taken back.
        """
        values = self._values
        self._triggers += is_given
        possible, later = self._possible(moment, since, slack)
        if self._is_lossy:
            if look is None:
                return None
            if moment is not None and look.at is not None and look.at != moment:
                self._begin_with(look, [value for value in values if value.number > look.number])
                return look.text if look.at < moment else None
            possible, later = values, []
        if len({value.text for value in possible}) == 1:
            self._is_ahead = self._is_ahead and not is_given
            self._begin_with(possible[-1], later)
            return possible[-1].text
        if look is None:
            return None
        by_then = [value.text for value in values if value.number <= told]
        # cleared, or still that of the trigger before: then its own was told late
        is_as_told = len(set(by_then)) <= 1 or by_then[-1] in {look.text, ""}
        was_left_alone = self._is_left_alone(values, told, look) and is_as_told
        self._begin_with(look, [value for value in values if value.number > look.number])
        return look.text if possible and was_left_alone else None

    def _is_left_alone(self, values: Sequence[_Text], told: int, look: _Text) -> bool:
        """Tell whether the PLC may have written just one text since the trigger before, and that before the trigger."""
        known = [*(value for value in values if value.number <= look.number), look]
        changes = [after for before, after in pairwise(known) if after.text not in {before.text, ""}]
        if 0 < self._triggers < len([change for change in changes if change.text is not None]):
            self._is_ahead = True
        self._is_ahead = self._is_ahead and any(change.number >= told for change in changes)
        return not self._is_ahead and len({change.text for change in changes}) <= 1

    def _possible(
        self, moment: datetime | None, since: datetime | None, slack: timedelta
    ) -> tuple[list[_Text], list[_Text]]:
        """Return what may be the text of a trigger by rules 1 and 2, oldest first, and what was written after it."""
        values = self._values
        if moment is None or any(value.at is None for value in values):
            return values, []
        values.sort(key=_when)  # stable: the same stamps stay in the order in which they were told
        follows = since is not None and since < moment
        is_written = follows and any(since < _when(value) <= moment for value in values if since)
        end = bisect_right(values, moment if is_written or since == moment else moment + slack, key=_when)
        begin = bisect_left(values, moment, 0, end, key=_when)
        if begin == end or _when(values[end - 1]) > moment:
            return values[max(0, end - 1) : end], values[end:]
        is_all_since = follows and not self._is_ahead and not any(value.number for value in values[:begin])
        return values[begin if is_all_since else max(0, begin - 1) : end], values[end:]

    def _begin_with(self, first: _Text, later: Sequence[_Text]) -> None:
        self._began_at, self._triggers = self._began_at if first.number == 0 else first.at, 0
        kept = {id(value) for value in later}
        self._told = [_Text(0, _LONG_AGO, first.text), *(value for value in self._told if id(value) in kept)]
        self._seen = [value for value in self._seen if id(value) in kept]


class PlcTexts:
    """What is known of all texts on one connection.

    Args:
        words: the texts that are mapped.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._slack = self._unpunctual = timedelta()
        self._histories = {word: TextHistory() for word in words}
        self._since: datetime | None = None
        self._is_begun = False  # what stands there at first was written whenever
        self._triggers = 0
        self._contradicted: int | None = None  # at which trigger stamps last did
        self._clocks_differ = False

    @property
    def trouble(self) -> str | None:
        """Why the next part would, or may, be refused for a text that is unknown; None where that cannot be said."""
        troubles = ((word, history.trouble) for word, history in self._histories.items())
        return next((f"{word} {trouble}" for word, trouble in troubles if trouble), None)

    def sampled_every(self, interval: timedelta) -> None:
        """Note how often the server looks at the nodes; it may be late by as much."""
        self._slack, self._unpunctual = min(interval, LARGEST_SLACK), 2 * interval + _UNPUNCTUAL

    def lose(self, word: str) -> None:
        """Note that the server does not tell all that a text node held."""
        self._histories[word].lose()

    def tell(self, word: str, value: ua.DataValue, number: int) -> None:
        """Remember a value that was told."""
        self._histories[word].tell(value, number)

    def see(self, word: str, value: ua.DataValue, number: int) -> None:
        """Remember a value that a look has seen."""
        self._histories[word].see(value, number)

    def are_told(self, trigger: Told) -> bool:
        """Tell whether no look is needed: it takes a millisecond or two, and the gate waits for it."""
        moment = self._moment(trigger)
        return all(history.is_told(moment, self._since) for history in self._histories.values())

    def beside(self, trigger: Told, reading: Reading | None) -> tuple[TriggerTexts, list[str]]:
        """Return the texts that were written before a trigger, and the words of those that are unknown.

        Args:
            trigger: each one that is told, in turn.
            reading: a look after the newest trigger; None for earlier ones of a burst, or where all were told.
        """
        moment, since = self._moment(trigger), self._since
        self._since, self._is_begun, self._triggers = stamp_of(trigger.value), True, self._triggers + 1
        stands = reading is not None and _shows(reading, held(trigger.value))
        if (since and moment and since > moment) or (reading and stands and stamp_of(reading.trigger) != moment):
            moment = None  # the clock was set back, or the stamp is that of the look
        texts: dict[str, str] = {}
        for word, history in self._histories.items():
            look = None
            if reading and (stands or _shows(reading, 0)):
                look = _Text(reading.number, stamp_of(reading.texts[word]), _text(reading.texts[word]))
            slack, is_given = self._slack if stands else timedelta(), bool(held(trigger.value))
            text = history.settle(moment, since, slack, trigger.number, look, is_given=is_given)
            if text is not None:
                texts[word] = text
        return TriggerTexts(**texts), [word for word in self._histories if word not in texts]

    def _moment(self, trigger: Told) -> datetime | None:
        """Return when a trigger was set by the clock of the texts, None where its stamp says nothing."""
        moment = stamp_of(trigger.value)
        is_set_back = self._since is not None and moment is not None and self._since > moment  # and is one clock still
        if self._clocks_differ or not self._is_begun or is_set_back:
            return None if self._clocks_differ else moment
        differing = [word for word, each in self._histories.items() if each.contradicts(trigger, self._unpunctual)]
        if not differing:
            return moment
        if self._contradicted not in (None, self._triggers):  # once may be a clock that was put right in between
            self._clocks_differ = self._triggers - self._contradicted <= _SOON
        self._contradicted = self._triggers
        log.warning("plc_clocks_differ", words=differing, until="the connection ends" if self._clocks_differ else "now")
        return None


def held(value: ua.DataValue) -> object:
    """Return what a value holds, None where that is nothing."""
    return None if value.Value is None else value.Value.Value


def is_good(value: ua.DataValue) -> bool:
    """Tell whether the PLC stands by a value: one that is Bad is none, one that is Uncertain may be an old one."""
    return value.StatusCode is None or value.StatusCode.is_good()


def stamp_of(value: ua.DataValue) -> datetime | None:
    """Return when a value was set, or seen, by the PLC's clock."""
    return value.SourceTimestamp or value.ServerTimestamp


def _shows(reading: Reading, trigger: object) -> bool:
    return is_good(reading.trigger) and (held(reading.trigger) or 0) == (trigger or 0)


def _text(value: ua.DataValue) -> str | None:
    """Return what a node says, None where it does not stand by that; a 0, or blanks, are how such nodes are cleared."""
    if not is_good(value):
        return None
    text = held(value)
    return "" if text is None or text == 0 or not str(text).strip(" \0") else str(text)


def _when(value: _Text) -> datetime:
    return value.at or _LONG_AGO
