"""From trigger to verdict tag through each way in: the service's own server, the client of a PLC's server, and MQTT.

    python -m benchmarks.latency [--parts 300] [--rate 8]

Starts mosquitto, a simulated PLC with a server of its own and `cangate run` with all three ways on, and sends parts one
at a time. Each time runs to the verdict tag as a subscriber with 5 ms sampling sees it (for the PLC: as it is written)
minus the sum of the verdict's stages_ms; for MQTT the gate command is shown beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from adapters.simulation.broker import MosquittoBroker, find_mosquitto, free_port
from benchmarks.clients import MqttCamera, TagClient, tag_client
from benchmarks.models import quick_model
from benchmarks.plc import Plc, client_settings, write_frames
from benchmarks.running import paced, pipeline_ms, running_service, show

SAMPLING_MS = 5.0


async def measure(parts: int, rate_hz: float) -> None:
    """Run the benchmark and print what was seen."""
    executable = find_mosquitto()
    if executable is None:
        raise SystemExit("mosquitto is not installed")
    with tempfile.TemporaryDirectory(prefix="cangate-bench-") as name:
        folder, plc_port, server_port = Path(name), free_port(), free_port()
        images = write_frames(folder)
        opcua = {"server": {"port": server_port}, "client": client_settings("asyncua", plc_port)}
        plc = Plc("asyncua", plc_port, folder / "pki")
        await plc.start()
        try:
            async with (
                MosquittoBroker(executable) as broker,
                running_service(folder, quick_model(), mqtt={"port": broker.port}, opcua=opcua) as url,
            ):
                endpoint = f"opc.tcp://127.0.0.1:{server_port}/cangate/"
                results = await plc.give(1, parts, rate_hz, images)
                async with tag_client(endpoint, sampling_ms=SAMPLING_MS) as tags:
                    by_tag = await _by_tags(tags, images, parts, rate_hz)
                    by_mqtt, gates = await _by_mqtt(broker.port, tags, images, parts, rate_hz)
                pipeline = await pipeline_ms(url)
        finally:
            await plc.kill()
    show("pipeline (sum of stages_ms)", pipeline.values())
    by_client = {str(result["part_id"]): float(result["after_ms"]) for result in results}
    for way, seen in (
        ("Trigger of our server to ResultSeq", by_tag),
        ("trigger of the PLC's server to result_seq", by_client),
        ("MQTT image-ready to ResultSeq", by_mqtt),
        ("MQTT image-ready to gate command", gates),
    ):
        show(f"{way}, minus the pipeline", [taken_ms - pipeline[part] for part, taken_ms in seen.items()])


async def _by_tags(tags: TagClient, images: Sequence[str], parts: int, rate_hz: float) -> dict[str, float]:
    seen: dict[str, float] = {}
    async for number in paced(range(parts), rate_hz):
        part = f"T-{number}"
        began = await tags.trigger(part, images[number % len(images)])
        seen[part] = (await tags.result() - began) * 1000
    return seen


async def _by_mqtt(
    port: int, tags: TagClient, images: Sequence[str], parts: int, rate_hz: float
) -> tuple[dict[str, float], dict[str, float]]:
    tag_ms: dict[str, float] = {}
    gate_ms: dict[str, float] = {}
    camera = MqttCamera(port)
    try:
        async for number in paced(range(parts), rate_hz):
            part = f"M-{number}"
            told = asyncio.create_task(tags.result())
            began, gate = await camera.ask(part, images[number % len(images)])
            gate_ms[part], tag_ms[part] = (gate - began) * 1000, (await told - began) * 1000
    finally:
        camera.close()
    return tag_ms, gate_ms


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=300, help="for each way in")
    parser.add_argument("--rate", type=float, default=8.0, help="parts a second")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.parts, arguments.rate))


if __name__ == "__main__":
    main()
