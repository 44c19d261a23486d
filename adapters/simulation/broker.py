"""A private MQTT broker for the demo: mosquitto where it is installed, else one inside this process."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Literal, Self

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig

from service.errors import CangateError

LOOPBACK = "127.0.0.1"

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 3.0
_PORT_ATTEMPTS = 5
_PORTS = range(20_000, 32_000)
"""Below those that Linux gives to outgoing connections, one of which could take a port before its server does."""


class BrokerDidNotStart(CangateError):
    """The private broker did not start; the text holds what it said."""


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """Where a private broker listens, and the newest MQTT version it speaks."""

    kind: Literal["mosquitto", "embedded"]
    host: str
    port: int
    protocol: Literal["5", "3.1.1"]


@asynccontextmanager
async def start_broker() -> AsyncIterator[RunningBroker]:
    """Run a private broker on a free loopback port: mosquitto where it is found, else the embedded one."""
    executable = find_mosquitto()
    if executable is not None:
        async with MosquittoBroker(executable) as mosquitto:
            yield RunningBroker("mosquitto", LOOPBACK, mosquitto.port, "5")
    else:
        async with EmbeddedBroker() as embedded:
            yield RunningBroker("embedded", LOOPBACK, embedded.port, "3.1.1")


def find_mosquitto() -> Path | None:
    """Return where mosquitto is installed; Debian keeps it where only root's PATH looks."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
    return None if found is None else Path(found)


class EmbeddedBroker:
    """amqtt on the event loop of this process: MQTT 3.1.1, no shared subscriptions, nothing on disk."""

    def __init__(self) -> None:
        self.port = 0
        self._broker: Broker | None = None

    async def __aenter__(self) -> Self:
        logging.getLogger("amqtt").setLevel(logging.ERROR)
        logging.getLogger("transitions").setLevel(logging.ERROR)
        self.port = free_port()
        config = BrokerConfig(
            listeners={"default": ListenerConfig(bind=f"{LOOPBACK}:{self.port}")},
            plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        )
        self._broker = Broker(config)
        await self._broker.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._broker is not None:
            await self._broker.shutdown()


class MosquittoBroker:
    """A mosquitto process of our own on a free loopback port, with nothing kept unless `config_lines` say so.

    Args:
        executable: where mosquitto is installed.
        config_lines: what to say beyond the listener, e.g. `max_inflight_messages 1`.
        allow_anonymous: whether anyone may connect.
    """

    def __init__(self, executable: Path, *, config_lines: Sequence[str] = (), allow_anonymous: bool = True) -> None:
        self.port = 0
        self._executable = executable
        self._config_lines = [f"allow_anonymous {str(allow_anonymous).lower()}", *config_lines]
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        for _ in range(_PORT_ATTEMPTS - 1):
            self.port = free_port()
            try:
                await self.start()
            except BrokerDidNotStart:
                continue  # another process was faster to take the port
            return self
        self.port = free_port()
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start on `port`, again where it was stopped. Raises BrokerDidNotStart with what mosquitto said."""
        with tempfile.TemporaryDirectory(prefix="cangate-mosquitto-") as folder:
            config = Path(folder) / "mosquitto.conf"
            config.write_text(
                "\n".join(
                    [
                        f"listener {self.port} {LOOPBACK}",
                        "set_tcp_nodelay true",  # else 40 ms of delayed ACK in every exchange
                        "log_dest stderr",
                        "log_type error",
                        *self._config_lines,
                        "",
                    ]
                ),
                encoding="utf-8",
            )
            # a file, not a pipe: nobody reads along, and a full pipe would stop the broker
            with (Path(folder) / "said").open("w+b") as said:
                self._process = await asyncio.create_subprocess_exec(
                    self._executable, "-c", config, stdout=asyncio.subprocess.DEVNULL, stderr=said
                )
                if not await self._listens(self._process):
                    said.seek(0)
                    words = said.read().decode(errors="replace").split()
                    raise BrokerDidNotStart(f"mosquitto did not start: {' '.join(words)}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, e.g. SIGSTOP for a broker that hangs."""
        if self._process is not None:
            self._process.send_signal(number)

    async def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End the process; SIGKILL leaves its clients without a word."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(with_signal)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _listens(self, process: asyncio.subprocess.Process) -> bool:
        """Tell whether it takes connections within the time it has; where it does not, or we are cancelled, end it."""
        listens = False
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while process.returncode is None and not listens:
                    listens = await self._takes_connections()
        except TimeoutError:
            pass
        finally:
            if not listens:
                await self.stop(signal.SIGKILL)
        return listens

    async def _takes_connections(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, self.port)
        except OSError:
            await asyncio.sleep(0.01)
            return False
        writer.close()
        await writer.wait_closed()
        return True


def free_port() -> int:
    """Return a loopback TCP port that nobody listened on a moment ago. Raises OSError: there is none."""
    for port in SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise OSError("no free port")
