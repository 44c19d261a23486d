"""What OPC UA costs the gate: the gate command's latency without tags, with tags, and with many subscribers to them.

    python -m benchmarks.subscribers [--subscribers 20] [--rounds 5] [--parts 60] [--rate 8]

Two services judge the same frames, one without an OPC UA server. In every round both are sent parts over MQTT one at a
time, the other one also while the subscribers, in a process of their own, watch all its tags at 10 ms. The three are
measured in turns, so that what else the machine does falls on all alike. The subscribers acknowledge what they are told
and decode none of it, at low priority: on a plant that would not be this machine's work. Prints the gate command's
latency from image-ready to gate, whole and minus the pipeline, and by how much its median grows.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from multiprocessing.synchronize import Event
from pathlib import Path

from adapters.simulation.broker import MosquittoBroker, find_mosquitto, free_port
from benchmarks.clients import MqttCamera, tag_client
from benchmarks.models import quick_model
from benchmarks.plc import write_frames
from benchmarks.running import paced, pipeline_ms, running_service, show
from schemas.tags import Tag

SAMPLING_MS = 10.0
_NICE = 10
"""The subscribers take what the service leaves."""

WITHOUT, WITH, WATCHED = "without tags", "with tags", "with subscribers"


def watch(endpoint: str, subscribers: int, watching: Event, enough: Event) -> None:
    """Hold subscriptions to every tag until `enough` is set."""
    os.nice(_NICE)
    asyncio.run(_watch(endpoint, subscribers, watching, enough))


async def _watch(endpoint: str, subscribers: int, watching: Event, enough: Event) -> None:
    tags = [tag.name for tag in Tag]
    async with AsyncExitStack() as stack:
        for _ in range(subscribers):
            await stack.enter_async_context(tag_client(endpoint, sampling_ms=SAMPLING_MS, tags=tags, decode=False))
        watching.set()
        await asyncio.to_thread(enough.wait)


async def measure(subscribers: int, rounds: int, parts: int, rate_hz: float) -> None:
    """Run the benchmark and print what was seen."""
    executable = find_mosquitto()
    if executable is None:
        raise SystemExit("mosquitto is not installed")
    taken: dict[str, dict[str, float]] = defaultdict(dict)
    processes = multiprocessing.get_context("spawn")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cangate-bench-")))
        port, lines, urls = free_port(), {}, []
        for name, server in ((WITHOUT, {"enabled": False}), (WITH, {"port": port})):
            own = folder / name.replace(" ", "-")
            own.mkdir()
            images = write_frames(own)
            broker = await stack.enter_async_context(MosquittoBroker(executable))
            service = running_service(own, quick_model(), mqtt={"port": broker.port}, opcua={"server": server})
            urls.append(await stack.enter_async_context(service))
            camera = MqttCamera(broker.port)
            stack.callback(camera.close)
            lines[name] = camera, images
        lines[WATCHED] = lines[WITH]
        for number in range(rounds):
            watching, enough = processes.Event(), processes.Event()
            watcher = processes.Process(
                target=watch, args=(f"opc.tcp://127.0.0.1:{port}/cangate/", subscribers, watching, enough), daemon=True
            )
            for name in (WITHOUT, WITH, WATCHED):
                if name == WATCHED:
                    watcher.start()
                    await asyncio.to_thread(watching.wait)
                camera, images = lines[name]
                taken[name] |= await _ask(camera, f"{name}-{number}", images, parts, rate_hz)
            enough.set()
            await asyncio.to_thread(watcher.join)
        pipeline = {part: each for url in urls for part, each in (await pipeline_ms(url)).items()}
    medians = {}
    for name, seen in taken.items():
        medians[name] = show(f"gate command {name}", seen.values())
        show(f"gate command {name}, minus the pipeline", [each - pipeline[part] for part, each in seen.items()])
    print(f"tags let its median grow by {100 * (medians[WITH] / medians[WITHOUT] - 1):.0f}%")
    print(f"{subscribers} subscribers let it grow by {100 * (medians[WATCHED] / medians[WITH] - 1):.0f}% more")


async def _ask(camera: MqttCamera, name: str, images: list[str], parts: int, rate_hz: float) -> dict[str, float]:
    seen: dict[str, float] = {}
    async for number in paced(range(parts), rate_hz):
        part = f"{name}-{number}"
        published, gate = await camera.ask(part, images[number % len(images)])
        seen[part] = (gate - published) * 1000
    return seen


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", type=int, default=60, help="for each of the three in one round")
    parser.add_argument("--rate", type=float, default=8.0, help="parts a second")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.subscribers, arguments.rounds, arguments.parts, arguments.rate))


if __name__ == "__main__":
    main()
