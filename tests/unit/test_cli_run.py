"""The end of `cangate run`, its service a stand-in: what it is built of takes seconds to import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

_HANGING = """
import asyncio, sys, time
from types import SimpleNamespace
from service.cli import run

async def hanging(stations, stop, *, on_started):
    print("serving", flush=True)
    await stop.wait()
    await asyncio.to_thread(time.sleep, 60)

sys.modules["service.bootstrap"] = SimpleNamespace(serve_all=hanging)
run._LONGEST_STOP_S = 0.3
run.run(None)
"""

_FAILING = """
import logging, sys
from types import SimpleNamespace
from service.cli.main import main
from service.errors import UsageError

async def failing(stations, stop, *, on_started):
    logging.warning("a certificate that others may read")
    if not %(fails)s:
        on_started()
        logging.warning("started")
    else:
        raise UsageError("http.port: taken")

sys.modules["service.bootstrap"] = SimpleNamespace(serve_all=failing)
sys.argv = ["cangate", "run"]
sys.exit(main())
"""


def test_a_service_ends_although_a_disk_hangs() -> None:
    """Nobody can end a thread that waits for a disk; the process does not wait for it longer than it may."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CANGATE_")}
    with subprocess.Popen([sys.executable, "-c", _HANGING], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 1


@pytest.mark.parametrize("fails", [True, False])
def test_a_start_that_fails_has_one_line_to_say(fails: bool) -> None:
    """What was worth a warning comes out where the service runs, and not before the reason why it does not."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CANGATE_")}
    ended = subprocess.run(
        [sys.executable, "-c", _FAILING % {"fails": fails}],
        capture_output=True,
        env=environment,
        check=False,
        text=True,
    )
    lines = ended.stderr.splitlines()
    if fails:
        assert (ended.returncode, lines) == (2, ["cangate: http.port: taken"])
    else:
        assert ended.returncode == 0
        assert ["that others may read" in line or "started" in line for line in lines] == [True, True]
