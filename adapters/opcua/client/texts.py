"""The texts beside a PLC's trigger: which of them were written before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from asyncua import ua

from adapters.opcua.events import TriggerTexts

_REMEMBERED: Final = 1000

LARGEST_SLACK: Final = timedelta(milliseconds=10)
"""Shorter than the distance of any two parts."""


class TextHistory:
    """The values of one text node, with the times at which the PLC says they were set."""

    def __init__(self) -> None:
        self._values: deque[tuple[datetime | None, str]] = deque(maxlen=_REMEMBERED)

    def note(self, value: ua.DataValue) -> None:
        """Remember a value that was told or read."""
        stamped = (stamp_of(value), _text(value))
        if stamped not in self._values:
            self._values.append(stamped)

    @property
    def newest(self) -> str:
        """Return what was noted last."""
        return self._values[-1][1] if self._values else ""

    def at(self, moment: datetime | None, slack: timedelta, since: datetime | None) -> str:
        """Return the value that held at `moment`.

        One that was sampled up to `slack` later was set before, too, unless another one was set for this trigger:
        after the trigger before it, at `since`.
        """
        if moment is None:
            return self.newest
        latest = moment + slack
        known = [(stamp, text) for stamp, text in self._values if stamp is not None and stamp <= latest]
        own = [(stamp, text) for stamp, text in known if stamp <= moment and since is not None and stamp > since]
        return max(own or known)[1] if known else self.newest

    def is_told(self, moment: datetime | None, since: datetime | None) -> bool:
        """Tell whether the text of the trigger set at `moment` is known beyond doubt, without another look.

        It was set just before that trigger and after the one before it, at `since`. An empty one may be what the PLC
        cleared before it wrote the next.
        """
        if moment is None or since is None:
            return False
        return any(
            text and stamp is not None and since < stamp <= moment <= stamp + LARGEST_SLACK
            for stamp, text in reversed(self._values)
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """Trigger, texts and clock of the PLC in one answer."""

    trigger: ua.DataValue
    texts: Mapping[str, ua.DataValue]
    now: object


def texts_beside(
    change: ua.DataValue,
    histories: Mapping[str, TextHistory],
    reading: Reading | None,
    *,
    slack: timedelta,
    since: datetime | None = None,
) -> TriggerTexts:
    """Return the texts that were written before `change` of the trigger.

    A server that looks at its variables one after the other may tell of a trigger before it has seen the texts that the
    PLC wrote in the same cycle; hence the slack, and the reading where a text was not told (`TextHistory.is_told`). A
    PLC that goes on without waiting may have written the texts of the next part by then; hence the stamps. A server
    that stamps with the time of the look instead of the change gives itself away by the trigger's own stamp.

    Args:
        change: the value of the trigger that was told.
        histories: what is known of each text, the reading included.
        reading: a look at all of them after the newest change; None for earlier ones of a burst, or where all were
            told.
        slack: how late a text may have been sampled.
        since: when the trigger before this one was set.
    """
    stamp = stamp_of(change)
    still_there = reading is not None and held(reading.trigger) == held(change)
    if reading is not None and still_there and stamp_of(reading.trigger) != stamp:
        return TriggerTexts(**{word: _text(value) for word, value in reading.texts.items()})
    allowed = slack if still_there else timedelta()
    return TriggerTexts(**{word: history.at(stamp, allowed, since) for word, history in histories.items()})


def held(value: ua.DataValue) -> object:
    """Return what a value holds, None where that is nothing."""
    return None if value.Value is None else value.Value.Value


def _text(value: ua.DataValue) -> str:
    text = held(value)
    return "" if text is None or (value.StatusCode is not None and value.StatusCode.is_bad()) else str(text)


def stamp_of(value: ua.DataValue) -> datetime | None:
    """Return when a value was set, or seen, by the PLC's clock."""
    return value.SourceTimestamp or value.ServerTimestamp
