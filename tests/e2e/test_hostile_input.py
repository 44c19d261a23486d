"""Hostile input through the whole service: every image, reference and message of the table, by a real broker."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.hostile import IMAGES, MESSAGES, Place, encoded
from tests.support.hostile_host import hostile_host
from tests.support.mqtt import PlantClient, private_mosquitto
from tests.support.parts import draw_part, small_store
from tests.support.service import ServiceProcess

pytestmark = pytest.mark.e2e

_IMAGES = """
http_hosts = ["{host}"]
http_timeout_s = 0.4
max_bytes = 2000000
"""


async def test_service_answers_every_hostile_input_by_name_and_goes_on(tmp_path: Path) -> None:
    """Each event gets its one ERROR/REJECT, the rest is counted; no traceback, no PASS, no leak; then it judges on."""
    store = await asyncio.to_thread(small_store, tmp_path)
    with hostile_host(encoded()) as host:
        async with (
            private_mosquitto() as broker,
            ServiceProcess(tmp_path, broker.port, "bars", store, images=_IMAGES.format(host=host)) as service,
            PlantClient(broker.port) as plant,
        ):
            place = Place(service.frames, host)
            place.put(encoded(), "a.png")
            (tmp_path / "secret.png").write_bytes(encoded())

            for number, image in enumerate(IMAGES):
                event_id = f"image-{number}"
                reference = {"uri": image.uri(place)} | ({"sha256": image.sha256} if image.sha256 else {})
                await plant.send("image-ready", json.dumps({"event_id": event_id, "image": reference}).encode())
                # one by one: the place is laid out anew for each
                answer = await _verdict(plant)
                shown = (answer["event_id"], answer["decision"], answer["gate"], answer["reason"])
                assert (event_id, "ERROR", "REJECT", image.reason) == shown, image.name
            for message in MESSAGES:
                await plant.send("image-ready", message.payload)
                if message.event_id is not None:
                    answer = await _verdict(plant)
                    shown = (answer["event_id"], answer["decision"], answer["gate"], answer["reason"])
                    assert (message.event_id, "ERROR", "REJECT", "frame_refused") == shown, message.name

            counted = Counter(message.counted for message in MESSAGES if message.counted is not None)
            assert counted == Counter(await _refused(service)) - Counter(invalid_event=len(MESSAGES))
            whole = cv2.imencode(".png", draw_part(5000))[1].tobytes()
            good = {"event_id": "good", "image": {"uri": place.put(whole, "good.png")}}
            await plant.send("image-ready", json.dumps(good).encode())
            assert (await _verdict(plant))["decision"] == "OK"

            passed: list[str] = []
            while not passed:  # the good one comes last
                gate = json.loads((await plant.next("gate")).payload)
                passed += [gate["event_id"]] if gate["gate"] == "PASS" else []
            assert passed == ["good"]
            assert plant.waiting("verdict") == 0
            assert "Traceback" not in service.log()
            assert "prepare_failed" not in service.log()


async def _verdict(plant: PlantClient) -> dict[str, Any]:
    return dict(json.loads((await plant.next("verdict")).payload))


async def _refused(service: ServiceProcess) -> dict[str, int]:
    async with httpx.AsyncClient(base_url=service.url) as http:
        families = text_string_to_metric_families((await http.get("/metrics")).text)
    return {
        sample.labels["reason"]: int(sample.value)
        for family in families
        for sample in family.samples
        if sample.name == "cangate_refused_total"
    }
