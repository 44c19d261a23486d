"""How a command that is told to stop ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

INTERRUPTED, TERMINATED, HUNG_UP = 130, 143, 129
"""Exit status after Ctrl-C, SIGTERM and SIGHUP, as shells have it: 128 and the number of the signal."""

_WORDS = {INTERRUPTED: "interrupted", TERMINATED: "terminated", HUNG_UP: "hung up"}


@dataclass(slots=True)
class Ending:
    """What is known of how the command ends."""

    status: int = INTERRUPTED

    @property
    def word(self) -> str:
        """Return what happened to the command."""
        return _WORDS[self.status]


@contextmanager
def terminated_like_interrupted() -> Iterator[Ending]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, so that what a command has begun to write is put away.

    Commands that run until they are told to stop take Ctrl-C and SIGTERM over; SIGHUP does there what Ctrl-C does. It
    stays ignored where it is, as below nohup.
    """
    ending = Ending()

    def end(number: int, frame: FrameType | None) -> None:
        ending.status = 128 + number
        if number == signal.SIGHUP:
            # a shell passes on what the terminal tells as well, and a second interrupt would end the tidying up
            signal.signal(number, signal.SIG_IGN)
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)  # not a call: an event loop hears of the signal only
        else:  # in the background of a shell Ctrl-C is ignored, and this signal is not
            signal.default_int_handler(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield ending  # only the main thread may say what signals do
        return
    ours = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        ours.append(signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in ours}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
