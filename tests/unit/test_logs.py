"""The log, whatever becomes of whoever reads standard error: each in a process of its own, where it is set up."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TextIO

_BEGIN = """
import asyncio, logging, os, sys
import structlog
from schemas.settings import LogSettings
from service.logs import configure_logging

configure_logging(LogSettings(format="json"))
log = structlog.get_logger("test")
"""

_FLOOD = """
async def flood():
    for number in range(20_000):
        log.info("part", number=number, rest="x" * 200)
    print("done", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    log.info("after")

asyncio.run(flood())
"""
"""Six megabytes of lines on an event loop: much more than a pipe and what may wait for it can hold."""

_CRASH = """
for number in range(500):
    log.info("part", number=number)
raise ZeroDivisionError("a defect")
"""

_NO_ROOM = """
pipe = os.dup(2)
os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
for number in range(3):
    log.info("part", number=number)
logging.getLogger().handlers[0].flush()
os.dup2(pipe, 2)
log.info("after")
"""


_HELD = """
configure_logging(LogSettings(format="json"), held_s=0.3)
log.info("held")
sys.stdin.readline()
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A process, and the end of the pipe that it has for standard error: nothing reads it by itself."""

    process: asyncio.subprocess.Process
    stderr: TextIO

    async def said(self) -> list[dict[str, Any]]:
        """Return the lines of the log, all up to the end of the process."""
        return [json.loads(line) for line in await asyncio.to_thread(self.stderr.readlines)]


@asynccontextmanager
async def running(script: str) -> AsyncIterator[Run]:
    """Run a script after logging was set up. Raises TimeoutError where the process stands still."""
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _BEGIN + script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=write,
    )
    os.close(write)
    pipe = os.fdopen(read)
    try:
        async with asyncio.timeout(60):
            yield Run(process, pipe)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        pipe.close()


async def test_log_that_nobody_reads_holds_up_nothing() -> None:
    """The event loop goes on; what found no room is told in its place once the pipe flows, and the end comes out."""
    async with running(_FLOOD) as run:
        assert run.process.stdout is not None
        assert await run.process.stdout.readline() == b"done\n"
        due = lost = 0
        while due < 20_000:
            line = json.loads(await asyncio.to_thread(run.stderr.readline))
            if line["event"] == "part":
                assert line["number"] == due
                due += 1
            else:
                count = int(line["event"].removeprefix("log_lines_lost lines="))
                due, lost = due + count, lost + count
        assert lost > 0
        await run.process.communicate(b"\n")
        assert [line["event"] for line in await run.said()] == ["after"]
        assert run.process.returncode == 0


async def test_log_that_is_never_read_does_not_keep_the_process() -> None:
    """Even the end waits with bounded patience only."""
    async with running(_FLOOD) as run:
        await run.process.communicate(b"\n")
        assert run.process.returncode == 0


async def test_log_ends_with_the_crash_that_ended_the_process() -> None:
    """All that was logged before is out first, in order, and then why it ended."""
    async with running(_CRASH) as run:
        lines = await run.said()
        assert await run.process.wait() == 1
    assert [line.get("number") for line in lines] == [*range(500), None]
    assert (lines[-1]["event"], lines[-1]["level"]) == ("crashed", "critical")
    assert lines[-1]["exception"].startswith("Traceback (most recent call last):")
    assert lines[-1]["exception"].endswith("ZeroDivisionError: a defect")


async def test_log_counts_what_could_not_be_written() -> None:
    """A log on a full disk: told with the first line that finds room again."""
    async with running(_NO_ROOM) as run:
        lines = await run.said()
    assert [line["event"] for line in lines] == ["after", "log_lines_lost lines=3"]


def test_log_without_standard_error_goes_nowhere() -> None:
    """A process may be started with it closed; no file that is opened then may get the lines."""
    script = f"{_BEGIN}\nfile = open(sys.argv[1], 'w')\nlog.info('part')\n"
    run = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" /dev/stdout 2>&-', sys.executable, script], capture_output=True, check=True
    )
    assert run.stdout == b""


async def test_log_that_is_held_comes_out_although_the_process_stands_still() -> None:
    """A start that hangs is something to look at, whatever it hangs in."""
    async with running(_HELD) as run:
        assert json.loads(await asyncio.to_thread(run.stderr.readline))["event"] == "held"
        assert run.process.returncode is None
