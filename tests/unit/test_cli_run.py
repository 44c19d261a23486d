"""The end of `cangate run`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

_HANGING = """
import asyncio, time
from schemas.settings import Settings
from service import bootstrap
from service.cli import run

async def hanging(stations, stop):
    print("serving", flush=True)
    await stop.wait()
    await asyncio.to_thread(time.sleep, 60)

bootstrap.serve_all = hanging
run._LONGEST_STOP_S = 0.3
asyncio.run(run._serve_until_signal([Settings()]))
"""


def test_a_service_ends_although_a_disk_hangs() -> None:
    """Nobody can end a thread that waits for a disk; the process does not wait for it longer than it may."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CANGATE_")}
    with subprocess.Popen([sys.executable, "-c", _HANGING], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 1
