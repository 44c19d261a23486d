"""Three times as many parts as can be inspected: is every one answered in time, and how soon is all well again?

    python -m benchmarks.overload [--seconds 60] [--times 3] [--order oldest|newest] [--deadline-ms 500]

First measures what this machine can sustain (parts shown as fast as they are judged), then shows `times` as many for
so long, then one part every 100 ms until parts are judged again. Frames are rendered canisters of 320 x 240. Exits 1
where a part was not answered by its deadline and 50 ms, or the heartbeat stood still.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from adapters.drill.line import DrillLine, drill_line
from adapters.drill.model import drill_model
from schemas.messages import Decision, Verdict

_CALIBRATION_PARTS = 200
_AT_ONCE = 4
_HEARTBEAT_LIMIT_S = 2.0
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


async def longest_standstill(line: DrillLine) -> float:
    """Watch the heartbeat until cancelled; returns, then, how long it stood still at most, s."""
    worst, since, beat = 0.0, time.monotonic(), line.plant.heartbeat
    try:
        while True:
            await asyncio.sleep(0.02)
            now = time.monotonic()
            if line.plant.heartbeat != beat:
                since, beat = now, line.plant.heartbeat
            worst = max(worst, now - since)
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
            before, used = len(line.ledger.parts), line.service.usage()
            rate_hz = sustained_hz * arguments.times
            print(
                f"sustained {sustained_hz:.1f} parts a second; now {rate_hz:.1f} for {arguments.seconds} s", flush=True
            )
            watching = asyncio.create_task(longest_standstill(line))
            await line.show(round(rate_hz * arguments.seconds), rate_hz, deadline_ms=arguments.deadline_ms)
            recovered_s = await recovery_s(line, arguments.deadline_ms)
            watching.cancel()
            standstill_s = await watching
            await line.settle()
            after = line.service.usage()
            findings = line.ledger.findings()
    for one in findings.broken():
        print(f"the promise was broken: {one}")
    loaded = findings.events - before
    judged = findings.decisions.get("OK", 0) + findings.decisions.get("DAMAGED", 0) - before
    print(findings)
    print(
        f"of {loaded} parts {judged} were judged ({judged / arguments.seconds:.1f} a second); ERROR: {findings.reasons}"
    )
    print(f"answered by deadline + 50 ms: {findings.in_time:.3%}, the last one {findings.worst_ms:.0f} ms after it")
    print(
        f"heartbeat stood still for {standstill_s:.2f} s at most; judged again {recovered_s:.2f} s after the load ended"
    )
    print(f"memory {used.memory_mib:.0f} -> {after.memory_mib:.0f} MiB, threads {used.threads} -> {after.threads}")
    return findings.kept and findings.in_time == 1.0 and standstill_s < _HEARTBEAT_LIMIT_S


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
