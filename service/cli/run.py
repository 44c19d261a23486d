"""`cangate run`: the service."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from service.cli.common import ConfigsOption, load_stations
from service.logs import LONGEST_SILENCE_S, StandardError, configure_logging

log = structlog.get_logger(__name__)

_LONGEST_STOP_S = 9.0
"""A service is to end within this time, whatever hangs: systemd kills it after 10 s (deploy/cangate.service)."""


def run(
    config: ConfigsOption = None,
) -> None:
    """Run the inspection service until it is told to stop (Ctrl-C or SIGTERM).

    One process a station is the rule: then no station waits for another. With several files one process runs several
    stations, and those whose opcua.client names the same PLC and login share one session there.

    Example: cangate run -c config.toml
    """
    stations = load_stations(config)
    # seconds that a mistake must not wait for; not in a coroutine, where a signal would wait for them
    from service.bootstrap import serve_all  # noqa: PLC0415

    lines = configure_logging(stations[0].log, held_s=LONGEST_SILENCE_S)
    asyncio.run(_until_signal(partial(serve_all, stations, on_started=lines.let_out), lines))


async def _until_signal(serve: Callable[[asyncio.Event], Awaitable[None]], lines: StandardError) -> None:
    stop = asyncio.Event()
    # a thread that hangs in a disk or driver cannot be ended, and Python would wait for it; the log may hang, too
    last_resort = [
        threading.Timer(_LONGEST_STOP_S, log.error, ("stop_forced",), {"after_s": _LONGEST_STOP_S}),
        threading.Timer(_LONGEST_STOP_S + 0.3, os._exit, (1,)),
    ]

    def end() -> None:
        lines.let_out()
        stop.set()
        for timer in last_resort:
            if not timer.is_alive() and not timer.finished.is_set():
                timer.daemon = True
                timer.start()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    await serve(stop)
