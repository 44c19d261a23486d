"""The simulated camera and the private brokers, against each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

import cv2
import numpy as np
import pytest

from adapters.mqtt import MqttAdapter
from adapters.simulation import broker as broker_module
from adapters.simulation import camera as camera_module
from adapters.simulation.broker import BrokerDidNotStart, MosquittoBroker, RunningBroker, start_broker
from adapters.simulation.camera import SimulatedCamera
from schemas.settings import MqttSettings
from service.errors import SinkUnavailable
from service.pipeline.types import BgrImage
from service.ports import Arrival
from tests.support.fakes import RecordingIntake
from tests.support.mqtt import adapter_for, answer_to, mosquitto_or_skip, private_mosquitto, running


def _parts(count: int) -> list[tuple[str, BgrImage]]:
    return [(f"C-{number}", np.full((4, 6, 3), number, np.uint8)) for number in range(count)]


def _decoded(arrival: Arrival) -> BgrImage | None:
    assert arrival.frame_bytes is not None
    return cv2.imdecode(np.frombuffer(arrival.frame_bytes, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[return-value]


def _read(arrival: Arrival) -> bytes:
    assert arrival.image is not None
    return Path(urlparse(arrival.image.uri).path).read_bytes()


def _left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@asynccontextmanager
async def _answering(adapter: MqttAdapter, intake: RecordingIntake) -> AsyncIterator[list[Arrival]]:
    """Answer every arrival; the frame of each is what lay where the event said."""
    seen: list[Arrival] = []

    async def answer() -> None:
        while True:
            arrival = await intake.arrivals.get()
            seen.append(replace(arrival, frame_bytes=arrival.frame_bytes or _read(arrival)))
            await adapter.publish(answer_to(arrival.event.event_id, seq=len(seen)))
            arrival.answered()

    task = asyncio.create_task(answer())
    yield seen
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture(params=[pytest.param("mosquitto", marks=pytest.mark.broker), "embedded"])
async def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningBroker]:
    """Yield the broker that the demo starts, with mosquitto and without."""
    if request.param == "mosquitto":
        mosquitto_or_skip()
    else:
        monkeypatch.setattr(broker_module, "find_mosquitto", lambda: None)
    async with start_broker() as running_broker:
        assert running_broker.kind == request.param
        yield running_broker


async def test_camera_shows_parts_by_file_and_gets_their_verdicts(broker: RunningBroker, tmp_path: Path) -> None:
    """Each part comes back in order with its verdict; its frame lies whole where the event says, and not for longer."""
    settings = MqttSettings(port=broker.port, protocol=broker.protocol)
    adapter = adapter_for(broker.port, protocol=broker.protocol)
    async with (
        running(adapter, intake := RecordingIntake()),
        _answering(adapter, intake) as seen,
        SimulatedCamera(settings, station="line1", folder=tmp_path / "frames", deadline_ms=800) as camera,
    ):
        shots = [shot async for shot in camera.run(_parts(5), rate_hz=200.0)]
    assert [shot.event.part_id for shot in shots] == ["C-0", "C-1", "C-2", "C-3", "C-4"]
    assert [shot.verdict.event_id if shot.verdict else None for shot in shots] == [
        shot.event.event_id for shot in shots
    ]
    assert [shot.event.trigger_id for shot in shots] == [1, 2, 3, 4, 5]
    assert all(arrival.event.simulated and arrival.event.deadline_ms == 800 for arrival in seen)
    np.testing.assert_array_equal(_parts(5)[3][1], _decoded(seen[3]))
    assert not _left_in(tmp_path / "frames")


async def test_camera_removes_a_frame_that_nobody_answers(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the verdict is waited for no longer."""
    monkeypatch.setattr(camera_module, "_PATIENCE_S", 0.01)
    settings = MqttSettings(port=broker.port, protocol=broker.protocol)
    async with SimulatedCamera(settings, station="line1", folder=tmp_path) as camera:
        assert [shot.verdict async for shot in camera.run(_parts(2), rate_hz=200.0)] == [None, None]
    assert not _left_in(tmp_path)


@pytest.mark.broker
async def test_camera_sends_raw_images() -> None:
    """Without a folder the encoded frame travels inside the message."""
    async with private_mosquitto() as mosquitto:
        adapter = adapter_for(mosquitto.port)
        async with (
            running(adapter, intake := RecordingIntake()),
            _answering(adapter, intake) as seen,
            SimulatedCamera(MqttSettings(port=mosquitto.port), station="line1", folder=None) as camera,
        ):
            (shot,) = [shot async for shot in camera.run(_parts(1), rate_hz=200.0)]
    assert shot.verdict is not None
    assert seen[0].event == shot.event
    np.testing.assert_array_equal(_parts(1)[0][1], _decoded(seen[0]))


async def test_camera_without_parts_ends_at_once(broker: RunningBroker, tmp_path: Path) -> None:
    """No part, no shot."""
    settings = MqttSettings(port=broker.port, protocol=broker.protocol)
    async with SimulatedCamera(settings, station="line1", folder=tmp_path) as camera:
        assert [shot async for shot in camera.run([], rate_hz=5.0)] == []


@pytest.mark.broker
async def test_camera_says_when_the_broker_goes_away(tmp_path: Path) -> None:
    """A shot that cannot be published ends the run with the reason."""
    async with (
        private_mosquitto() as mosquitto,
        SimulatedCamera(MqttSettings(port=mosquitto.port), station="line1", folder=tmp_path) as camera,
    ):
        await mosquitto.stop()
        with pytest.raises(SinkUnavailable):
            assert [shot async for shot in camera.run(_parts(3), rate_hz=200.0)] == []


def test_camera_refuses_raw_images_over_3_1_1() -> None:
    """Their metadata are user properties, which 3.1.1 does not have."""
    with pytest.raises(ValueError, match="MQTT 5"):
        SimulatedCamera(MqttSettings(protocol="3.1.1"), station="line1", folder=None)


@pytest.mark.broker
async def test_mosquitto_that_does_not_start_says_why() -> None:
    """What mosquitto complains about is in the error, in one line."""
    with pytest.raises(BrokerDidNotStart, match="no_such_option") as refusal:
        async with MosquittoBroker(mosquitto_or_skip(), config_lines=["no_such_option true"]):
            pass
    assert len(str(refusal.value).splitlines()) == 1
