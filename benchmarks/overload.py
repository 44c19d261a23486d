"""Three times as many parts as can be inspected: is every one answered in time, and how soon is all well again?

    python -m benchmarks.overload [--seconds 60] [--times 3] [--order oldest|newest] [--deadline-ms 500]

First measures what this machine can sustain (parts shown as fast as they are judged), then shows `times` as many for
so long, then one part every 100 ms until parts are judged again. Under load a PLC's client follows the heartbeat tag,
and page, status and metrics are asked for once a second. Frames are rendered canisters of 320 x 240. Exits 1 where a
part was not answered by its deadline and 50 ms, the heartbeat stood still for 2 s, or an answer took that long.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from pathlib import Path

import httpx
from asyncua import Client, ua
from asyncua.common.subscription import DataChangeEvent

from adapters.drill.line import DrillLine, drill_line
from adapters.drill.model import drill_model
from adapters.drill.service import STATION
from schemas.messages import Decision, Verdict
from schemas.tags import NAMESPACE_URI, Tag

_CALIBRATION_PARTS = 200
_AT_ONCE = 4
_PATHS = ("/", "/api/status", "/metrics")
_ASK_EVERY_S = 1.0
_ALIVE_LIMIT_S = 2.0
_RECOVERY_S = 10.0


async def sustainable_hz(line: DrillLine) -> float:
    """Return how many parts a second are judged while four are always on their way."""
    began = time.monotonic()
    shown = 0
    while shown < _CALIBRATION_PARTS:
        if len(line.ledger.unanswered()) < _AT_ONCE:
            await line.show(1, 1000.0, deadline_ms=10_000)
            shown += 1
        else:
            await asyncio.sleep(0.001)
    await line.settle()
    return shown / (time.monotonic() - began)


async def heartbeat_gap_s(line: DrillLine) -> float:
    """Follow the heartbeat tag until cancelled; returns, then, how long it stood still at most, s."""
    worst = 0.0
    async with Client(line.service.endpoint, timeout=10.0) as client:
        namespace = await client.get_namespace_index(NAMESPACE_URI)
        node = client.get_node(f"ns={namespace};s={Tag.Heartbeat.node_id(STATION)}")
        subscription = await client.create_subscription(10.0)
        await subscription.subscribe_data_change([node], sampling_interval=ua.Duration(10.0))
        since = time.monotonic()
        try:
            async for event in subscription:
                if isinstance(event, DataChangeEvent):
                    now = time.monotonic()
                    worst, since = max(worst, now - since), now
        except asyncio.CancelledError:
            pass
    return max(worst, time.monotonic() - since)


async def slowest_answer_s(line: DrillLine, path: str) -> float:
    """Ask for a page again and again until cancelled; returns, then, how long the slowest answer took, s."""
    worst = 0.0
    async with httpx.AsyncClient(base_url=line.service.url, trust_env=False, timeout=_RECOVERY_S) as http:
        try:
            while True:
                began = time.monotonic()
                (await http.get(path)).raise_for_status()
                worst = max(worst, time.monotonic() - began)
                await asyncio.sleep(_ASK_EVERY_S)
        except asyncio.CancelledError:
            return worst


async def recovery_s(line: DrillLine, deadline_ms: int) -> float:
    """Return after how long a part that is shown is judged again, s."""
    began = time.monotonic()
    while time.monotonic() < began + _RECOVERY_S:
        shown = time.monotonic()
        known = set(line.ledger.parts)
        await line.show(1, 1000.0, deadline_ms=deadline_ms)
        (event_id,) = set(line.ledger.parts) - known
        await line.settle(5.0)
        verdicts = line.ledger.parts[event_id].verdicts
        if verdicts and Verdict.model_validate_json(next(iter(verdicts))).decision is not Decision.ERROR:
            return shown - began
        await asyncio.sleep(0.1)
    return _RECOVERY_S


async def run(arguments: argparse.Namespace) -> bool:
    """Run the line and print what became of it; tell whether everything was answered in time."""
    with tempfile.TemporaryDirectory(prefix="cangate-overload-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        model = await asyncio.to_thread(drill_model, folder / "model")
        sections = {"intake": {"order": arguments.order}, "http": {"enabled": True}}
        async with drill_line(folder / "line", model, sections=sections, gate=False) as line:
            sustained_hz = await sustainable_hz(line)
            before = len(line.ledger.parts)
            rate_hz = sustained_hz * arguments.times
            print(
                f"sustained {sustained_hz:.1f} parts a second; now {rate_hz:.1f} for {arguments.seconds} s", flush=True
            )
            watching = [
                asyncio.create_task(watch)
                for watch in (heartbeat_gap_s(line), *(slowest_answer_s(line, path) for path in _PATHS))
            ]
            parts = round(rate_hz * arguments.seconds)
            await line.show(parts // 4, rate_hz, deadline_ms=arguments.deadline_ms)
            used = line.service.usage()  # everything has been done once by now
            await line.show(parts - parts // 4, rate_hz, deadline_ms=arguments.deadline_ms)
            after = line.service.usage()
            for watch in watching:
                watch.cancel()
            gap_s, *answers_s = await asyncio.gather(*watching)
            recovered_s = await recovery_s(line, arguments.deadline_ms)
            await line.settle()
            findings = line.ledger.findings()
            unconfirmed = re.findall(r"pass_unconfirmed.*?late_ms=([\d.]+)", line.service.said())
    for one in findings.broken():
        print(f"the promise was broken: {one}")
    loaded = findings.events - before
    judged = findings.decisions.get("OK", 0) + findings.decisions.get("DAMAGED", 0) - before
    print(findings)
    print(
        f"of {loaded} parts {judged} were judged ({judged / arguments.seconds:.1f} a second); ERROR: {findings.reasons}"
    )
    print(f"answered by deadline + 50 ms: {findings.in_time:.3%}, the last one {findings.worst_ms:.0f} ms after it")
    print(f"PASS commands that left in time and that the broker confirmed late: {len(unconfirmed)} {unconfirmed}")
    print(f"heartbeat stood still for {gap_s:.2f} s at most; judged again {recovered_s:.2f} s after the load ended")
    slowest = ", ".join(f"{path} {took_s:.2f} s" for path, took_s in zip(_PATHS, answers_s, strict=True))
    print(f"slowest answers meanwhile: {slowest}")
    print(
        f"after a quarter of the load and at its end: memory {used.memory_mib:.0f} and {after.memory_mib:.0f} MiB, "
        f"threads {used.threads} and {after.threads}, handles {used.handles} and {after.handles}"
    )
    return findings.kept and findings.in_time == 1.0 and max(gap_s, *answers_s) < _ALIVE_LIMIT_S


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=3.0)
    parser.add_argument("--order", choices=("oldest", "newest"), default="oldest")
    parser.add_argument("--deadline-ms", type=int, default=500)
    sys.exit(0 if asyncio.run(run(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
