"""A journal in memory that fulfils the port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from schemas.messages import Verdict
from service.errors import JournalConflict, JournalError
from service.ports import Answer, Arrival, JournalEntry, VerdictQuery


@dataclass(slots=True)
class _Row:
    entry: JournalEntry
    seq: int | None = None
    late: bytes | None = None


class MemoryJournal:
    """Keeps everything in a dict.

    failing: every call raises, as with a full disk; failing_reads: also those that read a verdict. secures: what is
    said outlives a crash, as in shared memory; said: that of it which is not stored yet, by seq. rotten: numbers whose
    records cannot be read.
    """

    def __init__(self) -> None:
        self.rows: dict[str, _Row] = {}
        self.confirmations: dict[str, int] = {}
        self.failing = False
        self.failing_reads = True
        self.secures = False
        self.said: dict[int, Answer] = {}
        self.rotten: set[int] = set()

    fault: str | None = None

    def reset_fault(self) -> None:
        self.fault = None

    @property
    def highest_seq(self) -> int:
        return max((row.seq or 0 for row in self.rows.values()), default=0)

    async def accept(self, arrival: Arrival, deadline_at: datetime) -> JournalEntry | None:
        self._check()
        known = self.rows.get(arrival.event.event_id)
        if known is not None:
            return known.entry
        self._note(arrival, deadline_at)
        return None

    def secure(self, answer: Answer, arrival: Arrival) -> bool:  # noqa: ARG002 - the port's
        if self.secures:
            self.said[answer.verdict.seq] = answer
        return self.secures

    async def store(self, answered: Sequence[tuple[Answer, Arrival]]) -> None:
        self._check()
        for answer, arrival in answered:
            self.said.pop(answer.verdict.seq, None)
            if answer.verdict.event_id not in self.rows:
                self._note(arrival, arrival.received_at)
            row = self.rows[answer.verdict.event_id]
            if row.seq is not None:
                continue  # the first verdict stands
            if any(other.seq == answer.verdict.seq for other in self.rows.values()):
                raise JournalConflict("this seq is used")
            row.entry = replace(row.entry, seq=answer.verdict.seq, verdict_json=answer.verdict_json)
            row.seq = answer.verdict.seq

    async def store_late(self, event_id: str, verdict_json: bytes) -> None:
        self._check()
        self.rows[event_id].late = verdict_json

    async def confirm(self, sink: str, seq: int) -> None:
        self._check()
        self.confirmations[sink] = seq

    async def confirmed(self, sink: str) -> int | None:
        self._check()
        return self.confirmations.get(sink)

    async def answered(self, *, after: int, limit: int) -> tuple[Sequence[JournalEntry], int | None]:
        self._check()
        rows = [row for row in self._by_seq() if row.seq is not None and row.seq > after][:limit]
        return [row.entry for row in rows if row.seq not in self.rotten], rows[-1].seq if len(rows) == limit else None

    async def unanswered(self) -> Sequence[JournalEntry]:
        self._check()
        return [row.entry for row in self.rows.values() if row.seq is None]

    async def last_seq(self) -> int:
        self._check()
        return self.highest_seq

    async def answered_ids(self, limit: int) -> Sequence[str]:
        self._check()
        return [row.entry.event.event_id for row in reversed(self._by_seq())][:limit]

    async def find(self, event_id: str) -> bytes | None:
        for answer in self.said.values():
            if answer.verdict.event_id == event_id:
                return answer.verdict_json
        if self.failing_reads:
            self._check()
        row = self.rows.get(event_id)
        return None if row is None else row.entry.verdict_json

    async def page(self, query: VerdictQuery) -> Sequence[bytes]:
        self._check()
        found = {row.seq or 0: row.entry.verdict_json for row in self._by_seq()}
        found |= {seq: answer.verdict_json for seq, answer in self.said.items()}
        texts = [text for _, text in sorted(found.items(), reverse=True) if text is not None]
        return [text for text in texts if _is_wanted(Verdict.model_validate_json(text), query)][: query.limit]

    def _note(self, arrival: Arrival, deadline_at: datetime) -> None:
        deadline = arrival.received_monotonic + (deadline_at - arrival.received_at).total_seconds()
        self.rows[arrival.event.event_id] = _Row(
            JournalEntry(
                arrival.event,
                arrival.image,
                arrival.source,
                arrival.received_at,
                deadline_at,
                deadline,
                seq=None,
                verdict_json=None,
                correlation_data=arrival.correlation_data,
            )
        )

    def _by_seq(self) -> list[_Row]:
        answered = [row for row in self.rows.values() if row.seq is not None]
        return sorted(answered, key=lambda row: row.seq or 0)

    def _check(self) -> None:
        if self.failing:
            raise JournalError("disk full")


def _is_wanted(verdict: Verdict, query: VerdictQuery) -> bool:
    is_before = query.before is None or verdict.seq < query.before
    return is_before and query.decision in (None, verdict.decision) and query.part_id in (None, verdict.part_id)


class SlowJournal(MemoryJournal):
    """Stores nothing until `disk` works."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = asyncio.Event()

    async def store(self, answered: Sequence[tuple[Answer, Arrival]]) -> None:
        await self.disk.wait()
        await super().store(answered)
