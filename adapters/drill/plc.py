"""A PLC with an OPC UA server of its own for drills: a process that can be killed, and tells what it was told.

    python -m adapters.drill.plc PORT STATION

It prints each result when its sequence is there, as JSON: trigger id, reject, time (`time.monotonic`, which on Linux is
one clock for all processes).
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable

from adapters.simulation.broker import LOOPBACK, free_port
from adapters.simulation.plc_server import PlcServer, node_addresses
from schemas.messages import Gate

_START_S = 60.0


class DrilledPlc:
    """The PLC's process.

    Args:
        station: whose nodes it has.

    on_result: told trigger id, gate and time (`time.monotonic`) of each result that the PLC sees.
    """

    def __init__(self, station: str) -> None:
        self.port = free_port()
        self.on_result: Callable[[int, Gate, float], None] = lambda _trigger_id, _gate, _at: None
        self._station = station
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def section(self) -> dict[str, str]:
        """Return `[opcua.client]` for it."""
        return {"endpoint": f"opc.tcp://{LOOPBACK}:{self.port}/plc/", **node_addresses(self._station)}

    async def start(self) -> None:
        """Start it, and return when it listens."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "adapters.drill.plc", str(self.port), self._station),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._listening = asyncio.create_task(self._listen(self._process.stdout), name="PLC")
        async with asyncio.timeout(_START_S):
            while self._process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection(LOOPBACK, self.port)
                except OSError:
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    return
        raise RuntimeError(f"the PLC ended at once, with exit status {self._process.returncode}")

    async def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it; what it has said by then is taken down."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(how)
            await self._process.wait()
        if self._listening is not None:
            await self._listening

    async def kill(self) -> None:
        """SIGKILL, and a new process on the same port."""
        await self.stop()
        await self.start()

    async def _listen(self, said: asyncio.StreamReader) -> None:
        # a line that a kill has cut short is nothing
        while (line := await said.readline()).endswith(b"\n"):
            trigger_id, reject, at = json.loads(line)
            self.on_result(trigger_id, Gate.REJECT if reject else Gate.PASS, at)


async def _serve(port: int, station: str) -> None:
    async with PlcServer(port, stations=(station,)) as plc:
        while True:
            result = await plc.result(station)
            sys.stdout.write(json.dumps([result.trigger_id, result.reject, time.monotonic()]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2]))
