"""A replay over MQTT looks for its station first, and ends where the broker goes away: nobody waits for nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.replay import mqtt, presence
from adapters.replay.mqtt import MqttReplay
from adapters.replay.presence import until_service
from adapters.simulation.broker import MosquittoBroker, free_port
from schemas.messages import StationState, Status
from schemas.settings import MqttSettings
from service.errors import SinkUnavailable
from service.replay.player import Pace, Played, play
from tests.support.mqtt import STATION, PlantClient, private_mosquitto, verdict
from tests.support.recordings import BEGIN, recorded_part, write_session
from tests.support.service import run
from tests.support.waiting import eventually


def status(state: StationState) -> bytes:
    return Status(station=STATION, state=state, since=BEGIN, version="0").to_json()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was told; one tells at once."""
    monkeypatch.setattr(presence, "_SILENT_S", 0.1)
    return []


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (None, "its status topic says nothing"),
        (StationState.OFFLINE, "its last status says offline"),
        (StationState.READY, "its last status says ready"),
    ],
)
async def test_service_that_is_not_there_is_named(told: list[str], kept: StationState | None, why: str) -> None:
    """No status, a last will, or one that a broker has kept of a service that gives none any more."""
    async with private_mosquitto() as broker, PlantClient(broker.port) as plant:
        if kept is not None:
            await plant.send("status", status(kept), retain=True)
        with pytest.raises(SinkUnavailable, match=f"^no service of line1 is running: {why}; start it with"):
            await until_service(MqttSettings(port=broker.port), station=STATION, tell=told.append, patience_s=0.2)
    assert told == [f"waiting up to 0.2 s for the service of line1: {why}"]


async def test_service_that_comes_is_waited_for(told: list[str]) -> None:
    """It says that it is there while it is waited for; words that are no status say nothing."""
    async with private_mosquitto() as broker, PlantClient(broker.port) as plant:
        coming = asyncio.Event()

        def tell(text: str) -> None:
            told.append(text)
            coming.set()

        waiting = asyncio.create_task(
            until_service(MqttSettings(port=broker.port), station=STATION, tell=tell, patience_s=60)
        )
        async with asyncio.timeout(30):
            await coming.wait()
            await plant.send("status", b"{}")
            await plant.send("status", status(StationState.FAULT), retain=True)
            await waiting
    assert len(told) == 1


async def test_broker_that_is_not_there_is_named(told: list[str]) -> None:
    """Nothing is waited for."""
    with pytest.raises(SinkUnavailable, match="Connection refused"):
        await until_service(MqttSettings(port=free_port()), station=STATION, tell=told.append)
    assert told == []


@asynccontextmanager
async def four_parts_out(frames: Path) -> AsyncIterator[tuple[MosquittoBroker, PlantClient, asyncio.Future[Played]]]:
    """Lend a replay at full speed that waits for its first verdict, every place on the way taken."""
    parts = iter([recorded_part(number) for number in range(8)])
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        MqttReplay(MqttSettings(port=broker.port), station=STATION, frames=frames) as target,
    ):
        playing = play(parts, target, Pace(None, 4), clock=SystemClock())
        first = asyncio.ensure_future(anext(playing))
        for _ in range(4):
            await plant.next("image-ready/raw")
        async with asyncio.timeout(30):
            yield broker, plant, first
        await playing.aclose()


async def test_replay_at_full_speed_ends_where_the_broker_goes_away(tmp_path: Path) -> None:
    """A part that is out is not waited for until its deadline."""
    async with four_parts_out(tmp_path) as (broker, _, first):
        await broker.stop()
        with pytest.raises(SinkUnavailable):
            await first


async def test_replay_ends_where_the_service_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last will tells, though the broker stays: parts that are out are not waited for until their deadlines."""
    monkeypatch.setattr(mqtt, "_OFFLINE_S", 0.1)
    async with four_parts_out(tmp_path) as (broker, plant, first):
        await plant.send("status", status(StationState.OFFLINE), retain=True)
        with pytest.raises(SinkUnavailable, match=f"^127.0.0.1:{broker.port}: the service of line1 is offline$"):
            await first


async def test_replay_goes_on_where_the_service_comes_back(tmp_path: Path) -> None:
    """A restart is no reason to end. While no part is out, nobody waits; the next one does, from then on."""
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        MqttReplay(MqttSettings(port=broker.port), station=STATION, frames=tmp_path) as target,
    ):
        await plant.send("status", status(StationState.OFFLINE), retain=True)
        await eventually(lambda: target._offline and target._waiting is None)
        part = recorded_part(0, frame=None)
        playing = play(iter([part]), target, Pace(None, 1), clock=SystemClock())
        first = asyncio.ensure_future(anext(playing))
        event_id = json.loads((await plant.next("image-ready")).payload)["event_id"]
        await eventually(lambda: target._waiting is not None)
        await plant.send("status", b"{}")
        await plant.send("status", status(StationState.READY), retain=True)
        await eventually(lambda: target._waiting is None)
        await plant.send("verdict", verdict(event_id).to_json())
        async with asyncio.timeout(30):
            assert (await first).verdict is not None
        await playing.aclose()


async def test_commands_end_where_no_service_is(tmp_path: Path) -> None:
    """`replay` and `simulate` alike: a line that says what is waited for, and one that says why it ends."""
    session = write_session(tmp_path / "s", [recorded_part(0)])
    async with private_mosquitto() as broker:
        config = tmp_path / "config.toml"
        config.write_text(f'[mqtt]\nport = {broker.port}\n[images]\nroots = ["{tmp_path}"]\n')
        ended = await asyncio.gather(
            run("replay", session, "--via", "mqtt", "--speed", "max", "-c", config),
            run("simulate", "--parts", "1", "-c", config),
        )
    for command, (code, out, err) in zip(("", "mqtt: "), ended, strict=True):
        where = f"cangate: {command}127.0.0.1:{broker.port}: no service of line1 is running: "
        assert (code, err) == (
            1,
            f"{where}its status topic says nothing; start it with `cangate run`, or let this login read that topic\n",
        )
        assert out.startswith("waiting up to 10 s for the service of line1: its status topic says nothing\n")
