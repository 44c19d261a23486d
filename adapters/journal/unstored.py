"""Verdicts that were said and are not in the database yet."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel

from adapters.journal.engine import database_says
from adapters.journal.redo import LARGEST_RECORD, RedoLog
from adapters.journal.schema import key_of
from schemas.messages import Verdict
from service.files import real_path

log = structlog.get_logger(__name__)

_LENGTH = struct.Struct("<I")  # of the event, before it and the verdict in a record
_NOTED = 10_000

Row = Mapping[str, Any]
"""Of the table of events, as it is when the event comes."""


class _Event(BaseModel):
    """An event as it lies in the redo log: its row without the station."""

    event_id: str
    part_id: str | None
    source: str
    event: bytes
    image: bytes | None
    received_at: datetime
    deadline_at: datetime
    deadline_monotonic: float
    epoch: str
    # bytes that are no text, unlike the JSON above: in base64
    correlation_data: str | None


@dataclass(frozen=True, slots=True)
class UnstoredVerdict:
    """A verdict that was said and is not stored yet. event_id: the key that stands for it."""

    event_id: str
    seq: int
    part_id: str | None
    decision: str
    verdict_json: bytes


@dataclass(frozen=True, slots=True)
class RecoveredVerdict(UnstoredVerdict):
    """What a run that crashed had said and not stored. row: of the event, without the station."""

    row: Row


class UnstoredVerdicts:
    """What was said, kept in a redo log until it is stored.

    Args:
        memory: folder of the log.
        database: which one, without who logs in to it.
        path: where files of the journal lie.
        station: whose verdicts these are. The same three name the same log in every run, and no other one.
    """

    def __init__(self, memory: Path, *, database: str, path: Path, station: str) -> None:
        name = hashlib.sha256(f"{database}|{real_path(path)}|{station}".encode()).hexdigest()[:24]
        self._log = RedoLog(memory, f"cangate-{name}.redo")
        self._recovered: dict[str, RecoveredVerdict] = {}
        self._kept: dict[int, UnstoredVerdict] = {}  # of this run, by seq: as many as the log has room for
        self._noted: dict[str, bytes] = {}

    @property
    def recovered(self) -> Sequence[RecoveredVerdict]:
        """What the last run left and is not stored yet, in the order of seq."""
        return sorted(self._recovered.values(), key=lambda each: each.seq)

    @property
    def verdicts(self) -> Sequence[UnstoredVerdict]:
        """What the last run and this one said and is not stored yet."""
        return [*self._recovered.values(), *self._kept.values()]

    def find(self, event_id: str) -> UnstoredVerdict | None:
        """Return what was said of an event, by its key, and is not stored yet: the first, which stands."""
        return next((each for each in self.verdicts if each.event_id == event_id), None)

    def recovered_of(self, event_id: str) -> RecoveredVerdict | None:
        """Return what the last run said of an event and is not stored yet."""
        return self._recovered.get(event_id)

    def take_up(self) -> None:
        """Open the log and read what the last run left."""
        for slot, record in self._log.open():
            try:
                recovered = _read(record)
            except ValueError as exc:
                log.error("redo_record_unreadable", error=database_says(exc))
                self._log.free(slot)
            else:
                self._log.take_over(recovered.seq, slot)
                self._recovered[recovered.event_id] = recovered

    def note(self, row: Row) -> None:
        """Make an event ready for its verdict, which will be in a hurry."""
        if len(self._noted) >= _NOTED:
            del self._noted[next(iter(self._noted))]
        self._noted[row["event_id"]] = _event(row)

    def keep(self, verdict: Verdict, verdict_json: bytes, row: Callable[[], Row]) -> bool:
        """Keep a verdict; tell whether there was room. row: makes that of an event which was not made ready.

        Where its correlation data leave no room, the verdict is kept without: what a crash makes of it is the same
        verdict, though not as an answer to that request.
        """
        key = key_of(verdict.event_id)
        event = self._noted.pop(key, None) or _event(row())
        record = _record(event, verdict_json)
        if len(record) > LARGEST_RECORD:
            record = _record(_event({**row(), "correlation_data": None}), verdict_json)
        is_kept = self._log.put(verdict.seq, record)
        if is_kept:
            self._kept[verdict.seq] = UnstoredVerdict(
                key, verdict.seq, verdict.part_id, verdict.decision.value, verdict_json
            )
        return is_kept

    def stored(self, seq: int) -> None:
        """Forget a verdict: the database has it, or never will."""
        self._kept.pop(seq, None)
        self._log.drop(seq)

    def settled(self, recovered: RecoveredVerdict) -> None:
        """Forget what the last run left: the database has it, or never will."""
        self._recovered.pop(recovered.event_id, None)
        self._log.drop(recovered.seq)

    def close(self) -> None:
        """Close the log; one that holds nothing is removed."""
        self._log.close()


def _event(row: Row) -> bytes:
    asked: bytes | None = row["correlation_data"]
    in_text = None if asked is None else base64.b64encode(asked).decode()
    return _Event(**{**row, "correlation_data": in_text}).model_dump_json().encode()


def _record(event: bytes, verdict_json: bytes) -> bytes:
    return _LENGTH.pack(len(event)) + event + verdict_json


def _read(record: bytes) -> RecoveredVerdict:
    """Read a record of the log. Raises ValueError where it is none."""
    event, verdict_json = record[_LENGTH.size :], b""
    if len(record) >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(record)
        event, verdict_json = event[:length], event[length:]
    verdict, row = Verdict.model_validate_json(verdict_json), _Event.model_validate_json(event).model_dump()
    if row["correlation_data"] is not None:
        row["correlation_data"] = base64.b64decode(row["correlation_data"])
    return RecoveredVerdict(row["event_id"], verdict.seq, row["part_id"], verdict.decision.value, verdict_json, row)
