"""The service as a process of its own, with a private broker and a small model."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from adapters.simulation.broker import free_port
from tests.support.waiting import eventually

STATION = "line1"


@dataclass(slots=True)
class ServiceProcess:
    """`cangate run` in a folder: frames below `frames/`, everything it keeps beside them.

    beside: other stations that the same process runs; theirs is only the configuration.
    """

    folder: Path
    broker_port: int
    model: str
    store: Path
    extra: str = ""
    images: str = ""
    opcua_port: int = 0
    http_port: int = 0
    expect: int = 200
    journal_url: str = ""
    station: str = STATION
    beside: Sequence[ServiceProcess] = ()
    process: asyncio.subprocess.Process | None = None

    @property
    def frames(self) -> Path:
        return self.folder / "frames"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def endpoint(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.opcua_port}/cangate/"

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    async def __aenter__(self) -> Self:
        self.write_config()
        for station in self.beside:
            station.write_config()
        await self.start()
        return self

    def write_config(self) -> None:
        """Write the configuration, with ports that are free."""
        self.frames.mkdir(parents=True, exist_ok=True)
        self.opcua_port, self.http_port = free_port(), free_port()
        self.config.write_text(
            f"""
[station]
id = "{self.station}"
[deadline]
default_ms = 10000
[mqtt]
port = {self.broker_port}
[opcua.server]
port = {self.opcua_port}
[http]
port = {self.http_port}
[images]
roots = ["{self.frames}"]
store = "{self.folder}/images"
max_pixels = 20000000
{self.images}
[journal]
url = "{self.journal_url or f"sqlite:///{self.folder}/journal.sqlite"}"
folder = "{self.folder}"
[model]
name = "{self.model}"
store = "{self.store}"
{self.extra}
"""
        )

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop(signal.SIGTERM)

    async def start(self) -> None:
        """Start and return when `/readyz` answers `expect`."""
        configs = [text for each in (self, *self.beside) for text in ("-c", str(each.config))]
        with (self.folder / "service.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service.cli", "run", *configs, stderr=log
            )
        async with httpx.AsyncClient(base_url=self.url) as client:
            await eventually(partial(self._answers, client), timeout_s=60, every_s=0.05)

    async def stop(self, how: signal.Signals) -> int:
        """End the process; return its exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(how)
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def _answers(self, client: httpx.AsyncClient) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, self.log()
        try:
            return (await client.get("/readyz")).status_code == self.expect
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """Return what the service has logged so far."""
        return (self.folder / "service.log").read_text(errors="replace")


@asynccontextmanager
async def command(*arguments: str, env: dict[str, str] | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `cangate` with `arguments`, its output piped; it is killed where it still runs at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service.cli",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run(*arguments: object) -> tuple[int, str, str]:
    """Run `cangate` to its end; return exit status, output and complaints."""
    async with asyncio.timeout(90), command(*map(str, arguments)) as process:
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()
