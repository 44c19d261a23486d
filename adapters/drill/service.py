"""The service of a drill: a process of its own that can be killed, frozen and starved of disk."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import tomli_w

from adapters.drill.model import DrillModel
from adapters.simulation.broker import LOOPBACK, free_port
from schemas.settings import ENVIRONMENT_PREFIX
from service.errors import CangateError

STATION = "drill"
_START_S = 120.0
_STOP_S = 20.0


class ServiceDidNotStart(CangateError):
    """The service ended, or was not ready in time; the text holds what it said last."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds: resident memory in MiB, threads, open files and sockets."""

    memory_mib: float
    threads: int
    handles: int


class DrilledService:
    """`cangate run` on a folder of its own.

    Args:
        folder: for everything it keeps.
        broker_port: of the MQTT broker.
        model: what it judges with.
        sections: further sections of its configuration; they win over those of the drill.
    """

    def __init__(
        self, folder: Path, broker_port: int, model: DrillModel, sections: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.folder = folder
        self.journal = folder / "journal.sqlite"
        self.opcua_port, self.http_port = free_port(), free_port()
        self._config = folder / "config.toml"
        self._log = folder / "service.log"
        self._process: asyncio.subprocess.Process | None = None
        self.command: tuple[str, ...] = (sys.executable, "-m", "service.cli", "run", "-c")
        """What is run, with the configuration file as its last argument."""
        ours: dict[str, dict[str, Any]] = {
            "station": {"id": STATION},
            "mqtt": {"port": broker_port},
            "opcua": {"server": {"port": self.opcua_port}},
            "http": {"port": self.http_port},
            "images": {"roots": [str(model.frames)], "store": str(folder / "images"), "max_pixels": 20_000_000},
            "journal": {"url": f"sqlite:///{self.journal}"},
            "model": {"name": model.name, "store": str(model.store)},
            "log": {"level": "warning"},
        }
        for name, section in sections.items():
            ours[name] = ours.get(name, {}) | dict(section)
        folder.mkdir(parents=True, exist_ok=True)
        self._config.write_text(tomli_w.dumps(ours))

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:  # also cancelled: nobody else would end the process
            await self.stop(signal.SIGKILL)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.thaw()
        await self.stop(signal.SIGTERM)

    @property
    def url(self) -> str:
        """Where its HTTP API is."""
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def endpoint(self) -> str:
        """Where its OPC UA server is."""
        return f"opc.tcp://{LOOPBACK}:{self.opcua_port}/cangate/"

    @property
    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start, and return when it says that it is ready. Raises ServiceDidNotStart."""
        # settings in the environment are the plant's
        own = {name: value for name, value in os.environ.items() if not name.upper().startswith(ENVIRONMENT_PREFIX)}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*self.command, str(self._config), stderr=log, env=own)
        await self.ready()

    async def ready(self) -> None:
        """Return when everything that it needs is there. Raises ServiceDidNotStart."""
        try:
            async with asyncio.timeout(_START_S), httpx.AsyncClient(trust_env=False) as client:
                while self.alive:
                    try:
                        if (await client.get(f"{self.url}/readyz")).status_code == httpx.codes.OK:
                            return
                    except httpx.TransportError:
                        pass
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        raise ServiceDidNotStart(f"the service was not ready within {_START_S:g} s: {self.said()[-300:]}")

    async def status(self) -> dict[str, Any]:
        """Return what `/api/status` says."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            return dict((await client.get(f"{self.url}/api/status")).json())

    async def stop(self, how: signal.Signals) -> int | None:
        """End the process with a signal; return its exit status."""
        if self._process is None:
            return None
        if self._process.returncode is None:
            self._process.send_signal(how)
        try:
            async with asyncio.timeout(_STOP_S):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    def freeze(self) -> None:
        """Stop it in its tracks, as a machine that swaps does."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def limit_files(self, size: int | None) -> None:
        """Let no file grow beyond `size` bytes: what a full disk looks like to who writes. None: no limit."""
        if self._process is not None and self.alive:
            hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(
                self._process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if size is None else size, hard)
            )

    def usage(self) -> Usage:
        """Return what the process holds now."""
        assert self._process is not None
        folder = Path(f"/proc/{self._process.pid}")
        lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        return Usage(
            memory_mib=int(lines["VmRSS"].split()[0]) / 1024,
            threads=int(lines["Threads"]),
            handles=len(os.listdir(folder / "fd")),  # noqa: PTH208 - a Path for each is not needed
        )

    def said(self) -> str:
        """Return what it has logged."""
        return self._log.read_text(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.alive:
            self._process.send_signal(number)
