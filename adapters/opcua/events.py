"""A PLC's trigger as an image-ready event, whichever side has the OPC UA server."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter, ValidationError

from schemas.messages import REPLAY_PREFIX, EventId, EventName, ImageEvent, ImageRef, ImageUri, PartId, Reason
from service.ports import Arrival, Refusal

_KINDS: Final[dict[str, TypeAdapter[str]]] = {
    "event_id": TypeAdapter(EventId),
    "part_id": TypeAdapter(PartId),
    "image_uri": TypeAdapter(ImageUri),
}
_NAME: Final[TypeAdapter[str]] = TypeAdapter(EventName)


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
