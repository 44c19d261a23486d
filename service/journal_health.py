"""Whether the journal works, as seen by those who use it on the way of a part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class JournalHealth:
    """fault: why the last call failed, in one line; None once a call has succeeded again, whoever made it."""

    fault: str | None = None
