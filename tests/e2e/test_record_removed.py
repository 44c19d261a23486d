"""The folder of a recording is removed while it is recorded."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import cv2
import pytest

from adapters.recordings.reader import Session
from schemas.messages import FaultCode
from service.errors import UsageError
from tests.support.mqtt import PlantClient, private_mosquitto, verdict
from tests.support.parts import draw_part
from tests.support.service import ServiceProcess, command
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


async def test_record_says_what_is_gone(tmp_path: Path) -> None:
    """It ends in exit status 1 and counts what is there, which is what came after."""
    config, out = tmp_path / "config.toml", tmp_path / "out"
    async with private_mosquitto() as broker, PlantClient(broker.port) as plant:
        config.write_text(f'[mqtt]\nport = {broker.port}\n[images]\nroots = ["{tmp_path}"]\n')
        async with command("record", "-c", str(config), "-o", str(out), "--parts", "5") as recording:
            assert recording.stdout is not None
            async with asyncio.timeout(60):
                assert b"recording line1 into" in await recording.stdout.readline()
                (folder,) = out.iterdir()
                for number in range(3):
                    await plant.send("verdict", verdict(f"e{number}").to_json())
                await eventually(lambda: events(folder) == ["e0", "e1", "e2"])
                shutil.rmtree(out)
                for number in range(3, 5):
                    await plant.send("verdict", verdict(f"e{number}").to_json())
                said, complaint = await recording.communicate()
    assert recording.returncode == 1
    assert said.decode() == f"2 parts are in {folder}\n"
    why = "a file was removed or replaced while it was being written"
    assert complaint.decode().splitlines()[-1] == f"cangate: 3 parts are gone from {folder}: {why}"
    assert events(folder) == ["e3", "e4"]


async def test_service_says_that_its_recording_is_gone(tmp_path: Path, store: Path) -> None:
    """It is degraded with fault 103, and records on."""
    folder = tmp_path / "recordings"
    extra = f'[record]\nenabled = true\nfolder = "{folder}"\n'
    encoded = cv2.imencode(".png", draw_part(5000))[1].tobytes()
    async with (
        private_mosquitto() as broker,
        ServiceProcess(tmp_path, broker.port, "bars", store, extra),
        PlantClient(broker.port) as plant,
    ):

        async def faults() -> int:
            status = json.loads((await plant.next("status")).payload)
            return status["fault"]["code"] if status["state"] == "degraded" and status["fault"] else 0

        (session,) = folder.iterdir()
        for number in range(2):
            await plant.send("image-ready/raw", encoded, user_properties=[("event_id", f"e{number}")])
            await plant.next("verdict")
            await eventually(lambda: f"e{number}" in events(session))  # noqa: B023 - asked within this turn
            if not number:
                shutil.rmtree(folder)
        async with asyncio.timeout(30):
            while await faults() != FaultCode.RECORDING_FAILING:
                pass
        assert events(session) == ["e1"]


def events(folder: Path) -> list[str]:
    """Return what is recorded so far; a file that was just begun is nothing yet."""
    try:
        return [part.event.event_id for part in Session.open(folder).parts()]
    except UsageError:
        return []
