"""Structured log lines, ours and those of the libraries alike."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final

import structlog

from schemas.settings import LogSettings
from service.text import without_controls

_LOGGED_MAX = 500
"""Characters of one text in a log line: an event that is refused may have a name of 64 KiB."""

_WAITING_MAX: Final = 1 << 20
"""Characters that may wait for standard error: some thousand lines."""

LONGEST_SILENCE_S: Final = 15.0
"""What is worth a warning at a start is held for so long: where it is refused, one line says why. What takes longer is
something to look at."""

_PATIENCE_S: Final = 1.0
"""How long the end of the process waits for lines that are not out yet."""

log = structlog.get_logger(__name__)


class StandardError(logging.Handler):
    """Writes lines to standard error on a thread of its own: whoever logs never waits for whoever reads.

    A line that finds no room, or cannot be written, is counted; one line says how many were lost, in their place, as
    soon as there is a way out again.

    held_s: so long, at most, lines wait for `let_out`.
    """

    def __init__(self, *, held_s: float = 0.0) -> None:
        super().__init__()
        self._held_until = time.monotonic() + held_s
        # not its stream: a write that hangs would hold the lock that Python wants at its end
        stream = sys.__stderr__
        self.descriptor = os.open(os.devnull, os.O_WRONLY) if stream is None else stream.fileno()
        self._changed = threading.Condition()
        self._waiting: list[str] = []
        self._characters = 0
        self._lost = 0
        self._writing = False
        self._closing = False
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line, or count it where there is no room. Never blocks."""
        try:
            line = f"{self.format(record)}\n"
        except Exception:  # noqa: BLE001 - as handlers do: a line that cannot be made harms nobody else
            self.handleError(record)
            return
        with self._changed:
            if self._waiting and self._characters + len(line) > _WAITING_MAX:
                self._lost += line.count("\n")
                self._characters = _WAITING_MAX  # nor has a shorter one: what is lost lies together
                return
            self._waiting.append(line)
            self._characters += len(line)
            self._changed.notify_all()

    def let_out(self) -> None:
        """Write what was held, and all that follows."""
        with self._changed:
            self._held_until = 0.0
            self._changed.notify_all()

    def forget_held(self) -> None:
        """Forget what is held: one line that says more follows."""
        with self._changed:
            if self._held_for_s() > 0:
                self._waiting, self._characters = [], 0

    def flush(self) -> None:
        """Wait until every line is out, with patience but not for ever; `logging` asks for it when Python ends."""
        self.let_out()
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._writing), _PATIENCE_S)

    def close(self) -> None:
        """Let the thread end when it has written what waits."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        super().close()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._closing and (not self._waiting or self._held_for_s() > 0):
                    self._changed.wait(self._held_for_s() if self._waiting else None)
                if not self._waiting:
                    return
                text, lost = "".join(self._waiting), self._lost
                self._waiting, self._lost, self._characters, self._writing = [], 0, 0, True
            # together: whoever gives the interpreter up after each line hardly gets it back from a busy one
            lost_now = self._write(text)
            if lost and self._write(f"{self.format(_lines_lost(lost))}\n"):
                lost_now += lost
            with self._changed:
                self._lost += lost_now

    def _held_for_s(self) -> float:
        return self._held_until - time.monotonic()

    def _write(self, text: str) -> int:
        """Return how many lines could not be written."""
        left = memoryview(text.encode(errors="backslashreplace"))
        try:
            while left:
                left = left[os.write(self.descriptor, left) :]
        except OSError:
            return bytes(left).count(b"\n")
        return 0


def _lines_lost(count: int) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.ERROR, __file__, 0, "log_lines_lost lines=%d", (count,), None)


def _log_crash(kind: type[BaseException], exc: BaseException, traceback: TracebackType | None) -> None:
    """Log what ends the process, behind the lines that came before it; written directly it could hang like them."""
    log.critical("crashed", exc_info=(kind, exc, traceback))


def _readable(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut long texts, and escape what a terminal would obey: the name of a refused event may hold anything."""
    for key, value in line.items():
        if not isinstance(value, str) or (len(value) <= _LOGGED_MAX and value.isprintable()):
            continue
        if key not in ("exception", "stack"):
            cut = value if len(value) <= _LOGGED_MAX else f"{value[:_LOGGED_MAX]}... ({len(value)} characters)"
            line[key] = without_controls(cut)
    return line


def configure_logging(settings: LogSettings, *, held_s: float = 0.0) -> StandardError:
    """Send structured log lines to standard error, ours, those of the libraries and a crash alike.

    held_s: so long no line is written before the returned handler is told to let them out, or Python ends.
    """
    handler = StandardError(held_s=held_s)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _readable,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        # plain: the other formatter prints the local variables of each frame, and some of them are passwords
        else structlog.dev.ConsoleRenderer(
            colors=os.isatty(handler.descriptor), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_crash
    # some would say every header of a request at level debug, the login among them
    libraries = ("aiosqlite", "amqtt", "asyncua", "engineio", "httpcore", "httpx", "PIL", "socketio", "transitions")
    for talkative in (*libraries, "uvicorn", "websockets"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    return handler
