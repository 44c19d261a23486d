"""A simulated PLC in a process of its own that gives triggers at a steady rate and prints what is written back.

    python -m benchmarks.plc_process PORT

It speaks as tests/contract/node/plc.js does: {"listening": endpoint}, then {"result": ...} for each result, with the
time from its trigger in `after_ms`. Commands come on standard input, one JSON object a line:
{"op": "give", "first": 1, "count": 1000, "rate": 20, "images": ["file:///1.png"]}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict

from adapters.simulation.plc_server import TYPES, PlcServer


def _say(**said: object) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


async def _give(plc: PlcServer, given_at: dict[int, float], order: dict[str, object]) -> None:
    first, count, rate = (float(str(order[key])) for key in ("first", "count", "rate"))
    images = order["images"]
    assert isinstance(images, list)
    due = time.perf_counter()
    for trigger in range(int(first), int(first + count)):
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        due += 1 / rate
        image_uri = images[trigger % len(images)]
        for word, text in (("part_id", f"C-{trigger}"), ("image_uri", image_uri), ("event_id", f"plc-{trigger}")):
            await plc.node(word).write_value(text)
        given_at[trigger] = time.perf_counter()
        await plc.node("trigger").write_value(trigger, TYPES["trigger"])


async def _report(plc: PlcServer, given_at: dict[int, float]) -> None:
    while True:
        result = await plc.result()
        began = given_at.get(result.trigger_id)
        after_ms = None if began is None else (time.perf_counter() - began) * 1000
        _say(result={**asdict(result), "after_ms": after_ms})


async def _run(port: int) -> None:
    given_at: dict[int, float] = {}
    async with PlcServer(port) as plc:
        reporting = asyncio.create_task(_report(plc, given_at))
        _say(listening=plc.endpoint)
        while line := await asyncio.to_thread(sys.stdin.readline):
            await _give(plc, given_at, json.loads(line))
        reporting.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    asyncio.run(_run(parser.parse_args().port))
