"""A PLC with an OPC UA server of its own: is every trigger answered once, also after the PLC was killed?

    python -m benchmarks.plc [--server asyncua|node-opcua] [--triggers 1000] [--rate 20] [--kills 0]

Starts `cangate run` with `[opcua.client]` and a simulated PLC as processes of their own. The PLC gives triggers at a
steady rate without waiting for results. With --kills the run is cut into pieces: after each the PLC is killed with
SIGKILL and started anew, gives its next trigger at once, before the service can have found it again, and goes on when
that one is answered. Prints counts and the time from trigger to result_seq, by the PLC's own clock, minus the pipeline.
Exits 1 where a trigger was not answered, or answered twice or for another part.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import node_addresses
from benchmarks.models import quick_frame, quick_model
from benchmarks.running import pipeline_ms, running_service, show
from schemas.tags import VerdictCode

NODE_SCRIPT = Path(__file__).parents[1] / "tests" / "contract" / "node" / "plc.js"
PATHS = {"asyncua": "/plc/", "node-opcua": "/plc"}
ANSWER_S = 20.0


class Plc:
    """A PLC process, of either make.

    Args:
        server: asyncua or node-opcua.
        port: where it listens.
        pki: where node-opcua keeps its certificates.
    """

    def __init__(self, server: str, port: int, pki: Path) -> None:
        node = shutil.which("node")
        if server == "asyncua":
            self._command = [sys.executable, "-m", "benchmarks.plc_process", str(port)]
        elif node is not None and (NODE_SCRIPT.parent / "node_modules" / "node-opcua-server").is_dir():
            self._command = [node, str(NODE_SCRIPT), str(port), str(pki), json.dumps({"publishingMs": 5})]
        else:
            raise SystemExit("node-opcua-server is not installed: npm install --prefix tests/contract/node")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and return when it listens."""
        pipe = asyncio.subprocess.PIPE
        quiet = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, stderr=quiet)
        await self._hear()

    async def kill(self) -> None:
        """End it without a word."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def give(self, first: int, count: int, rate_hz: float, images: Sequence[str]) -> list[dict[str, Any]]:
        """Let it give triggers; return the results, fewer where not all come."""
        assert self._process is not None
        assert self._process.stdin is not None
        order = {"op": "give", "first": first, "count": count, "rate": rate_hz, "images": list(images)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        results: list[dict[str, Any]] = []
        with contextlib.suppress(TimeoutError):
            while len(results) < count:
                said = await asyncio.wait_for(self._hear(), ANSWER_S)
                # results of parts that came in another way are written to the PLC, too
                results += [said["result"]] if said.get("result", {}).get("after_ms") is not None else []
        return results

    async def _hear(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit("the PLC has ended")
        said: dict[str, Any] = json.loads(line)
        return said


def client_settings(server: str, port: int) -> dict[str, Any]:
    """Return `[opcua.client]` for a PLC at `port`."""
    endpoint = f"opc.tcp://127.0.0.1:{port}{PATHS[server]}"
    return {"endpoint": endpoint, "request_timeout_ms": 1000, **node_addresses("line1")}


def write_frames(folder: Path, count: int = 8) -> list[str]:
    """Write frames for the quick model; return their addresses."""
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), quick_frame(1000 + number))
    return [path.as_uri() for path in paths]


async def measure(server: str, triggers: int, rate_hz: float, kills: int) -> bool:
    """Run the benchmark; tell whether every trigger was answered once."""
    pieces = [triggers // (kills + 1)] * kills
    pieces.append(triggers - sum(pieces))
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="cangate-bench-") as name:
        folder, port, given = Path(name), free_port(), 0
        images = write_frames(folder)
        opcua = {"server": {"enabled": False}, "client": client_settings(server, port)}
        plc = Plc(server, port, folder / "pki")
        await plc.start()
        try:
            async with running_service(folder, quick_model(), mqtt={"enabled": False}, opcua=opcua) as url:
                for life, piece in enumerate(pieces):
                    at_once = 1 if life else 0
                    if at_once:
                        await plc.kill()
                        await plc.start()
                        results += await plc.give(given + 1, at_once, rate_hz, images)
                    results += await plc.give(given + at_once + 1, piece - at_once, rate_hz, images)
                    given += piece
                pipeline = await pipeline_ms(url)
        finally:
            await plc.kill()
    return report(results, triggers, kills, pipeline)


def report(results: Sequence[dict[str, Any]], triggers: int, kills: int, pipeline: Mapping[str, float]) -> bool:
    """Print counts and times; tell whether every trigger was answered once, for its own part."""
    answered = [result["trigger_id"] for result in results]
    own_part = all(result["part_id"] == f"C-{result['trigger_id']}" for result in results)
    whole = sorted(answered) == list(range(1, triggers + 1)) and own_part
    decisions = Counter(VerdictCode(result["verdict"]).name for result in results)
    print(f"triggers {triggers}, PLC killed {kills} times, results {len(results)}, decisions {dict(decisions)}")
    print(f"every trigger answered once, for its own part: {'yes' if whole else 'NO'}")
    if not whole:
        print(f"missing: {sorted(set(range(1, triggers + 1)) - set(answered))[:20]}")
        foreign = [
            (each["trigger_id"], each["part_id"]) for each in results if each["part_id"] != f"C-{each['trigger_id']}"
        ]
        print(f"with another part: {foreign[:20]}")
    show("pipeline (sum of stages_ms)", pipeline.values())
    show(
        "trigger to result_seq, minus the pipeline",
        [result["after_ms"] - pipeline[result["part_id"]] for result in results if result["part_id"] in pipeline],
    )
    return whole


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=sorted(PATHS), default="asyncua")
    parser.add_argument("--triggers", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20.0, help="triggers a second")
    parser.add_argument("--kills", type=int, default=0)
    arguments = parser.parse_args()
    whole = asyncio.run(measure(arguments.server, arguments.triggers, arguments.rate, arguments.kills))
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
