"""What a station says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from schemas.messages import Decision, FaultCode, ModelRef, StationState
from service.station import Station
from tests.support.clock import HandClock
from tests.support.line import MODEL, RecordingSink
from tests.support.opcua import verdict


@dataclass
class Health:
    """Everything that can be well or ill; well, as it comes."""

    model: ModelRef | None = MODEL
    thread: str | None = None
    pictures: str | None = None
    in_work: int = 0
    can_decide: bool = True


class SetClock(HandClock):
    """Its wall time, too, is what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.began = super().now()

    def now(self) -> datetime:
        return self.began + timedelta(seconds=self.seconds)


def a_station(health: Health) -> tuple[Station, RecordingSink, SetClock]:
    sink, clock = RecordingSink(), SetClock()
    station = Station(
        "line1",
        version="1.2.3",
        clock=clock,
        model=lambda: health.model,
        model_fault=lambda: "no such file",
        in_work=lambda: health.in_work,
        can_decide=lambda: health.can_decide,
        sinks=[sink],
        blocking_faults=[(FaultCode.COMPUTE_STUCK, "compute", lambda: health.thread)],
        side_faults=[(FaultCode.PICTURES_FAILING, "pictures", lambda: health.pictures)],
    )
    return station, sink, clock


@pytest.mark.parametrize(
    ("health", "paused", "down", "state", "code", "not_ready"),
    [
        (Health(), False, False, StationState.READY, None, []),
        (Health(in_work=2), False, False, StationState.BUSY, None, []),
        (Health(pictures="full"), False, False, StationState.DEGRADED, FaultCode.PICTURES_FAILING, []),
        (Health(in_work=2), False, True, StationState.DEGRADED, FaultCode.SINK_DOWN, ["recorder: down"]),
        (Health(pictures="full"), False, True, StationState.DEGRADED, FaultCode.SINK_DOWN, ["recorder: down"]),
        (Health(), True, True, StationState.FAULT, FaultCode.PAUSED, ["recorder: down", "station: paused by command"]),
        (Health(thread="hangs"), True, False, StationState.FAULT, FaultCode.COMPUTE_STUCK, ["compute: hangs"]),
        (
            Health(model=None, thread="hangs", pictures="full"),
            True,
            False,
            StationState.FAULT,
            FaultCode.MODEL_UNAVAILABLE,
            ["model: no such file"],
        ),
    ],
)
def test_station_says_the_worst_of_itself(
    health: Health, *, paused: bool, down: bool, state: StationState, code: FaultCode | None, not_ready: list[str]
) -> None:
    """What keeps parts from being judged goes before what fails beside them; one who may judge says so."""
    station, sink, _ = a_station(health)
    station.paused, sink.down = paused, down
    status = station.status()
    assert (status.state, None if status.fault is None else status.fault.code) == (state, code)
    assert station.can_judge is (state is not StationState.FAULT)
    assert station.not_ready() == not_ready
    assert (status.model, status.queue) == (health.model, health.in_work)


def test_station_says_since_when_it_is_so() -> None:
    """Other news leave that as it is."""
    health = Health()
    station, sink, clock = a_station(health)
    said = []
    for down in (False, False, True, True, False):
        clock.seconds += 1
        sink.down = down
        said.append((station.status().since - clock.began).total_seconds())
    assert said == [1, 1, 3, 3, 5]


def test_heartbeat_stands_still_while_nothing_can_be_decided() -> None:
    """A PLC stops trusting a station then, and systemd starts a new one."""
    health = Health()
    station, _, _ = a_station(health)
    rose = []
    for can_decide in (True, True, False, False, True):
        health.can_decide = can_decide
        rose.append((station.beat(), station.status().heartbeat))
    assert rose == [(True, 1), (True, 2), (False, 2), (False, 2), (True, 3)]


def test_station_counts_each_decision_by_itself() -> None:
    """Since the start."""
    station, _, _ = a_station(Health())
    for decision, times in ((Decision.OK, 3), (Decision.DAMAGED, 2), (Decision.ERROR, 1)):
        for _ in range(times):
            station.count(verdict(decision=decision))
    counts = station.status().counts
    assert (counts.ok, counts.damaged, counts.error) == (3, 2, 1)
