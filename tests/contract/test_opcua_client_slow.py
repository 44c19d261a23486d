"""A PLC that takes its time over each request: no PASS counts after its deadline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import PlcServer
from schemas.tags import VerdictCode
from tests.support.clock import HandClock
from tests.support.fakes import RecordingIntake
from tests.support.opcua import answer, verdict
from tests.support.plc import StubbornPlc, plc_client, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

WRITE_S = 0.3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served_plc() -> AsyncIterator[PlcServer]:
    async with PlcServer(free_port()) as plc:
        yield plc


class SlowPlc(StubbornPlc):
    """A PLC that needs `WRITE_S` on a test's clock before it carries out a write."""

    def __init__(self, plc: PlcServer, clock: HandClock) -> None:
        super().__init__(plc)
        self._clock = clock
        self.seen: list[tuple[float, list[object]]] = []
        """When each write was done, and what stood in `result_seq`, `verdict` and `reject` then."""
        self._ids = [plc.node(word).nodeid for word in ("result_seq", "verdict", "reject")]
        self.written = self._look

    def _look(self) -> None:
        self._clock.seconds += WRITE_S
        self.seen.append((self._clock.seconds, [self.held(node_id) for node_id in self._ids]))


@pytest.mark.parametrize(
    ("most", "transit_s", "deadline_s", "passes"),
    [
        (25, 0.0, 0.25, False),
        (25, 0.0, 0.5, False),  # the words are there in time, their number would not be
        (25, 0.1, 0.59, False),
        (25, 0.1, 0.61, True),  # what is allowed for the way is not allowed for twice
        (25, 0.5, 0.61, False),
        (25, 0.5, 0.81, True),
        (1, 0.0, 1.7, False),
        (1, 0.0, 4.0, True),
    ],
)
@pytest.mark.parametrize("mapped", [True, False])
async def test_pass_whose_number_would_come_too_late_is_taken_back_before(
    plc: PlcServer, most: int, transit_s: float, deadline_s: float, *, passes: bool, mapped: bool
) -> None:
    """A PLC that takes a result in two writes, or word by word: by its deadline the part passes, or it is rejected."""
    clock = HandClock()
    service = SlowPlc(plc, clock)
    service.most = {"write": most}
    adapter = plc_client(plc.mapping() | ({} if mapped else {"reject": ""}), clock=clock)
    async with serving(adapter, RecordingIntake()):
        await adapter.publish(answer(verdict(1), in_s=0.0))
        service.seen.clear()
        clock.seconds = 0.0
        said = replace(answer(verdict(2)), deadline_monotonic=deadline_s, transit_s=transit_s)
        await adapter.publish(said)
    done_s, (seq, code, reject) = service.seen[-1]
    assert (seq, code == VerdictCode.OK and not (mapped and reject)) == (2, passes)
    assert not passes or done_s <= deadline_s
