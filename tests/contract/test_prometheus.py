"""The shipped rules and dashboard, with Prometheus itself and a service that it scrapes."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.simulation.broker import free_port
from adapters.telemetry import Metrics
from schemas.messages import Decision, StationState
from tests.support.hmi import HmiBench, make_verdict, served
from tests.support.waiting import eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "cangate.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "cangate.json"
UNIT_TESTS = Path(__file__).with_name("prometheus.test.yml")


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def queries_of_the_dashboard() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_rules_do_what_they_say() -> None:
    """Prometheus' own tool reads them, and rings where it should and nowhere else."""
    configuration = DEPLOY / "prometheus" / "prometheus.yml"
    for arguments in (("check", "config", str(configuration)), ("test", "rules", str(UNIT_TESTS))):
        done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_every_metric_that_is_asked_for_exists(path: Path) -> None:
    """A name that nobody sets never rings."""
    known = set(re.findall(r"^# TYPE (\S+)", Metrics().text().decode(), re.MULTILINE))
    asked = set(re.findall(r"\b(?:cangate|process)_[a-z_]+", path.read_text())) - {"cangate_state"}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= known


@asynccontextmanager
async def scraped(folder: Path, address: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run Prometheus with the shipped configuration against a station at `address`; lends a client of its API."""
    shutil.copy(RULES, folder)
    shipped = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    (folder / "prometheus.yml").write_text(
        shipped.replace("127.0.0.1:8080", address).replace("interval: 5s", "interval: 1s")
    )
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{port}/api/v1"
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=10) as client:
            yield client
    finally:
        process.terminate()
        await process.wait()


async def ask(prometheus: httpx.AsyncClient, query: str) -> list[Any]:
    """Return the result of a query; none while Prometheus starts."""
    try:
        response = await prometheus.get("/query", params={"query": query})
    except httpx.TransportError:
        return []
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return []
    answer = response.json()
    assert answer["status"] == "success", (query, answer)
    found: list[Any] = answer["data"]["result"]
    return found


async def test_prometheus_scrapes_a_station_and_rings(tmp_path: Path) -> None:
    """Every query of the dashboard can be asked and has an answer; a station in fault is an alert within seconds."""
    bench = HmiBench(tmp_path / "pictures")
    async with served(bench), scraped(tmp_path, bench.server.url.removeprefix("http://")) as prometheus:

        async def has_counted(seq: int) -> bool:
            for number, decision in enumerate(Decision):
                await bench.judge(make_verdict(3 * seq + number + 1, decision))
            await bench.server.publish_status(bench.view.status(), ready=True)
            return bool(await ask(prometheus, "rate(cangate_verdicts_total[10s]) > 0"))

        seqs = iter(range(1000))
        await eventually(lambda: has_counted(next(seqs)), timeout_s=60, every_s=0.5)
        for query in queries_of_the_dashboard():
            spelled = query.replace("$station", ".*").replace("$__rate_interval", "10s")
            silent = "cangate_refused_total" in query  # no series before the first of its kind
            assert bool(await ask(prometheus, spelled)) != silent, spelled

        bench.view.state = StationState.FAULT
        await bench.server.publish_status(bench.view.status(), ready=False)

        async def rings() -> bool:
            return bool(await ask(prometheus, 'ALERTS{alertname="StationFault", alertstate="firing", station="line1"}'))

        await eventually(rings, timeout_s=60, every_s=0.5)
