"""Does a replay repeat the line, by each way in, at recorded pace and at full speed?

    python -m benchmarks.replay ways [--parts 1000] [--rate 5] [--only mqtt] [--keep FOLDER | --session FOLDER]
    python -m benchmarks.replay memory [--parts 10000]

`ways` runs the service with `record.enabled`, shows it rendered canisters (every third damaged), and plays the session
back with `cangate replay --expect recorded`: directly, over MQTT, through the service's OPC UA server, and as the PLC
that a second service is a client of. It prints for each: decisions that differ, the largest shift of a score, parts
whose boxes are not the very same, the spacing error. Exits 1 where a decision, a score (1e-5) or a box differs.

`memory` plays a long session directly at full speed and prints how much memory the process held on the way. Exits 1
where the second half took a tenth more than the first.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from adapters.recordings.reader import Session
from adapters.recordings.writer import SessionWriter
from adapters.simulation.broker import LOOPBACK, MosquittoBroker, find_mosquitto, free_port
from adapters.simulation.damage import random_damage
from adapters.simulation.plc_server import node_addresses
from adapters.simulation.renderer import fast_png, render_canister
from benchmarks.line import Seen, connect
from benchmarks.models import rendered_model
from benchmarks.running import STATION, paced, running_service
from schemas.recipe import NormalizeRecipe, Recipe, RoiMethod, RoiRecipe
from schemas.recordings import RecordedEvent, SessionInfo
from service.replay.parts import RecordedPart, unix_ns

SIZE_WH = (240, 180)
QUICK = Recipe(
    roi=RoiRecipe(method=RoiMethod.FIXED, polygon=((0.3, 0.05), (0.7, 0.05), (0.7, 0.95), (0.3, 0.95))),
    normalize=NormalizeRecipe(side=160),
)
"""Judges a small frame in a few milliseconds: the question is whether a replay repeats it, not how well it judges."""

DEADLINE_MS = 120_000
"""Nothing here depends on the time that a busy machine takes."""

WAYS = ("direct", "mqtt", "opcua-server", "opcua-client")
_SCORE_TOLERANCE = 1e-5


def render(number: int, size_wh: tuple[int, int] = SIZE_WH) -> bytes:
    """Return a part as a PNG file; every third is damaged."""
    damage = random_damage(np.random.default_rng(number)) if number % 3 == 0 else None
    return fast_png(render_canister(number, damage=damage, resolution_wh=size_wh).bgr)


async def record(folder: Path, broker_port: int, parts: int, rate_hz: float) -> None:
    """Show `parts` to the running service, half of them inside their message, and wait for their verdicts."""
    seen = Seen()
    client = connect(broker_port, seen, parts)
    async for number in paced(range(parts), rate_hz):
        encoded = await asyncio.to_thread(render, number)
        path = folder / f"{number % 64}.png"  # as a camera's ring of files
        path.write_bytes(encoded)
        event = {
            "schema": "cangate/image-ready/1",
            "event_id": f"e{number}",
            "part_id": f"P{number}",
            "trigger_id": number + 1,
            "captured_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "image": {"uri": path.as_uri()},
        }
        client.publish(f"cangate/{STATION}/image-ready", json.dumps(event), qos=1)
    await asyncio.to_thread(seen.done.wait, 60)
    await asyncio.sleep(1)  # for the recorder
    client.loop_stop()


async def replay(session: Path, config: Path, out: Path, *arguments: str) -> tuple[str, float]:
    """Run `cangate replay` and return what it printed and how many seconds it took."""
    command = ("-m", "service.cli", "replay", str(session), "-c", str(config), "--expect", "recorded", "-o", str(out))
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, *command, *arguments, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    return printed.decode(), time.perf_counter() - began


def compare(out: Path, printed: str, seconds: float, name: str) -> bool:
    """Print one line about a replay; tell whether it repeats the recording."""
    with (out / "parts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    differ = sum(row["differs"] == "True" for row in rows)
    shift = max((abs(float(row["shift"])) for row in rows if row["shift"]), default=float("nan"))
    boxes = sum(row["boxes_same"] == "False" for row in rows)
    spacing = re.search(r"spacing error: 95% below ([0-9.]+) ms", printed)
    told = "" if spacing is None else f", spacing error p95 {spacing[1]} ms"
    print(
        f"{name:<22} {len(rows)} parts in {seconds:.0f} s: {differ} decisions differ, largest shift {shift:.1e}, "
        f"{boxes} parts with other boxes{told}",
        flush=True,
    )
    return bool(rows) and not differ and shift <= _SCORE_TOLERANCE and not boxes


@asynccontextmanager
async def a_service(
    folder: Path, model: tuple[Path, str], *, away: str = "nothing", **sections: dict[str, Any]
) -> AsyncIterator[int]:
    """Run a broker and a service on `folder`, as `running_service` does; return the broker's port."""
    executable = find_mosquitto()
    if executable is None:
        raise SystemExit("mosquitto is not installed")
    async with MosquittoBroker(executable) as broker:
        sections["opcua"] = {"server": {"port": free_port()}} | sections.get("opcua", {})
        service = running_service(
            folder,
            model,
            away=away,
            deadline={"default_ms": DEADLINE_MS},
            mqtt={"port": broker.port},
            compute={"stuck_s": 60},
            intake={"capacity": 512},
            **sections,
        )
        async with service:
            yield broker.port


async def ways(parts: int, rate_hz: float, only: str | None, keep: Path | None, kept: Path | None) -> bool:
    """Record a session, or take one that was kept, and play it back by every way in."""
    model = rendered_model(recipe=QUICK, resolution_wh=SIZE_WH)
    good = True
    with tempfile.TemporaryDirectory(prefix="cangate-bench-") as name:
        folder = Path(name)
        record_to = {"enabled": kept is None, "folder": str(folder / "recordings")}
        async with a_service(folder, model, record=record_to) as broker_port:
            if kept is None:
                await record(folder, broker_port, parts, rate_hz)
                (session,) = (folder / "recordings").iterdir()
            else:
                session = kept
            recorded = Session.open(session)
            errors = sum(part.decision == "ERROR" for part in recorded.parts())
            print(f"recorded {sum(1 for _ in recorded.parts())} parts, {errors} of them ERROR; {recorded.troubles}")
            for way in WAYS[:3]:
                if only in (None, way):
                    good &= await both_speeds(session, folder, way)
        if keep is not None:
            shutil.copytree(session, keep)
        if only in (None, "opcua-client"):
            other = folder / "client"
            other.mkdir()
            port = free_port()
            endpoint = f"opc.tcp://{LOOPBACK}:{port}/plc/"
            client = {"endpoint": endpoint, "request_timeout_ms": 2000, **node_addresses(STATION)}
            # the replay is the PLC, and comes later
            async with a_service(other, model, away="opcua-client", opcua={"client": client}):
                good &= await both_speeds(session, other, "opcua-client")
    return good


async def both_speeds(session: Path, folder: Path, way: str) -> bool:
    """Play a session at recorded pace and at full speed."""
    good = True
    for speed in ("1", "max"):
        out = folder / "report"
        printed, seconds = await replay(session, folder / "config.toml", out, "--via", way, "--speed", speed)
        good &= compare(out, printed, seconds, f"{way}, speed {speed}")
    return good


async def memory(parts: int) -> bool:
    """Play `parts` directly at full speed and watch the memory of the process."""
    store, model = rendered_model(recipe=QUICK, resolution_wh=SIZE_WH)
    with tempfile.TemporaryDirectory(prefix="cangate-bench-") as name:
        session = Path(name) / "session"
        frames = [render(number) for number in range(100)]
        now = datetime.now(UTC)
        info = SessionInfo(station=STATION, created_at=now, version="0", origin="simulator")
        with SessionWriter.create(session, info, file_bytes=64 << 20) as writer:
            for number in range(parts):
                event = RecordedEvent(event_id=f"e{number}", part_id=f"P{number}", source="simulator", inline=True)
                writer.write(RecordedPart(event, unix_ns(now) + number * 10**7, frames[number % 100], None))
        command = (
            "-m",
            "service.cli",
            "replay",
            str(session),
            "--speed",
            "max",
            "--model",
            model,
            "--store",
            str(store),
        )
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
        ended = asyncio.create_task(process.communicate())
        held = []
        while not ended.done():
            await asyncio.wait([ended], timeout=1.0)
            held.append(_resident_mb(process.pid))
        printed, _ = await ended
        seconds = time.perf_counter() - began
    known = [mb for mb in held if mb][5:]  # once the libraries are loaded
    print(printed.decode().strip())
    marks = ", ".join(f"{known[len(known) * share // 100 - 1]:.0f}" for share in (25, 50, 75, 100))
    print(f"{parts} parts in {seconds:.0f} s; resident MB after 25, 50, 75, 100%: {marks}")
    half = len(known) // 2
    return process.returncode == 0 and max(known[half:]) <= 1.1 * max(known[:half])


def _resident_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    """Run a benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    by_ways = kinds.add_parser("ways", help="the same decisions, scores and boxes by every way in")
    by_ways.add_argument("--parts", type=int, default=1000)
    by_ways.add_argument("--rate", type=float, default=5.0)
    by_ways.add_argument("--only", choices=WAYS)
    by_ways.add_argument("--keep", type=Path, help="copy the session here")
    by_ways.add_argument("--session", type=Path, help="play this one")
    by_memory = kinds.add_parser("memory", help="constant memory over a long session")
    by_memory.add_argument("--parts", type=int, default=10_000)
    arguments = parser.parse_args()
    if arguments.kind == "ways":
        good = asyncio.run(ways(arguments.parts, arguments.rate, arguments.only, arguments.keep, arguments.session))
    else:
        good = asyncio.run(memory(arguments.parts))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
