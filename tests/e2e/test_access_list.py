"""A broker whose access list takes no verdict from the service: the gate goes on, and everybody is told of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.mqtt import PlantClient, private_mosquitto
from tests.support.parts import small_store, write_parts
from tests.support.service import ServiceProcess

pytestmark = [pytest.mark.e2e, pytest.mark.broker]

REFUSAL = "mqtt: verdict is refused by the broker: Not authorized"
PARTS = 5


async def show(plant: PlantClient, name: str, uri: str) -> dict[str, Any]:
    """Show a part; return the next command to the gate."""
    await plant.send("image-ready", json.dumps({"event_id": name, "image": {"uri": uri}}).encode())
    return dict(json.loads((await plant.next("gate")).payload))


async def status_with_fault(plant: PlantClient, text: str | None) -> dict[str, Any]:
    """Return the first status on the topic that names this fault, None for no fault."""
    while True:
        status: dict[str, Any] = json.loads((await plant.next("status")).payload)
        if (status["fault"] or {}).get("text") == text:
            return status


async def test_refused_verdicts_cost_no_gate_command_and_are_told(tmp_path: Path) -> None:
    """Each verdict is offered once and kept; the gate hears of each part once; mending the list mends it all."""
    rules = tmp_path / "acl"
    leaves = ("image-ready", "gate", "status", "cmd", "reply")
    closed = "topic read cangate/line1/#\n" + "".join(f"topic write cangate/line1/{leaf}\n" for leaf in leaves)
    rules.write_text(closed)
    store = small_store(tmp_path / "plant")
    (frame,) = write_parts(tmp_path / "line" / "frames", 1, damaged=True).iterdir()
    async with (
        private_mosquitto(f"acl_file {rules}", "user root") as broker,
        ServiceProcess(tmp_path / "line", broker.port, "bars", store) as service,
        PlantClient(broker.port) as plant,
        httpx.AsyncClient(base_url=service.url) as http,
    ):
        names = [f"e{number}" for number in range(PARTS)]
        told = [await show(plant, name, frame.as_uri()) for name in names]
        assert [(command["event_id"], command["gate"]) for command in told] == [(name, "REJECT") for name in names]
        assert (await status_with_fault(plant, REFUSAL))["state"] == "degraded"
        status = (await http.get("/api/status")).json()
        assert (status["state"], status["fault"]["text"]) == ("degraded", REFUSAL)
        assert (await http.get("/readyz")).status_code == 200
        kept = (await http.get("/api/verdicts")).json()
        assert [verdict["event_id"] for verdict in reversed(kept)] == names

        rules.write_text(closed + "topic write cangate/line1/verdict\n")
        broker.send_signal(signal.SIGHUP)
        assert (await show(plant, "mended", frame.as_uri()))["event_id"] == "mended"
        assert json.loads((await plant.next("verdict")).payload)["event_id"] == "mended"
        assert (await status_with_fault(plant, None))["state"] in ("ready", "busy")
        assert (plant.waiting("gate"), plant.waiting("verdict")) == (0, 0)
        assert "Traceback" not in service.log()
