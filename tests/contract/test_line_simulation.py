"""A simulated line against real brokers and adapters: parts are tracked by their count, and silence rejects."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.mqtt import MqttAdapter
from adapters.simulation.line import PicturePool, SimulatedStation
from adapters.simulation.line_plan import Belt, Fault, LineRates, plan_line
from schemas.messages import Decision, Gate, Verdict
from schemas.settings import MqttSettings
from service.errors import SinkUnavailable
from service.ports import Answer, Arrival
from tests.support.fakes import RecordingCommands
from tests.support.mqtt import private_mosquitto, verdict
from tests.support.waiting import eventually

BELT = Belt(speed_mm_s=2000.0, gate_mm=2000.0)
RATES = LineRates(rate_hz=40.0, stops=0.0, damaged=0.3, wrong=0.1, missing=0.1)
POOL = PicturePool(good=[b"\x89PNG good"], damaged=[b"\x89PNG damaged"], blank=b"\x89PNG blank")
PARTS = 40


class StubStation:
    """Sees what is on a picture of the pool; says nothing of every fifth part, and of others with another count."""

    ready = True

    def __init__(self, adapter: MqttAdapter) -> None:
        self.adapter = adapter
        self.arrivals: list[Arrival] = []
        self._publishing: set[asyncio.Task[None]] = set()

    def submit(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        number = int((arrival.event.part_id or "")[-6:])
        if number % 5:
            task = asyncio.create_task(self.adapter.publish(self._answer(arrival, number)))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    def _answer(self, arrival: Arrival, number: int) -> Answer:
        event = arrival.event
        decision = Decision.ERROR
        if arrival.frame_bytes in (b"\x89PNG good", b"\x89PNG damaged"):
            decision = Decision.OK if arrival.frame_bytes.endswith(b"good") else Decision.DAMAGED
        said: Verdict = verdict(event.event_id, seq=len(self.arrivals)).model_copy(
            update={
                "part_id": event.part_id,
                "trigger_id": (event.trigger_id or 0) + (number % 7 == 0),
                "decision": decision,
                "gate": Gate.PASS if decision is Decision.OK else Gate.REJECT,
            }
        )
        return Answer(said, said.to_json(), SystemClock().monotonic() + 5)


async def test_gate_opens_for_parts_that_are_known_to_be_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for damaged ones, for wrong or missing frames, for silence, or for a verdict on another place of the belt."""
    monkeypatch.setattr("adapters.simulation.line._PATIENCE_S", 0.5)
    async with private_mosquitto() as broker:
        settings = MqttSettings(port=broker.port)
        adapter = MqttAdapter(settings, station="line1", clock=SystemClock(), max_raw_bytes=1 << 20)
        service = StubStation(adapter)
        await adapter.open()
        running = asyncio.create_task(adapter.run(service, RecordingCommands()))
        try:
            await eventually(lambda: adapter.fault is None)
            station = SimulatedStation(settings, "line1", pool=POOL, missing=tmp_path)
            async with asyncio.timeout(60):
                await station.run(seed=3, rates=RATES, belt=BELT, parts=PARTS)
        finally:
            running.cancel()
            await asyncio.wait([running])
            await adapter.close()
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
