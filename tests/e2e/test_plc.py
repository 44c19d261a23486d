"""`cangate run` between a real mosquitto and a PLC that has the OPC UA server itself."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import cv2
import httpx
import pytest
from asyncua import ua

from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import PlcServer
from schemas.tags import VerdictCode
from service.model.registry import ModelRegistry
from tests.support.mqtt import PlantClient, private_mosquitto
from tests.support.parts import draw_part, train_parts, write_parts
from tests.support.plc import StubbornPlc, refusing
from tests.support.service import ServiceProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


async def test_service_inspects_for_a_plc_that_is_the_server(tmp_path: Path) -> None:
    """Trigger in, verdict nodes and MQTT out in agreement.

    A result that the PLC refuses is told and holds up no other; its loss is named on /readyz and heals by itself.
    """
    registry = ModelRegistry(tmp_path / "models")
    registry.activate("bars", train_parts(write_parts(tmp_path / "ok", 10)).publish(registry).name)
    port = free_port()
    async with PlcServer(port) as plc, private_mosquitto() as broker:
        client = "\n".join(f'{key} = "{text}"' for key, text in plc.mapping().items())
        extra = f"[opcua.client]\nrequest_timeout_ms = 5000\n{client}"
        async with (
            ServiceProcess(tmp_path, broker.port, "bars", tmp_path / "models", extra) as service,
            PlantClient(broker.port) as plant,
            httpx.AsyncClient(base_url=service.url) as http,
        ):
            frames = {}
            for name, damaged in (("good", False), ("bad", True)):
                frames[name] = service.frames / f"{name}.png"
                cv2.imwrite(str(frames[name]), draw_part(5000, damaged=damaged))
            for name, code in (("good", VerdictCode.OK), ("bad", VerdictCode.DAMAGED), ("none", VerdictCode.ERROR)):
                uri = frames[name].as_uri() if name in frames else (service.frames / "none.png").as_uri()
                trigger = await plc.trigger(f"P-{name}", uri)
                result = await asyncio.wait_for(plc.result(), 20)
                said = json.loads((await plant.next("verdict")).payload)
                assert (result.trigger_id, result.part_id, result.verdict) == (trigger, f"P-{name}", code)
                assert result.reject is (said["gate"] == "REJECT") is (code is not VerdictCode.OK)
                assert (said["seq"], said["trigger_id"], said["part_id"]) == (result.seq, trigger, f"P-{name}")
                assert said["event_id"].startswith(f"line1-{trigger}-")
            StubbornPlc(plc)
            with refusing(plc, "verdict", ua.StatusCodes.BadOutOfRange, value=VerdictCode.DAMAGED):
                await plc.trigger("P-refused", frames["bad"].as_uri())
                status = await _status(http, "degraded")
                assert "write_refused: verdict" in status["fault"]["text"]
                trigger = await plc.trigger("P-next", frames["good"].as_uri())
                assert (await asyncio.wait_for(plc.result(), 20)).trigger_id == trigger
            assert await _reasons(http, 200) == []
            await _status(http, "ready")
            before = await plc.node("heartbeat").read_value()

            async def has_risen() -> bool:
                return bool(await plc.node("heartbeat").read_value() != before)

            await eventually(has_risen, every_s=0.05)
            await plc.server.stop()
            reasons = await _reasons(http, 503)
            assert any(reason.startswith("opcua-client: opc.tcp://") for reason in reasons), reasons
            async with PlcServer(port, namespaces=("urn:before",)) as restarted:
                await restarted.trigger("P-again", frames["good"].as_uri())
                result = await asyncio.wait_for(restarted.result(), 20)
                assert (result.trigger_id, result.part_id, result.verdict) == (1, "P-again", VerdictCode.OK)
                assert await _reasons(http, 200) == []
            assert "Traceback" not in service.log()


async def _status(http: httpx.AsyncClient, state: str) -> dict[str, Any]:
    """Return the status as soon as the station is in that state."""
    status: dict[str, Any] = {}

    async def is_so() -> bool:
        status.update((await http.get("/api/status")).json())
        return bool(status["state"] == state)

    await eventually(is_so, every_s=0.05)
    return status


async def _reasons(http: httpx.AsyncClient, status: int) -> list[str]:
    """Return the reasons of /readyz as soon as it answers `status`."""
    reasons: list[str] = []

    async def answers() -> bool:
        answer = await http.get("/readyz")
        reasons[:] = answer.json()["reasons"]
        return answer.status_code == status

    await eventually(answers, every_s=0.05)
    return reasons
