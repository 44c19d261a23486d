"""Stations of one process at one PLC: one session for all of them, and what is wrong with one stays with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from adapters.opcua.client.sessions import PlcSessions
from adapters.simulation.plc_server import PlcServer
from tests.support.opcua import RecordingIntake, free_port
from tests.support.plc import plc_client, serving
from tests.support.waiting import eventually

STATIONS = ("line1", "line2", "line3")


@pytest_asyncio.fixture
async def plc() -> AsyncIterator[PlcServer]:
    async with PlcServer(free_port(), stations=STATIONS) as served:
        yield served


def connections(plc: PlcServer) -> int:
    """Return how many clients the PLC's server has."""
    return len(plc.server.bserver.clients) if plc.server.bserver else 0


async def inspects(plc: PlcServer, intake: RecordingIntake, station: str, part_id: str) -> None:
    """Trigger a station; its part arrives there and its result in its own nodes."""
    await plc.trigger(part_id, station=station)
    assert (await asyncio.wait_for(intake.arrivals.get(), 10)).event.part_id == part_id
    assert (await asyncio.wait_for(plc.result(station), 10)).part_id == part_id


async def test_stations_share_one_session_and_keep_their_parts_apart(plc: PlcServer) -> None:
    """Triggers of all at once: each station gets its own; the session stays for the last and ends with it."""
    sessions = PlcSessions()
    first, second, third = (plc_client(plc.mapping(each), station=each, sessions=sessions) for each in STATIONS)
    async with serving(first) as at_first:
        async with serving(second) as at_second, serving(third) as at_third:
            assert connections(plc) == 1
            intakes = dict(zip(STATIONS, (at_first, at_second, at_third), strict=True))
            for number in range(5):
                await asyncio.gather(
                    *(inspects(plc, intake, each, f"{each}-{number}") for each, intake in intakes.items())
                )
        assert second.fault is not None
        await inspects(plc, at_first, "line1", "alone")
        assert connections(plc) == 1
        assert first.fault is None
    await eventually(lambda: connections(plc) == 0)


async def test_station_with_a_wrong_node_does_not_disturb_the_others(plc: PlcServer) -> None:
    """It says what is wrong and tries again on the same session, whose other stations notice nothing."""
    sessions = PlcSessions()
    first = plc_client(plc.mapping("line1"), sessions=sessions)
    wrong = plc_client(plc.mapping("line2") | {"verdict": "nsu=urn:plc;s=nowhere"}, station="line2", sessions=sessions)
    async with serving(first) as at_first, serving(wrong, connected=False):
        await eventually(lambda: "node_unknown: verdict" in str(wrong.fault))
        for number in range(3):
            await inspects(plc, at_first, "line1", f"A-{number}")
            await asyncio.sleep(0.2)  # its pause between two attempts
        assert connections(plc) == 1
        assert first.fault is None


@pytest.mark.parametrize("difference", [{"request_timeout_ms": 4000}, {"username": "other", "password": "x"}], ids=str)
async def test_stations_that_reach_the_plc_otherwise_have_sessions_of_their_own(
    plc: PlcServer, difference: dict[str, Any]
) -> None:
    """Another user or another patience is another session."""
    sessions = PlcSessions()
    first = plc_client(plc.mapping("line1"), sessions=sessions)
    second = plc_client(plc.mapping("line2") | difference, station="line2", sessions=sessions)
    async with serving(first), serving(second, connected="username" not in difference):
        await eventually(lambda: connections(plc) == 2)


async def test_session_that_is_lost_is_lost_to_all_and_comes_back_for_all() -> None:
    """After a restart of the PLC the stations share again, and each trigger is judged."""
    port, sessions = free_port(), PlcSessions()
    async with AsyncExitStack() as stack:
        async with PlcServer(port, stations=STATIONS[:2]) as plc:
            clients = {each: plc_client(plc.mapping(each), station=each, sessions=sessions) for each in STATIONS[:2]}
            intakes = {each: await stack.enter_async_context(serving(client)) for each, client in clients.items()}
        await eventually(lambda: all(client.fault is not None for client in clients.values()))
        async with PlcServer(port, stations=STATIONS[:2], namespaces=("urn:before",)) as restarted:
            await eventually(lambda: all(client.fault is None for client in clients.values()))
            assert connections(restarted) == 1
            await asyncio.gather(
                *(inspects(restarted, intake, each, f"again {each}") for each, intake in intakes.items())
            )
