"""`cangate run`: the service."""

from __future__ import annotations

import asyncio
import signal

from schemas.settings import Settings
from service.cli.common import ConfigOption, load_settings


def run(config: ConfigOption = None) -> None:
    """Run the inspection service until it is told to stop (Ctrl-C or SIGTERM).

    Example: cangate run -c config.toml
    """
    asyncio.run(_serve_until_signal(load_settings(config)))


async def _serve_until_signal(settings: Settings) -> None:
    from service.bootstrap import configure_logging, serve  # noqa: PLC0415 - seconds that a mistake must not wait for

    configure_logging(settings.log)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop)
