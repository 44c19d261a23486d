"""The service as a process of its own, as the benchmarks run it."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tomli_w
from pydantic import TypeAdapter

from adapters.simulation.broker import LOOPBACK, free_port
from schemas.messages import Verdict

STATION = "bench"
_PAGE = 100
_VERDICTS = TypeAdapter(list[Verdict])


@asynccontextmanager
async def running_service(
    folder: Path, model: tuple[Path, str], *, away: str = "nothing", **sections: dict[str, Any]
) -> AsyncIterator[str]:
    """Run `cangate run` in `folder` until left; yields the address of its page when it is ready.

    `sections` of the configuration are added to what every benchmark needs. `away` names a transport that need not be
    there yet.
    """
    store, name = model
    url = f"http://{LOOPBACK}:{(port := free_port())}"
    settings: dict[str, dict[str, Any]] = {
        "station": {"id": STATION},
        "deadline": {"default_ms": 2000},
        "http": {"port": port},
        "images": {"roots": [str(folder)], "store": str(folder / "images")},
        "journal": {"url": f"sqlite:///{folder}/journal.sqlite"},
        "model": {"name": name, "store": str(store)},
        "log": {"level": "error"},
    }
    config = folder / "config.toml"
    config.write_text(tomli_w.dumps({**settings, **sections}))
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "service.cli", "run", "-c", str(config))
    try:
        await _ready(url, process, away)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def pipeline_ms(url: str) -> dict[str, float]:
    """Return for each part id the sum of its verdict's stages, ms."""
    found: dict[str, float] = {}
    before: int | None = None
    async with httpx.AsyncClient(base_url=url) as http:
        while True:
            query = {"limit": _PAGE} | ({} if before is None else {"before": before})
            answer = (await http.get("/api/verdicts", params=query)).raise_for_status()
            page = _VERDICTS.validate_json(answer.content)
            if not page:
                return found
            found |= {verdict.part_id or "": verdict.stages_ms.total() for verdict in page}
            before = page[-1].seq


async def paced(numbers: Iterable[int], rate_hz: float) -> AsyncIterator[int]:
    """Yield numbers at a rate, or slower where something takes longer with each."""
    due = time.perf_counter()
    for number in numbers:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        due = max(due + 1 / rate_hz, time.perf_counter())
        yield number


def show(name: str, milliseconds: Iterable[float]) -> float:
    """Print median, 95th and 99th percentile; return the median."""
    median, p95, p99 = (float(value) for value in np.percentile(list(milliseconds), [50, 95, 99]))
    print(f"{name}: median {median:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms")
    return median


def without_delay(_: object, __: object, opened: object) -> None:
    """Set TCP_NODELAY on a paho client's socket."""
    assert isinstance(opened, socket.socket)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _ready(url: str, process: asyncio.subprocess.Process, away: str) -> None:
    async with asyncio.timeout(120), httpx.AsyncClient() as http:
        while True:
            if process.returncode is not None:
                raise SystemExit("the service has ended")
            try:
                reasons: list[str] = (await http.get(f"{url}/readyz")).json()["reasons"]
                if all(reason.startswith(f"{away}: ") for reason in reasons):
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
