"""What does recording cost the gate? Two services, one of which records, at twice a line's rate.

    python -m benchmarks.recording [--events 300] [--rounds 6] [--rate 10] [--quick]

Each service has a broker of its own. They are shown the same rendered canisters in turns, a share of the events each,
so that whatever else the machine does meets both and neither competes with the other. Latency is from publish to gate
message at a client that shares no code with the service. Exits 1 where the recording service's median is 10% above the
other's, or a frame was dropped.
`--quick` takes small frames and a fixed ROI, for a machine that cannot keep up with twice the rate otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from adapters.recordings.reader import Session
from adapters.simulation.broker import LOOPBACK
from adapters.simulation.scene import REFERENCE_WH
from benchmarks.models import rendered_model
from benchmarks.replay import QUICK, SIZE_WH, a_service, render
from benchmarks.running import STATION, paced, without_delay

FRAMES = 16


@dataclass(slots=True)
class Gate:
    """A client that notes when the gate is told, by the clock of this process."""

    port: int
    expected: int = 0
    published: dict[str, float] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def connect(self) -> mqtt.Client:
        """Return a paho client that listens to gate messages."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)

        def on_message(_: mqtt.Client, __: object, message: mqtt.MQTTMessage) -> None:
            self.told[json.loads(message.payload)["event_id"]] = time.perf_counter()
            if len(self.told) >= self.expected:
                self.done.set()

        client.on_message = on_message
        client.on_socket_open = without_delay
        client.connect(LOOPBACK, self.port)
        client.loop_start()
        client.subscribe(f"cangate/{STATION}/gate", 1)
        return client

    def latencies_ms(self) -> list[float]:
        """Return publish to gate message of every event that was answered."""
        return [(self.told[event] - at) * 1000 for event, at in self.published.items() if event in self.told]

    async def ask(self, client: mqtt.Client, paths: list[Path], events: int, rate_hz: float) -> None:
        """Publish `events` more at a rate, and wait until all are answered."""
        first, self.expected = len(self.published), len(self.published) + events
        self.done.clear()
        async for number in paced(range(first, self.expected), rate_hz):
            event, uri = f"e{number}", paths[number % len(paths)].as_uri()
            payload = {"event_id": event, "part_id": event, "trigger_id": number + 1, "image": {"uri": uri}}
            self.published[event] = time.perf_counter()
            client.publish(f"cangate/{STATION}/image-ready", json.dumps(payload), qos=1)
        await asyncio.to_thread(self.done.wait, 30)


async def measure(events: int, rounds: int, rate_hz: float, *, quick: bool) -> bool:
    """Show `events` parts to each service; print and judge."""
    size_wh = SIZE_WH if quick else REFERENCE_WH
    model = rendered_model(recipe=QUICK if quick else None, resolution_wh=size_wh)
    frames = [render(number, size_wh) for number in range(FRAMES)]
    async with AsyncExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cangate-bench-"))) for _ in range(2)]
        gates = []
        for folder in folders:
            for number, frame in enumerate(frames):
                (folder / f"{number}.png").write_bytes(frame)
            record = {"enabled": folder is folders[1], "folder": str(folder / "recordings")}
            gates.append(Gate(await stack.enter_async_context(a_service(folder, model, record=record))))
        clients = [gate.connect() for gate in gates]
        for _ in range(rounds):
            for gate, client, folder in zip(gates, clients, folders, strict=True):
                paths = [folder / f"{number}.png" for number in range(FRAMES)]
                await gate.ask(client, paths, events // rounds, rate_hz)
        await asyncio.sleep(1)  # for the recorder
        for client in clients:
            client.loop_stop()
        (session,) = (folders[1] / "recordings").iterdir()
        parts = list(Session.open(session).parts())
    return report(gates, len(parts), sum(part.frame is not None for part in parts))


def report(gates: list[Gate], parts: int, frames: int) -> bool:
    """Print both services' latencies; tell whether recording costs little and lost nothing."""
    medians = []
    for name, gate in zip(("without", "with"), gates, strict=True):
        median, p95, p99 = np.percentile(gate.latencies_ms(), [50, 95, 99])
        medians.append(float(median))
        told = f"{len(gate.told)} of {len(gate.published)} answered"
        print(
            f"{name:<8} recording: {told}; publish to gate median {median:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms"
        )
    cost = medians[1] / medians[0] - 1
    print(f"cost of recording: {cost:+.1%} of the median; recorded {parts} parts, {frames} of them with their frame")
    return cost < 0.1 and parts == frames == len(gates[1].published)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    sys.exit(
        0 if asyncio.run(measure(arguments.events, arguments.rounds, arguments.rate, quick=arguments.quick)) else 1
    )


if __name__ == "__main__":
    main()
