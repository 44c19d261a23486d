"""The whole line at a steady rate: is every event answered once on each way out, and what does the wire cost?

    python -m benchmarks.line [--events 500] [--rate 5]

Starts a private mosquitto and `cangate run` as a process of its own, publishes image-ready events, and counts verdicts,
gate messages and steps of ResultSeq with clients that share no code with the service. Wire overhead is the time from
publish to verdict at the client, minus the sum of the verdict's stages_ms. Exits 1 where anything is lost or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import paho.mqtt.client as mqtt
from asyncua import Client, ua
from asyncua.common.subscription import DataChangeEvent
from paho.mqtt.enums import CallbackAPIVersion

from adapters.simulation.broker import LOOPBACK, MosquittoBroker, find_mosquitto, free_port
from adapters.simulation.damage import random_damage
from adapters.simulation.renderer import render_canister
from benchmarks.models import rendered_model
from benchmarks.running import STATION, paced, running_service, without_delay

FRAMES = 12


@dataclass(slots=True)
class Seen:
    """What came out, by the clock of this process."""

    published: dict[str, float] = field(default_factory=dict)
    verdicts: list[tuple[str, float, dict[str, object]]] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)
    result_seqs: list[int] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)


def connect(port: int, seen: Seen, events: int) -> mqtt.Client:
    """Return a paho client that records verdicts and gate messages."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)

    def on_message(_: mqtt.Client, __: object, message: mqtt.MQTTMessage) -> None:
        arrived = time.perf_counter()
        document = json.loads(message.payload)
        if message.topic.endswith("/verdict"):
            seen.verdicts.append((document["event_id"], arrived, document))
        else:
            seen.gates.append(document["event_id"])
        if len(seen.verdicts) >= events and len(seen.gates) >= events:
            seen.done.set()

    client.on_message = on_message
    client.on_socket_open = without_delay
    client.connect(LOOPBACK, port)
    client.loop_start()
    client.subscribe([(f"cangate/{STATION}/verdict", 1), (f"cangate/{STATION}/gate", 1)])
    return client


def watch_result_seq(endpoint: str, steps: multiprocessing.Queue[int]) -> None:
    """Send on every step of ResultSeq, and 0 once subscribed; a process of its own, not to delay the MQTT client."""
    asyncio.run(_watch_result_seq(endpoint, steps))


async def _watch_result_seq(endpoint: str, steps: multiprocessing.Queue[int]) -> None:
    while True:
        try:
            async with Client(endpoint) as client:
                namespace = await client.get_namespace_index("urn:cangate")
                subscription = await client.create_subscription(10, queue_maxsize=10_000)
                node = client.get_node(f"ns={namespace};s={STATION}.ResultSeq")
                await subscription.subscribe_data_change([node], queuesize=1000, sampling_interval=ua.Duration(10))
                steps.put(0)
                async for event in subscription:
                    if isinstance(event, DataChangeEvent) and event.value:
                        steps.put(event.value)
        except (OSError, TimeoutError, ua.UaError):
            await asyncio.sleep(0.2)


async def measure(events: int, rate_hz: float) -> Seen:
    """Publish `events` and return what was seen of them."""
    executable = find_mosquitto()
    if executable is None:
        raise SystemExit("mosquitto is not installed")
    seen = Seen()
    with tempfile.TemporaryDirectory(prefix="cangate-bench-") as name:
        folder = Path(name)
        for number in range(FRAMES):
            damage = random_damage(np.random.default_rng(number)) if number % 3 == 0 else None
            cv2.imwrite(str(folder / f"{number}.png"), render_canister(number, damage=damage).bgr)
        opcua_port = free_port()
        async with (
            MosquittoBroker(executable) as broker,
            running_service(
                folder, rendered_model(), mqtt={"port": broker.port}, opcua={"server": {"port": opcua_port}}
            ),
        ):
            endpoint = f"opc.tcp://{LOOPBACK}:{opcua_port}/cangate/"
            processes = multiprocessing.get_context("spawn")
            steps = processes.Queue()
            watching = processes.Process(target=watch_result_seq, args=(endpoint, steps), daemon=True)
            watching.start()
            client = connect(broker.port, seen, events)
            await asyncio.to_thread(steps.get, timeout=60)
            async for number in paced(range(events), rate_hz):
                event_id = f"e{number}"
                payload = {
                    "schema": "cangate/image-ready/1",
                    "event_id": event_id,
                    "part_id": f"P{number}",
                    "trigger_id": number + 1,
                    "image": {"uri": (folder / f"{number % FRAMES}.png").as_uri()},
                }
                seen.published[event_id] = time.perf_counter()
                client.publish(f"cangate/{STATION}/image-ready", json.dumps(payload), qos=1)
            await asyncio.to_thread(seen.done.wait, 10)
            await asyncio.sleep(0.5)  # for what should not come
            client.loop_stop()
            watching.terminate()
            while not steps.empty():
                seen.result_seqs.append(steps.get())
    return seen


def report(seen: Seen, events: int) -> bool:
    """Print counts and times; tell whether every event was answered exactly once on each way out."""
    decisions = Counter(str(document["decision"]) for _, _, document in seen.verdicts)
    ids = [event_id for event_id, _, _ in seen.verdicts]
    seqs = [int(str(document["seq"])) for _, _, document in seen.verdicts]
    whole = (
        len(ids) == len(set(ids)) == events
        and len(seen.gates) == len(set(seen.gates)) == events
        and seqs == list(range(seqs[0], seqs[0] + events))
        and seen.result_seqs == seqs
    )
    overhead, pipeline = [], []
    for event_id, arrived, document in seen.verdicts:
        stages = document["stages_ms"]
        assert isinstance(stages, dict)
        pipeline.append(sum(stages.values()))
        overhead.append((arrived - seen.published[event_id]) * 1000 - pipeline[-1])
    print(f"events {events}, verdicts {len(ids)} ({len(set(ids))} distinct), gate messages {len(seen.gates)}")
    print(f"ResultSeq steps {len(seen.result_seqs)}, decisions {dict(decisions)}")
    print(f"every event once, in order, on each way out: {'yes' if whole else 'NO'}")
    if missing := [event_id for event_id in seen.published if event_id not in ids]:
        print(f"not answered: {', '.join(missing)}")
    for name, values in (("pipeline (sum of stages_ms)", pipeline), ("wire overhead", overhead)):
        median, p95, p99 = np.percentile(values, [50, 95, 99])
        print(f"{name}: median {median:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms")
    return whole


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--rate", type=float, default=5.0)
    arguments = parser.parse_args()
    seen = asyncio.run(measure(arguments.events, arguments.rate))
    sys.exit(0 if report(seen, arguments.events) else 1)


if __name__ == "__main__":
    main()
