"""`python -m benchmarks.machine_vision`: what the companion model costs, at start and for each part.

One server in this process, with and without it: CPU time to open, and of one result until the gate's tags are written
and until everything is told, without a subscriber and with one that hears every event. CPU time, median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import tempfile
import time
from pathlib import Path

from asyncua import Client, ua

from adapters.clock import SystemClock
from adapters.opcua.server.adapter import OpcUaServerAdapter
from adapters.simulation.broker import free_port
from schemas.settings import OpcUaServerSettings
from tests.support.fakes import RecordingIntake
from tests.support.opcua import NoCommands, answer, verdict


class Ear:
    """Counts events."""

    def __init__(self) -> None:
        self.heard = 0

    def event_notification(self, _event: object) -> None:
        """Take what the subscription brings."""
        self.heard += 1


async def measure(parts: int, *, machine_vision: bool, listening: bool) -> tuple[float, float, float]:
    """Return CPU milliseconds: to open, of one publish, and of one result altogether."""
    settings = OpcUaServerSettings(port=free_port(), machine_vision=machine_vision)
    with tempfile.TemporaryDirectory() as pki:
        adapter = OpcUaServerAdapter(settings, station="line1", clock=SystemClock(), pki=Path(pki))
        began = time.process_time()
        await adapter.open()
        opened = time.process_time() - began
        running = asyncio.create_task(adapter.run(RecordingIntake(), NoCommands()))
        client = Client(adapter.endpoint)
        ear = Ear()
        if listening:
            await client.connect()
            subscription = await client.create_subscription(50, ear)
            standard = await client.get_namespace_index("http://opcfoundation.org/UA/MachineVision")
            types = [client.get_node(ua.NodeId(ua.Int32(one), ua.Int16(standard))) for one in (1018, 1024)]
            await subscription.subscribe_events(client.nodes.server, types)
        answers = [answer(verdict(seq)) for seq in range(1, parts + 1)]
        published = []
        whole = time.process_time()
        for one in answers:
            began = time.process_time()
            await adapter.publish(one)
            published.append(time.process_time() - began)
            await asyncio.sleep(0.02)
        if listening:
            async with asyncio.timeout(10):
                while ear.heard < parts:  # noqa: ASYNC110 - called back by the library, once an event
                    await asyncio.sleep(0.02)
            await client.disconnect()
        whole = time.process_time() - whole
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await adapter.close()
    return opened * 1000, statistics.median(published) * 1000, whole / parts * 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the library's remarks on what the two sides agree on
    print(f"{'':32}{'open':>10}{'publish':>10}{'per part':>10}   CPU ms, median of {options.rounds}")
    for name, machine_vision, listening in (
        ("tags alone", False, False),
        ("with the companion model", True, False),
        ("and a client for its events", True, True),
    ):
        rounds = [
            asyncio.run(measure(options.parts, machine_vision=machine_vision, listening=listening))
            for _ in range(options.rounds)
        ]
        opened, published, whole = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{name:32}{opened:10.0f}{published:10.2f}{whole:10.2f}")


if __name__ == "__main__":
    main()
