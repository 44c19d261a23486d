"""A simulated line against real brokers and adapters: parts are tracked by their count, and silence rejects."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from adapters.clock import SystemClock
from adapters.mqtt import MqttAdapter
from adapters.simulation.line import PicturePool, SimulatedStation
from adapters.simulation.line_plan import Belt, Fault, LineRates, plan_line
from schemas.messages import Decision, Gate, StationState, Status, Verdict
from schemas.settings import MqttSettings
from service.errors import SinkUnavailable
from service.ports import Answer, Arrival, Asker
from tests.support.fakes import RecordingCommands
from tests.support.mqtt import private_mosquitto, verdict
from tests.support.service import command
from tests.support.waiting import eventually

BELT = Belt(speed_mm_s=2000.0, gate_mm=8000.0)
"""The gate is far away, so that a machine that stands still for a moment makes no part late."""

RATES = LineRates(rate_hz=40.0, stops=0.0, damaged=0.3, wrong=0.1, missing=0.1)
POOL = PicturePool(good=[b"\x89PNG good"], damaged=[b"\x89PNG damaged"], blank=b"\x89PNG blank")
PARTS = 40
_READY = Status(station="line1", state=StationState.READY, since=datetime.now(UTC), version="0")


class StubStation:
    """Says what `see` sees on a picture, at once.

    silent_every: of every so many parts it says nothing of one; shifted_every: or names another place on the belt.
    """

    ready = True
    left_open = ()

    def __init__(
        self,
        adapter: MqttAdapter,
        see: Callable[[bytes | None], Decision],
        *,
        silent_every: int = PARTS + 1,
        shifted_every: int = PARTS + 1,
    ) -> None:
        self.adapter = adapter
        self.arrivals: list[Arrival] = []
        self._see = see
        self._silent_every = silent_every
        self._shifted_every = shifted_every
        self._publishing: set[asyncio.Task[None]] = set()

    def submit(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        arrival.answered()
        number = int((arrival.event.part_id or "")[-6:])
        if number % self._silent_every:
            task = asyncio.create_task(self.adapter.publish(self._answer(arrival, number)))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    def _answer(self, arrival: Arrival, number: int) -> Answer:
        event = arrival.event
        decision = self._see(arrival.frame_bytes)
        said: Verdict = verdict(event.event_id, seq=len(self.arrivals)).model_copy(
            update={
                "part_id": event.part_id,
                "trigger_id": (event.trigger_id or 0) + (number % self._shifted_every == 0),
                "decision": decision,
                "gate": Gate.PASS if decision is Decision.OK else Gate.REJECT,
            }
        )
        return Answer(said, said.to_json(), SystemClock().monotonic() + 60, Asker.of(arrival))


@asynccontextmanager
async def stub_station(
    settings: MqttSettings,
    see: Callable[[bytes | None], Decision],
    **every: int,
) -> AsyncIterator[StubStation]:
    """Run a stub with a real adapter."""
    adapter = MqttAdapter(settings, station="line1", clock=SystemClock(), max_raw_bytes=1 << 20)
    station = StubStation(adapter, see, **every)
    await adapter.open()
    running = asyncio.create_task(adapter.run(station, RecordingCommands()))
    try:
        await eventually(lambda: adapter.fault is None)
        yield station
    finally:
        running.cancel()
        await asyncio.wait([running])
        await adapter.close()


def see_pool(frame: bytes | None) -> Decision:
    """Return what is on a picture of the pool."""
    return {b"\x89PNG good": Decision.OK, b"\x89PNG damaged": Decision.DAMAGED}.get(frame or b"", Decision.ERROR)


def see_anything(frame: bytes | None) -> Decision:
    """Call every whole picture with something on it OK."""
    picture = None if frame is None else cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_GRAYSCALE)
    whole = frame is not None and b"IEND" in frame[-12:]
    return Decision.OK if whole and picture is not None and picture.std() > 0 else Decision.ERROR


async def test_gate_opens_for_parts_that_are_known_to_be_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for damaged ones, for wrong or missing frames, for silence, or for a verdict on another place of the belt."""
    monkeypatch.setattr("adapters.simulation.line._PATIENCE_S", 0.5)
    async with private_mosquitto() as broker:
        settings = MqttSettings(port=broker.port)
        async with stub_station(settings, see_pool, silent_every=5, shifted_every=7) as service:
            station = SimulatedStation(settings, "line1", pool=POOL, missing=tmp_path)
            async with asyncio.timeout(60):
                await station.run(seed=3, rates=RATES, belt=BELT, parts=PARTS)
    plan = [part for part, _ in zip(plan_line(3, "line1", RATES, BELT), range(PARTS), strict=False)]
    answered = [part for part in plan if part.number % 5]
    tracked = [part for part in answered if part.number % 7]
    assert [arrival.event.trigger_id for arrival in service.arrivals] == [part.encoder for part in plan]
    assert all(arrival.event.simulated for arrival in service.arrivals)
    assert [arrival.frame_bytes is None for arrival in service.arrivals] == [
        part.fault is Fault.MISSING for part in plan
    ]
    count = station.count
    assert (count.parts, count.never) == (PARTS, PARTS - len(answered))
    assert count.late == PARTS - len(tracked)
    assert count.passed == sum(part.fault is Fault.NONE and not part.damaged for part in tracked)
    assert count.rejected == PARTS - count.passed
    assert count.errors == sum(part.fault is not Fault.NONE for part in tracked)
    assert (count.escapes, count.over_rejects) == (0, 0)


async def test_command_shows_what_its_seed_says(tmp_path: Path) -> None:
    """The same parts, places and frames for the same seed, wrong and missing ones among them; it prints what it did."""
    config = tmp_path / "config.toml"
    line = ["--parts", "20", "--rate", "40", "--stops", "0", "--damaged", "0.3", "--wrong", "0.2", "--missing", "0.2"]
    shown: list[list[tuple[int | None, bytes | None]]] = []
    printed: list[str] = []
    async with private_mosquitto() as broker:
        config.write_text(f'[mqtt]\nport = {broker.port}\n[images]\nroots = ["{tmp_path}"]\n')
        # the gate far away, so that a machine that stands still for a moment makes no part late
        for _ in range(2):
            async with (
                stub_station(MqttSettings(port=broker.port), see_anything) as service,
                asyncio.timeout(60),
                command(
                    *("simulate", "-c", str(config), *line, "--size", "320x240", "--seed", "1", "--gate", "2500")
                ) as process,
            ):
                assert process.stdout is not None
                assert b"waiting up to 10 s for the service of line1" in await process.stdout.readline()
                await service.adapter.publish_status(_READY, ready=True)
                told, complaints = await process.communicate()
                assert (process.returncode, complaints) == (0, b"")
                printed.append(told.decode().partition(";")[0])
                shown.append([(arrival.event.trigger_id, arrival.frame_bytes) for arrival in service.arrivals])
    assert shown[0] == shown[1]
    rates = LineRates(rate_hz=40, stops=0, damaged=0.3, wrong=0.2, missing=0.2)
    plan = list(itertools.islice(plan_line(1, "line1", rates, Belt(gate_mm=2500)), 20))
    whole = [part for part in plan if part.fault is Fault.NONE]
    assert {part.fault for part in plan} == set(Fault), "every kind is shown"
    assert [frame is None for _, frame in shown[0]] == [part.fault is Fault.MISSING for part in plan]
    assert [encoder for encoder, _ in shown[0]] == [part.encoder for part in plan]
    escapes, wrong = sum(part.damaged for part in whole), 20 - len(whole)
    summary = (
        f"line1: 20 parts, {len(whole)} passed, {wrong} rejected, {escapes} escapes, 0 over-rejects, {wrong} errors, "
        "0 late, 0 never answered"
    )
    assert printed[:2] == [summary, summary]


async def test_line_says_when_its_broker_is_gone(tmp_path: Path) -> None:
    """It does not go on showing parts to nobody."""
    async with private_mosquitto() as broker:
        station = SimulatedStation(MqttSettings(port=broker.port), "line1", pool=POOL, missing=tmp_path)
        running = asyncio.create_task(station.run(seed=1, rates=RATES, belt=BELT, parts=0))
        await eventually(lambda: station.count.parts > 0)
        await broker.stop()
        with pytest.raises(SinkUnavailable):
            async with asyncio.timeout(30):
                await running
