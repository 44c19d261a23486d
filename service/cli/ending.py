"""How a command that is told to stop ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143
"""Exit status after Ctrl-C and after SIGTERM, as shells have it: 128 and the number of the signal."""


@dataclass(slots=True)
class Ending:
    """What is known of how the command ends."""

    status: int = INTERRUPTED

    @property
    def word(self) -> str:
        """Return what happened to the command."""
        return "terminated" if self.status == TERMINATED else "interrupted"


@contextmanager
def terminated_like_interrupted() -> Iterator[Ending]:
    """Let SIGTERM do what Ctrl-C does, so that what a command has begun to write is put away.

    Commands that run until they are told to stop take both signals over.
    """
    ending = Ending()

    def end(number: int, frame: FrameType | None) -> None:
        ending.status = TERMINATED
        interrupt = signal.getsignal(signal.SIGINT)
        # in the background of a shell Ctrl-C is ignored, and this signal is not
        (interrupt if callable(interrupt) else signal.default_int_handler)(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield ending  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield ending
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
