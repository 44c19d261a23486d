"""A PLC's trigger as an image-ready event, whichever side has the OPC UA server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydantic import TypeAdapter, ValidationError

from schemas.messages import REPLAY_PREFIX, EventId, EventName, ImageEvent, ImageRef, ImageUri, PartId, Reason
from service.ports import Answer, Arrival, Refusal

_KINDS: Final[dict[str, TypeAdapter[str]]] = {
    "event_id": TypeAdapter(EventId),
    "part_id": TypeAdapter(PartId),
    "image_uri": TypeAdapter(ImageUri),
}
_NAME: Final[TypeAdapter[str]] = TypeAdapter(EventName)
_NUMBERS: Final = 1000
"""More than are in work at once."""


class DefaultEventIds:
    """Event ids for triggers that name none: `{station}-{Trigger}-{start of the service}`.

    A PLC whose counter falls back (it restarted, or the counter wrapped) gets a round number behind that, since the
    same id again would repeat the verdict of an earlier part.
    """

    def __init__(self, station: str, start: datetime) -> None:
        self._station = station
        self._start = f"{start:%Y%m%dT%H%M%S.%fZ}"
        self._last = 0
        self._round = 1

    def next(self, trigger: int) -> str:
        """Return an id that no earlier trigger of this run was given."""
        if trigger <= self._last:
            self._round += 1
        self._last = trigger
        suffix = f"-{self._round}" if self._round > 1 else ""
        return f"{self._station}-{trigger}-{self._start}{suffix}"


class TriggerNumbers:
    """Which event has a trigger number now.

    A PLC knows its part by the number, and may give it anew while a result for it is on its way: its counter began
    again, or its trigger is a Boolean. The result of the event before must not let the next one's part pass.

    source: name of the adapter that takes the triggers; events of others may bear a number, too.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._newest: dict[int, tuple[ImageEvent | None, datetime]] = {}
        self._earlier: dict[int, ImageEvent] = {}  # of an earlier run
        self._since = datetime.min.replace(tzinfo=UTC)
        self._told = Counter[int]()

    def tell(self, trigger: int) -> None:
        """Note that a number was told, for an event that is yet to be made of it."""
        self._told[trigger] += 1

    def settle(self, trigger: int) -> None:
        """Note that what was told is no new trigger."""
        self._told -= Counter([trigger])  # never below 0

    def give(self, trigger: int, event: ImageEvent | None, at: datetime) -> None:
        """Note the newest event that has a number; None where the PLC gave it and nothing is to answer it."""
        self.settle(trigger)
        self._newest.pop(trigger, None)
        self._newest[trigger] = event, at
        if len(self._newest) > _NUMBERS:
            del self._newest[next(iter(self._newest))]

    def recall(self, given: Iterable[ImageEvent]) -> None:
        """Note what was given to an earlier run, oldest first; what this run knows of a number is newer."""
        self._earlier = {event.trigger_id: event for event in given if event.trigger_id is not None}

    def begin_again(self, at: datetime) -> None:
        """Note that the PLC has restarted: nothing that was asked before `at` is asked any more."""
        self._newest = dict.fromkeys({**self._earlier, **self._newest}, (None, at))
        self._since = at

    def mean(self, answer: Answer) -> bool:
        """Tell whether the PLC means by its trigger's number the part that `answer` is about."""
        verdict, trigger = answer.verdict, answer.asker.trigger_id
        if trigger is None:
            return verdict.received_at >= self._since
        is_own = answer.asker.source == self._source
        if is_own and trigger in self._told:
            return False
        newest, at = self._newest.get(trigger, (self._earlier.get(trigger), self._since))
        if newest is not None and newest.event_id == verdict.event_id:
            return not newest.part_id or newest.part_id == verdict.part_id
        # a camera's over MQTT: the number is its own if it came later
        is_given = trigger in self._newest or trigger in self._earlier
        return verdict.received_at >= at and not (is_own and is_given)


@dataclass(frozen=True, slots=True)
class TriggerTexts:
    """What a PLC writes before its trigger; empty where it wrote nothing."""

    part_id: str = ""
    image_uri: str = ""
    event_id: str = ""


def trigger_arrival(
    trigger: int,
    texts: TriggerTexts,
    event_ids: DefaultEventIds,
    *,
    names: TriggerTexts,
    received_at: datetime,
    received_monotonic: float,
    source: str,
) -> Arrival:
    """Return the event of one trigger; texts that cannot be used make it a refused one, which keeps the id it names.

    Args:
        trigger: its value, a UInt32 that is not 0.
        texts: what was written before it.
        event_ids: where the id of an event that names none comes from.
        names: what the texts are called on this side, for the refusal.
        received_at: when it came, aware UTC.
        received_monotonic: the same on the clock that never jumps, s.
        source: name of the adapter.
    """
    usable: dict[str, str] = {}
    unusable: list[str] = []
    for field, kind in _KINDS.items():
        text: str = getattr(texts, field)
        if not text:
            continue
        try:
            usable[field] = kind.validate_python(text)
        except ValidationError as exc:
            unusable.append(f"{getattr(names, field)}: {exc.errors()[0]['msg']}")
    uri, event_id = usable.get("image_uri"), _name(texts.event_id) or event_ids.next(trigger)
    return Arrival(
        event=ImageEvent(
            event_id=event_id,
            part_id=usable.get("part_id"),
            trigger_id=trigger,
            replayed=event_id.startswith(REPLAY_PREFIX),  # a trigger has no other way to say so
        ),
        image=ImageRef(uri=uri) if uri else None,
        received_at=received_at,
        received_monotonic=received_monotonic,
        source=source,
        refusal=Refusal(Reason.FRAME_REFUSED, "; ".join(unusable)) if unusable else None,
    )


def _name(text: str) -> str | None:
    try:
        return _NAME.validate_python(text)
    except ValidationError:
        return None
