"""Events as rows of the table, and back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
import structlog
from pydantic import ValidationError

from adapters.journal.schema import events, key_of
from adapters.journal.unstored import RecoveredVerdict
from schemas.messages import ImageEvent, ImageRef, Verdict
from service.errors import JournalDamaged, JournalError
from service.ports import Answer, Arrival, Clock, JournalEntry

log = structlog.get_logger(__name__)


class EventRows:
    """Writes and reads the rows of one station.

    Args:
        station: whose events these are.
        clock: says which monotonic clock a deadline is of.
    """

    def __init__(self, station: str, clock: Clock) -> None:
        self._station = station
        self._clock = clock

    def row(self, arrival: Arrival, deadline_at: datetime) -> dict[str, Any]:
        """Return the row of an event as it is when the event comes."""
        event = arrival.event
        return {
            "station": self._station,
            "event_id": key_of(event.event_id),
            "part_id": event.part_id,
            "source": arrival.source,
            "event": event.model_dump_json(include=set(ImageEvent.model_fields)).encode(),
            "image": None if arrival.image is None else arrival.image.to_json(),
            "received_at": arrival.received_at,
            "deadline_at": deadline_at,
            "deadline_monotonic": arrival.received_monotonic + (deadline_at - arrival.received_at).total_seconds(),
            "epoch": self._clock.epoch,
            "correlation_data": arrival.correlation_data,
        }

    def row_of_answered(self, answer: Answer, arrival: Arrival) -> dict[str, Any]:
        """Return the same where only the answer tells when it was due."""
        left = timedelta(seconds=answer.deadline_monotonic - arrival.received_monotonic)
        return self.row(arrival, arrival.received_at + left)

    def entry(self, row: sa.Row[Any] | SimpleNamespace) -> JournalEntry:
        """Return what a row tells. Raises JournalError where it is damaged."""
        try:
            event = ImageEvent.model_validate_json(row.event)
            image = None if row.image is None else ImageRef.model_validate_json(row.image)
            if row.verdict is not None:
                Verdict.model_validate_json(row.verdict)
        except ValidationError as exc:
            kind = JournalError if row.verdict is None else JournalDamaged
            raise kind(f"the record of an event is damaged: {exc.errors()[0]['msg']}") from exc
        return JournalEntry(
            event=event,
            image=image,
            source=row.source,
            received_at=row.received_at,
            deadline_at=row.deadline_at,
            deadline_monotonic=row.deadline_monotonic if row.epoch == self._clock.epoch else None,
            seq=row.seq,
            verdict_json=row.verdict,
            correlation_data=row.correlation_data,
        )

    def entries(self, rows: Iterable[sa.Row[Any]]) -> list[JournalEntry]:
        """Return what rows tell; damaged ones are passed over."""
        entries = []
        for row in rows:
            try:
                entries.append(self.entry(row))
            except JournalError as exc:
                log.error("journal_row_unreadable", event_id=row.event_id, seq=row.seq, error=str(exc))
        return entries

    def recovered_entry(self, recovered: RecoveredVerdict) -> JournalEntry:
        """Return what the last run left. Raises JournalError where it is damaged."""
        # a row in the redo log may lack what came with a later version
        row = {**dict.fromkeys(events.c.keys()), **recovered.row}
        return self.entry(SimpleNamespace(**row | {"seq": recovered.seq, "verdict": recovered.verdict_json}))
