"""`cangate run` with several stations: one process, one session at their PLC, and else each for itself."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import cv2
import httpx
import pytest

from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import PlcServer
from schemas.tags import VerdictCode
from service.model.registry import ModelRegistry
from tests.support.mqtt import PlantClient, private_mosquitto
from tests.support.parts import draw_part, train_parts, write_parts
from tests.support.service import ServiceProcess

pytestmark = pytest.mark.e2e

STATIONS = ("line1", "line2")


async def test_stations_of_one_process_judge_for_one_plc(tmp_path: Path) -> None:
    """Each station has its own triggers, verdicts, numbers, page, metrics and journal; the PLC has one session."""
    registry = ModelRegistry(tmp_path / "models")
    registry.activate("bars", train_parts(write_parts(tmp_path / "ok", 10)).publish(registry).name)
    async with PlcServer(free_port(), stations=STATIONS) as plc, private_mosquitto() as broker:

        def station(name: str) -> ServiceProcess:
            client = "\n".join(f'{key} = "{text}"' for key, text in plc.mapping(name).items())
            extra = f"[opcua.client]\nrequest_timeout_ms = 5000\n{client}"
            return ServiceProcess(tmp_path / name, broker.port, "bars", tmp_path / "models", extra, station=name)

        second = station("line2")
        first = station("line1")
        first.beside = [second]
        async with (
            first,
            PlantClient(broker.port, station="line2") as plant,
            httpx.AsyncClient() as http,
        ):
            assert plc.server.bserver is not None
            assert len(plc.server.bserver.clients) == 1
            for service, damaged, count in ((first, False, 1), (second, True, 2)):
                path = service.frames / "part.png"
                cv2.imwrite(str(path), draw_part(5000, damaged=damaged))
                for number in range(1, count + 1):
                    await plc.trigger(f"{service.station}-{number}", path.as_uri(), station=service.station)
                    result = await asyncio.wait_for(plc.result(service.station), 20)
                    wanted = VerdictCode.DAMAGED if damaged else VerdictCode.OK
                    assert (result.part_id, result.verdict) == (f"{service.station}-{number}", wanted)
                    assert result.seq == number
            said = [json.loads((await plant.next("verdict")).payload) for _ in range(2)]
            assert [(verdict["station"], verdict["seq"]) for verdict in said] == [("line2", 1), ("line2", 2)]
            for service, verdicts in (
                (first, 'decision="OK",reason="score_below_threshold"} 1.0'),
                (second, 'decision="DAMAGED",reason="score_at_or_above_threshold"} 2.0'),
            ):
                status = (await http.get(f"{service.url}/api/status")).json()
                assert (status["station"], status["state"]) == (service.station, "ready")
                assert f"<title>{service.station} · cangate</title>" in (await http.get(service.url)).text
                counted = [
                    line
                    for line in (await http.get(f"{service.url}/metrics")).text.splitlines()
                    if line.startswith("cangate_verdicts_total") and not line.endswith(" 0.0")
                ]
                assert counted == [f"cangate_verdicts_total{{{verdicts}"]
            assert await first.stop(signal.SIGTERM) == 0
            assert "Traceback" not in first.log()
            assert not plc.server.bserver.clients
