"""Structured log lines, ours and those of the libraries alike."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from schemas.settings import LogSettings

_LOGGED_MAX = 500
"""Characters of one text in a log line: an event that is refused may have a name of 64 KiB."""


def _readable(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut long texts, and escape what a terminal would obey: the name of a refused event may hold anything."""
    for key, value in line.items():
        if not isinstance(value, str) or (len(value) <= _LOGGED_MAX and value.isprintable()):
            continue
        if key not in ("exception", "stack"):
            cut = value if len(value) <= _LOGGED_MAX else f"{value[:_LOGGED_MAX]}... ({len(value)} characters)"
            line[key] = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in cut)
    return line


def configure_logging(settings: LogSettings) -> None:
    """Send structured log lines to standard error, ours and those of the libraries alike."""
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
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
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
    handler = logging.StreamHandler(sys.stderr)
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
    # some would say every header of a request at level debug, the login among them
    libraries = ("aiosqlite", "amqtt", "asyncua", "engineio", "httpcore", "httpx", "PIL", "socketio", "transitions")
    for talkative in (*libraries, "uvicorn", "websockets"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
