"""The machine's clocks."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """Wall time from the system, monotonic time from the same source as the event loop's timers."""

    def __init__(self) -> None:
        try:
            self._epoch = _BOOT_ID.read_text(encoding="ascii").strip()
        except OSError:  # not Linux: the monotonic clock is compared within this process only
            self._epoch = secrets.token_hex(16)

    def now(self) -> datetime:
        """Return the wall time, aware, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds on a clock that never jumps."""
        return time.monotonic()

    @property
    def epoch(self) -> str:
        """Name of the monotonic clock's zero: the machine's start."""
        return self._epoch
