"""The way in as a PLC: what it must and need not have, and that it hears of nothing once the broker is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.mqtt import MqttAdapter
from adapters.replay.opcua_client import OpcUaClientReplay
from adapters.simulation.broker import MosquittoBroker, free_port
from schemas.messages import Decision, Verdict
from schemas.settings import MqttSettings, OpcUaClientSettings
from service.errors import SinkUnavailable
from service.ports import Arrival
from service.replay.player import Pace, Played, play
from tests.support.fakes import RecordingIntake
from tests.support.mqtt import private_mosquitto
from tests.support.mqtt import running as connected
from tests.support.opcua import STATION, answer, verdict
from tests.support.plc import PATIENT, Judge, plc_client, serving
from tests.support.recordings import recorded_part

NEEDED = ("trigger", "image_uri", "event_id", "result_seq")


class Line:
    """A service that is the PLC's client, and what it takes in; `contradicts` where the plant is told otherwise.

    target: the way in. broker: where the plant hears.
    """

    def __init__(self, words: tuple[str, ...], broker: MosquittoBroker, frames: Path) -> None:
        mapping = {word: f"nsu=urn:some-plc;s={word}" for word in words}
        settings = PATIENT | mapping | {"endpoint": f"opc.tcp://127.0.0.1:{free_port()}"}
        mqtt = MqttSettings(port=broker.port)
        plc = OpcUaClientSettings.model_validate(settings)
        self.broker = broker
        self.target = OpcUaClientReplay(plc, mqtt, station=STATION, frames=frames)
        self.plant = MqttAdapter(mqtt, station=STATION, clock=SystemClock(), max_raw_bytes=1 << 20)
        self.client = plc_client(settings)
        self.contradicts = False
        self.judges = True
        self.intake = RecordingIntake(self._take)
        self._judge = Judge(self.client)
        self._telling: set[asyncio.Task[None]] = set()

    def _take(self, arrival: Arrival) -> None:
        if not self.judges:
            return
        self._judge(arrival)
        said: Verdict = self._judge.answers[-1].verdict
        if self.contradicts:
            said = verdict(said.seq, Decision.DAMAGED, event_id=said.event_id)
        telling = asyncio.create_task(self.plant.publish(answer(said, arrival)))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)


@asynccontextmanager
async def running(frames: Path, words: tuple[str, ...] = (*NEEDED, "verdict", "reject")) -> AsyncIterator[Line]:
    async with private_mosquitto() as broker:
        line = Line(words, broker, frames)
        async with (
            connected(line.plant, RecordingIntake()),
            serving(line.client, line.intake, connected=False),
            line.target,
        ):
            yield line


async def played(line: Line, count: int) -> list[Played]:
    parts = iter([recorded_part(number) for number in range(count)])
    async with asyncio.timeout(30):
        return [one async for one in play(parts, line.target, Pace(None, 1), clock=SystemClock())]


async def test_plc_need_not_name_its_parts(tmp_path: Path) -> None:
    """Words that are not mapped are not written; each part comes with its frame, and gets its verdict."""
    async with running(tmp_path, NEEDED) as line:
        result = await played(line, 3)
        assert [one.verdict is not None for one in result] == [True] * 3
        arrivals = [line.intake.arrivals.get_nowait() for _ in range(3)]
        assert [arrival.event.part_id for arrival in arrivals] == [None] * 3
        assert all(arrival.image is not None and arrival.event.replayed for arrival in arrivals)


async def test_contradiction_about_the_last_part_is_told(tmp_path: Path) -> None:
    """The PLC was told something else than the plant, and no part comes behind that would be refused for it."""
    async with running(tmp_path) as line:
        assert len(await played(line, 1)) == 1
        line.contradicts = True
        with pytest.raises(SinkUnavailable, match="the PLC was told OK, the plant DAMAGED"):
            await played(line, 1)


async def test_replay_ends_where_the_broker_goes_away(tmp_path: Path) -> None:
    """While a part is out, and every place on the way is taken: a verdict that cannot be heard is not waited for."""
    async with running(tmp_path) as line:
        line.judges = False
        playing = asyncio.create_task(played(line, 2))
        await line.intake.arrivals.get()
        await line.broker.stop()
        where = f"^127.0.0.1:{line.broker.port}: (connection lost|closed by the broker)"
        with pytest.raises(SinkUnavailable, match=where):
            await playing
        with pytest.raises(SinkUnavailable, match=where):
            await played(line, 1)


async def test_broker_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The PLC's own endpoint is not what is missing."""
    async with private_mosquitto() as broker:
        line = Line(NEEDED, broker, tmp_path)
    with pytest.raises(SinkUnavailable, match=f"^127.0.0.1:{broker.port}: .*refused"):
        await line.target.__aenter__()
