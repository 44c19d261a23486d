"""Tables of the journal, their version, and the way from an older version to this one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.errors import UsageError


class UtcDateTime(sa.TypeDecorator[datetime]):
    """Aware UTC in Python; SQLite keeps no offset, PostgreSQL returns the one of its session."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 - theirs
        """Return what is stored."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 - theirs
        """Return what was stored."""
        if value is None or value.tzinfo is None:
            return None if value is None else value.replace(tzinfo=UTC)
        return value.astimezone(UTC)


_KEY_MAX = 256
_DIGESTED = "\x01"
"""Begins the key of an event id that is none itself: no valid id begins with it, and one that does is digested too."""


def key_of(event_id: str) -> str:
    """Return what stands for an event id in the column `event_id`: the id itself, where it is of a usual length.

    An event that is refused may have a name of any length, and an index of PostgreSQL holds 2.7 kB of a row at most.
    """
    if len(event_id) <= _KEY_MAX and not event_id.startswith(_DIGESTED):
        return event_id
    return f"{_DIGESTED}sha256:{hashlib.sha256(event_id.encode()).hexdigest()}"


metadata = sa.MetaData()

events = sa.Table(
    "events",
    metadata,
    sa.Column("station", sa.String, primary_key=True),
    sa.Column("event_id", sa.String, primary_key=True),
    sa.Column("part_id", sa.String),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("event", sa.LargeBinary, nullable=False),
    sa.Column("image", sa.LargeBinary),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("deadline_at", UtcDateTime, nullable=False),
    # filled when the event is answered
    sa.Column("seq", sa.BigInteger),
    sa.Column("decision", sa.String),
    sa.Column("verdict", sa.LargeBinary),
    sa.Column("late_verdict", sa.LargeBinary),
    # the deadline on the monotonic clock, and that clock's epoch: the wall clock may be set while the service is away
    sa.Column("deadline_monotonic", sa.Double),
    sa.Column("epoch", sa.String),
    # echoed with the verdict, also by the next run
    sa.Column("correlation_data", sa.LargeBinary),
    sa.Index("events_by_seq", "station", "seq", unique=True),
    # with seq: a page is in its order, and SQLite, which keeps no statistics, would read all events to be spared a sort
    sa.Index("events_by_part", "station", "part_id", "seq"),
    sa.Index("events_by_decision", "station", "decision", "seq"),
    sa.Index("events_by_age", "station", "received_at"),
)

sinks = sa.Table(
    "sinks",
    metadata,
    sa.Column("station", sa.String, primary_key=True),
    sa.Column("sink", sa.String, primary_key=True),
    sa.Column("confirmed_seq", sa.BigInteger, nullable=False),
)

_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True))

_STEPS: Final[dict[int, tuple[str, ...]]] = {
    2: (
        "ALTER TABLE events ADD COLUMN deadline_monotonic DOUBLE PRECISION",
        "ALTER TABLE events ADD COLUMN epoch VARCHAR",
        "CREATE INDEX events_by_age ON events (station, received_at)",
        "CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY)",
    ),
    3: ("ALTER TABLE events ADD COLUMN correlation_data {binary}",),
    4: (
        "CREATE INDEX events_by_decision ON events (station, decision, seq)",
        "DROP INDEX events_by_part",
        "CREATE INDEX events_by_part ON events (station, part_id, seq)",
    ),
}
"""What each version added to the one before it. Version 1 had no table that names it. {binary}: BLOB or BYTEA."""

VERSION: Final = max(_STEPS)


def upgrade(connection: Connection, migrating: Callable[[Connection], AbstractContextManager[None]]) -> None:
    """Bring the tables to this version, step by step; call inside a transaction.

    Args:
        connection: where the tables lie.
        migrating: entered where there is something to do; the version is looked at once more within.

    Raises:
        UsageError: a newer version of the software has written them.
    """
    if _found(connection) == VERSION:
        return
    with migrating(connection):
        found = _found(connection)
        binary = sa.LargeBinary().compile(connection.dialect)
        if found == 0:
            metadata.create_all(connection)
        for step in range(found + 1, VERSION + 1) if found else ():
            for statement in _STEPS[step]:
                connection.execute(sa.text(statement.format(binary=binary)))
        connection.execute(sa.delete(_version))
        connection.execute(sa.insert(_version).values(version=VERSION))


def _found(connection: Connection) -> int:
    names = sa.inspect(connection).get_table_names()
    if _version.name in names:
        found = connection.execute(sa.select(sa.func.max(_version.c.version))).scalar() or 0
    else:
        found = 1 if events.name in names else 0
    if found > VERSION:
        raise UsageError(f"journal.url: written by a newer version (schema {found}, this one knows {VERSION})")
    return found
