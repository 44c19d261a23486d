"""Tables on standard output."""

from __future__ import annotations

from rich.table import Column, Table

from schemas.messages import Decision

COLOURS = {Decision.OK: "green", Decision.DAMAGED: "red", Decision.ERROR: "yellow"}


def result_table(*headers: str) -> Table:
    """Return a table for results: names and paths that find no room are folded, never cut short."""
    return Table(*(Column(header, overflow="fold") for header in headers), box=None)
