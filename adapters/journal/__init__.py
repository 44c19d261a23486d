"""The journal: every accepted event and every verdict with its exact bytes, in SQLite or PostgreSQL."""

from adapters.journal.journal import SqlJournal

__all__ = ["SqlJournal"]
