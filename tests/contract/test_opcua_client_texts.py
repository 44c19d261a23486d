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
from tests.support.fakes import RecordingIntake
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


async def give(
    plc: PlcServer, number: int, name: str, stamp: Stamp, event_id: str = "", *, part: int | None = None
) -> None:
    """Write the texts of a part and its trigger, with the PLC's stamps."""
    for word, value in zip(TRIGGER_WORDS, (f"C-{part or number}", name, event_id, number), strict=True):
        at: Any = stamp()
        told = ua.DataValue(ua.Variant(value, TYPES[word]), SourceTimestamp=at, ServerTimestamp=at)
        await plc.server.write_attribute_value(plc.node(word).nodeid, told)


def shown(arrival: Arrival) -> tuple[int | None, str | None, str | None]:
    uri = arrival.image.uri if arrival.image else None
    return arrival.event.trigger_id, arrival.event.part_id, uri


def refused(arrival: Arrival, words: str) -> None:
    """Check that a part is refused for `words`, under an event id of its own."""
    assert arrival.refusal is not None
    assert arrival.refusal.reason is Reason.FRAME_REFUSED
    assert arrival.refusal.detail.startswith(f"{words}: ")
    assert arrival.event.event_id.startswith("line1-")


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

    Nor does one get its verdict, though an event id was left standing. The line that waits again is believed again.
    """
    async with serving(plc_client(plc.mapping() | {"publishing_ms": 200}), RecordingIntake()) as intake:
        await give(plc, 1, numbered(1), stamp, "standing")
        await asyncio.wait_for(intake.arrivals.get(), 10)
        for number in range(2, 6):
            await give(plc, number, numbered(number), stamp, "standing")
        arrivals = [await asyncio.wait_for(intake.arrivals.get(), 10) for _ in range(2, 6)]
        await give(plc, 6, numbered(6), stamp)
        assert shown(await asyncio.wait_for(intake.arrivals.get(), 10)) == (6, "C-6", numbered(6))
    assert [arrival.event.trigger_id for arrival in arrivals] == [2, 3, 4, 5]
    for arrival in arrivals:
        refused(arrival, "part_id, image_uri")


@pytest.mark.parametrize("stamp", [none, in_the_same_second])
async def test_part_whose_texts_may_be_the_next_one_s_is_refused(plc: PlcServer, stamp: Stamp) -> None:
    """The next part's are written in the same cycle, and its trigger long after: it is refused no more than others."""
    async with serving(plc_client(plc.mapping() | {"publishing_ms": 200}), RecordingIntake()) as intake:
        await give(plc, 1, numbered(1), stamp)
        await asyncio.wait_for(intake.arrivals.get(), 10)
        for number in (2, 3):
            await give(plc, 2, numbered(number), stamp, part=number)
        refused(await asyncio.wait_for(intake.arrivals.get(), 10), "part_id, image_uri")
        await give(plc, 3, numbered(3), stamp)
        arrival = await asyncio.wait_for(intake.arrivals.get(), 10)
        assert (shown(arrival), arrival.refusal) == ((3, "C-3", numbered(3)), None)


@pytest.mark.parametrize("word", ["part_id", "image_uri", "event_id"])
@pytest.mark.parametrize("status", [ua.StatusCodes.UncertainLastUsableValue, ua.StatusCodes.BadNoCommunication])
async def test_part_with_a_text_that_is_not_good_is_refused(plc: PlcServer, word: str, status: int) -> None:
    """Whatever it holds: neither the frame nor the verdict of the part before is its own."""
    async with serving(plc_client(plc.mapping()), RecordingIntake()) as intake:
        await give(plc, 1, numbered(1), lambda: datetime.now(UTC), "E1")
        assert (await asyncio.wait_for(intake.arrivals.get(), 10)).event.event_id == "E1"
        node, code = plc.node(word), ua.StatusCode(ua.UInt32(status))
        stale, now = ua.Variant(await node.read_value(), ua.VariantType.String), ua.DateTime.now(UTC)
        for text in {"part_id", "image_uri"} - {word}:
            await plc.node(text).write_value("file:///2.png")
        await plc.server.write_attribute_value(node.nodeid, ua.DataValue(stale, code, SourceTimestamp=now))
        await plc.node("trigger").write_value(2, ua.VariantType.UInt32)
        refused(await asyncio.wait_for(intake.arrivals.get(), 10), word)
        await give(plc, 3, numbered(3), lambda: datetime.now(UTC))
        arrival = await asyncio.wait_for(intake.arrivals.get(), 10)
        assert (shown(arrival), arrival.refusal) == ((3, "C-3", numbered(3)), None)
