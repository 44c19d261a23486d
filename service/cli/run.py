"""`cangate run`: the service."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import structlog
import typer

from schemas.settings import Settings
from service.cli.common import load_settings
from service.logs import configure_logging

log = structlog.get_logger(__name__)

_LONGEST_STOP_S = 9.0
"""A service is to end within this time, whatever hangs: systemd kills it after 10 s (deploy/cangate.service)."""


def run(
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            "-c",
            help="Configuration file (TOML); without it the defaults hold. Once for each station of this process.",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Run the inspection service until it is told to stop (Ctrl-C or SIGTERM).

    One process a station is the rule: then no station waits for another. With several files one process runs several
    stations, and those whose opcua.client names the same PLC and login share one session there.

    Example: cangate run -c config.toml
    """
    asyncio.run(_serve_until_signal([load_settings(path) for path in config] if config else [load_settings(None)]))


async def _serve_until_signal(stations: Sequence[Settings]) -> None:
    # seconds that a mistake must not wait for
    from service.bootstrap import serve_all  # noqa: PLC0415

    configure_logging(stations[0].log)
    stop = asyncio.Event()
    # a thread that hangs in a disk or driver cannot be ended, and Python would wait for it; the log may hang, too
    last_resort = [
        threading.Timer(_LONGEST_STOP_S, log.error, ("stop_forced",), {"after_s": _LONGEST_STOP_S}),
        threading.Timer(_LONGEST_STOP_S + 0.3, os._exit, (1,)),
    ]

    def end() -> None:
        stop.set()
        for timer in last_resort:
            if not timer.is_alive() and not timer.finished.is_set():
                timer.daemon = True
                timer.start()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    await serve_all(stations, stop)
