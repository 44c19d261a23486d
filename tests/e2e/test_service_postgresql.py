"""`cangate run` with its journal on a PostgreSQL server."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import cv2
import httpx
import pytest

from tests.support.mqtt import PlantClient, private_mosquitto
from tests.support.parts import draw_part
from tests.support.postgresql import PostgresqlServer
from tests.support.service import ServiceProcess
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.postgresql]


@pytest.fixture
def name(postgresql: PostgresqlServer) -> Iterator[str]:
    """A database of one test."""
    with postgresql.database() as name:
        yield name


@pytest.fixture
async def line(
    postgresql: PostgresqlServer, name: str, tmp_path: Path, store: Path
) -> AsyncIterator[tuple[ServiceProcess, PlantClient]]:
    async with (
        private_mosquitto() as broker,
        ServiceProcess(tmp_path, broker.port, "bars", store, journal_url=postgresql.url(name)) as service,
        PlantClient(broker.port) as plant,
    ):
        yield service, plant


async def send(service: ServiceProcess, plant: PlantClient, *event_ids: str) -> None:
    cv2.imwrite(str(service.frames / "part.png"), draw_part(5000))
    for event_id in event_ids:
        event = {"event_id": event_id, "part_id": "P", "image": {"uri": (service.frames / "part.png").as_uri()}}
        await plant.send("image-ready", json.dumps(event).encode())


async def hear(plant: PlantClient, count: int, heard: defaultdict[str, set[bytes]]) -> None:
    """Take verdicts until `count` events have one."""
    while len(heard) < count:
        payload = (await plant.next("verdict")).payload
        heard[json.loads(payload)["event_id"]].add(payload)


def recorded(postgresql: PostgresqlServer, name: str) -> list[tuple[str, int, bytes]]:
    with postgresql.connect(name) as other:
        return other.execute("SELECT event_id, seq, verdict FROM events ORDER BY seq").fetchall()


async def test_service_on_postgresql_answers_each_event_once_across_a_crash(
    line: tuple[ServiceProcess, PlantClient], postgresql: PostgresqlServer, name: str
) -> None:
    """SIGKILL in the middle of a stream: one verdict for each event, the same bytes everywhere, no number twice."""
    service, plant = line
    event_ids = [f"e{number}" for number in range(24)]
    heard: defaultdict[str, set[bytes]] = defaultdict(set)
    await send(service, plant, *event_ids[:12])
    await hear(plant, 4, heard)
    await service.stop(signal.SIGKILL)
    await send(service, plant, *event_ids[12:18])
    await service.start()
    await send(service, plant, *event_ids[18:])
    await hear(plant, len(event_ids), heard)
    await send(service, plant, *event_ids)  # asked again: what was said is said again
    for _ in event_ids:
        payload = (await plant.next("verdict")).payload
        heard[json.loads(payload)["event_id"]].add(payload)
    rows = recorded(postgresql, name)
    assert {event_id: {verdict} for event_id, _, verdict in rows} == heard
    assert [seq for _, seq, _ in rows] == list(range(1, len(event_ids) + 1))
    assert "Traceback" not in service.log()


async def test_service_decides_while_its_postgresql_server_is_away(
    line: tuple[ServiceProcess, PlantClient], postgresql: PostgresqlServer, name: str
) -> None:
    """The database is killed: verdicts go out, the fault is named, and what was decided meanwhile is stored after."""
    service, plant = line
    heard: defaultdict[str, set[bytes]] = defaultdict(set)
    await send(service, plant, "before")
    await hear(plant, 1, heard)
    postgresql.stop(signal.SIGKILL)
    try:
        await send(service, plant, "meanwhile")
        await hear(plant, 2, heard)
        async with httpx.AsyncClient(base_url=service.url) as http:
            await eventually(lambda: fault_code(http, 101))
    finally:
        postgresql.start()
    await eventually(lambda: len(recorded(postgresql, name)) == 2)
    async with httpx.AsyncClient(base_url=service.url) as http:
        await eventually(lambda: fault_code(http, 0))
    assert {event_id: {verdict} for event_id, _, verdict in recorded(postgresql, name)} == heard
    assert {json.loads(verdict)["decision"] for _, _, verdict in recorded(postgresql, name)} == {"OK"}
    assert "Traceback" not in service.log()


async def fault_code(http: httpx.AsyncClient, expected: int) -> bool:
    fault = (await http.get("/api/status")).json()["fault"]
    return bool((fault or {"code": 0})["code"] == expected)
