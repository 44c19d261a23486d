"""Pages of verdicts: from the database, and of what was said and is not stored yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from adapters.journal.schema import events
from adapters.journal.unstored import UnstoredVerdict
from service.ports import VerdictQuery


def select_page(station: str, query: VerdictQuery) -> sa.Select[tuple[int, bytes]]:
    """Return the statement for seq and bytes of the verdicts that a query wants, newest first."""
    statement = sa.select(events.c.seq, events.c.verdict).where(events.c.station == station, events.c.seq.is_not(None))
    if query.before is not None:
        statement = statement.where(events.c.seq < query.before)
    decision: sa.ColumnElement[str] = events.c.decision
    if query.part_id is not None:
        statement = statement.where(events.c.part_id == query.part_id)
        decision = decision + ""  # no column of an index: a part has fewer verdicts than a decision
    if query.decision is not None:
        statement = statement.where(decision == query.decision.value)
    return statement.order_by(events.c.seq.desc()).limit(query.limit)


def merged(
    stored: Iterable[sa.Row[tuple[int, bytes]]], unstored: Iterable[UnstoredVerdict], query: VerdictQuery
) -> Sequence[bytes]:
    """Return the bytes of a page, newest first; what was stored meanwhile is in both."""
    by_seq = {each.seq: each.verdict_json for each in unstored if _is_wanted(each, query)}
    by_seq |= {row.seq: row.verdict for row in stored}
    return [by_seq[seq] for seq in sorted(by_seq, reverse=True)[: query.limit]]


def _is_wanted(each: UnstoredVerdict, query: VerdictQuery) -> bool:
    """Tell what `select_page` asks the database."""
    return (
        (query.before is None or each.seq < query.before)
        and (query.part_id is None or each.part_id == query.part_id)
        and (query.decision is None or each.decision == query.decision.value)
    )
