"""Hours of ordinary work: does memory grow, do threads or open files?

    python -m benchmarks.soak [--minutes 60] [--rate 5]

Shows parts at a steady rate and looks at the process every ten seconds. Compares the mean of the last fifth with the
mean of the second fifth: the first one warms up. Exits 1 where memory grew by 5% or more, or threads or handles did.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import fmean

from adapters.drill.line import DrillLine, drill_line
from adapters.drill.model import drill_model
from adapters.drill.service import Usage

_LIMIT = 0.05
_SAMPLES = 50


async def watch(line: DrillLine, every_s: float, samples: list[Usage]) -> None:
    """Note what the service holds, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        samples.append(line.service.usage())
        last = samples[-1]
        print(f"  {last.memory_mib:.1f} MiB, {last.threads} threads, {last.handles} handles", flush=True)


async def run(arguments: argparse.Namespace) -> bool:
    """Run the line and print what it held; tell whether that stayed."""
    seconds = arguments.minutes * 60
    samples: list[Usage] = []
    with tempfile.TemporaryDirectory(prefix="cangate-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        model = await asyncio.to_thread(drill_model, folder / "model")
        async with drill_line(folder / "line", model) as line:
            watching = asyncio.create_task(watch(line, seconds / _SAMPLES, samples))
            await line.show(round(seconds * arguments.rate), arguments.rate)
            watching.cancel()
            await line.settle()
            findings = line.ledger.findings()
    fifth = len(samples) // 5
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]
    growth = fmean(one.memory_mib for one in late) / fmean(one.memory_mib for one in early) - 1
    threads = max(one.threads for one in late) - max(one.threads for one in early)
    handles = max(one.handles for one in late) - max(one.handles for one in early)
    print(findings)
    print(f"memory {growth:+.2%}, threads {threads:+d}, handles {handles:+d}, heard in time {findings.in_time:.2%}")
    return findings.kept and growth < _LIMIT and threads <= 0 and handles <= 0


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=5.0, help="parts a second")
    sys.exit(0 if asyncio.run(run(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
