"""Each part is inspected with its own frame where a PLC's stamps say little or nothing; the server is a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from asyncua import ua

from adapters.simulation.plc_server import TRIGGER_WORDS, TYPES, PlcServer
from schemas.messages import Reason
from service.ports import Arrival
from tests.support.opcua import RecordingIntake
from tests.support.plc import plc_client, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

Stamp = Callable[[], datetime | None]


def none() -> None:
    """A server that stamps nothing."""


def in_seconds() -> datetime:
    """A PLC whose clock shows whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def in_the_same_second() -> datetime:
    return datetime(2126, 1, 1, 6, tzinfo=UTC)


def ring(number: int) -> str:
    return f"file:///ring/{number % 4}.png"


def numbered(number: int) -> str:
    return f"file:///frames/{number}.png"


async def give(plc: PlcServer, number: int, name: str, stamp: Stamp, event_id: str = "") -> None:
    """Write the texts of a part and its trigger, with the PLC's stamps."""
    for word, value in zip(TRIGGER_WORDS, (f"C-{number}", name, event_id, number), strict=True):
        at: Any = stamp()
        told = ua.DataValue(ua.Variant(value, TYPES[word]), SourceTimestamp=at, ServerTimestamp=at)
        await plc.server.write_attribute_value(plc.node(word).nodeid, told)


def shown(arrival: Arrival) -> tuple[int | None, str | None, str | None]:
    uri = arrival.image.uri if arrival.image else None
    return arrival.event.trigger_id, arrival.event.part_id, uri


@pytest.mark.parametrize("name", [ring, numbered])
@pytest.mark.parametrize("stamp", [none, in_seconds])
@pytest.mark.parametrize("publishing_ms", [5, 60])
async def test_every_part_is_inspected_with_its_own_frame(
    plc: PlcServer, stamp: Stamp, name: Callable[[int], str], publishing_ms: float
) -> None:
    """A line that waits for its results, over several seconds of its clock; "99" is followed by "100"."""
    async with serving(plc_client(plc.mapping() | {"publishing_ms": publishing_ms})) as intake:
        for number in range(92, 112):
            await give(plc, number, name(number), stamp)
            arrival = await asyncio.wait_for(intake.arrivals.get(), 10)
            assert (shown(arrival), arrival.refusal) == ((number, f"C-{number}", name(number)), None)
            assert (await asyncio.wait_for(plc.result(), 10)).trigger_id == number
            await asyncio.sleep(0.06)  # the PLC's clock is what is tested


@pytest.mark.parametrize("stamp", [none, in_the_same_second])
async def test_part_whose_frame_is_not_known_is_refused(plc: PlcServer, stamp: Stamp) -> None:
    """Parts that come at once, from a PLC that cannot tell when: none is inspected with the frame of another.

    Nor does one get its verdict, though an event id was left standing.
    """
    async with serving(plc_client(plc.mapping() | {"publishing_ms": 200}), RecordingIntake()) as intake:
        await give(plc, 1, numbered(1), stamp, "standing")
        await asyncio.wait_for(intake.arrivals.get(), 10)
        for number in range(2, 6):
            await give(plc, number, numbered(number), stamp, "standing")
        arrivals = [await asyncio.wait_for(intake.arrivals.get(), 10) for _ in range(2, 6)]
    assert [arrival.event.trigger_id for arrival in arrivals] == [2, 3, 4, 5]
    assert shown(arrivals[-1]) == (5, "C-5", numbered(5))
    for arrival in arrivals[:-1]:
        assert arrival.refusal is not None
        assert (arrival.refusal.reason, arrival.event.part_id, arrival.image) == (Reason.FRAME_REFUSED, None, None)
        assert arrival.refusal.detail.startswith("part_id, image_uri: ")
        assert arrival.event.event_id.startswith("line1-")
