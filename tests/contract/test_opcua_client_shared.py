"""Stations of one process at one PLC: one session for all of them, and what is wrong with one stays with it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AddressSpace, AttributeService
from structlog.testing import capture_logs

from adapters.opcua.client import OpcUaClientAdapter
from adapters.opcua.client.access import PlcAccess
from adapters.opcua.client.connection import PlcConnection
from adapters.opcua.client.sessions import PlcSessions
from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import PlcServer
from service.errors import SinkUnavailable
from tests.support.fakes import RecordingIntake
from tests.support.opcua import NoCommands, status
from tests.support.plc import StubbornPlc, plc_client, refusing, serving
from tests.support.waiting import eventually, loop_turns

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


class CountedSessions(PlcSessions):
    """Counts how often a station has joined."""

    joined = 0

    @asynccontextmanager
    async def join(self, way: Hashable, access: PlcAccess) -> AsyncIterator[PlcConnection]:
        self.joined += 1
        async with super().join(way, access) as connection:
            yield connection

    def was_joined_after(self, count: int) -> bool:
        return self.joined > count


async def test_station_with_a_wrong_node_does_not_disturb_the_others(plc: PlcServer) -> None:
    """It says what is wrong and tries again on the same session, whose other stations notice nothing."""
    sessions = CountedSessions()
    first = plc_client(plc.mapping("line1"), sessions=sessions)
    wrong = plc_client(plc.mapping("line2") | {"verdict": "nsu=urn:plc;s=nowhere"}, station="line2", sessions=sessions)
    async with serving(first) as at_first, serving(wrong, connected=False):
        await eventually(lambda: "node_unknown: verdict" in str(wrong.fault))
        for number in range(3):
            await inspects(plc, at_first, "line1", f"A-{number}")
            tried = sessions.joined
            await eventually(partial(sessions.was_joined_after, tried))
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


async def test_station_that_is_refused_its_items_leaves_nothing_on_the_session(
    plc: PlcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PLC that is out of monitored items: each attempt takes its subscription away again."""
    service = plc.server.iserver.subscription_service
    watched, attempts = plc.node("trigger", "line2").nodeid, 0
    monitor = service.create_monitored_items

    async def refuse(params: ua.CreateMonitoredItemsParameters, *more: Any) -> Any:
        nonlocal attempts
        if params.ItemsToCreate[-1].ItemToMonitor.NodeId != watched:
            return await monitor(params, *more)
        attempts += 1
        raise ServiceError(ua.StatusCodes.BadTooManyMonitoredItems)

    monkeypatch.setattr(service, "create_monitored_items", refuse)
    sessions = PlcSessions()
    first = plc_client(plc.mapping("line1"), sessions=sessions)
    second = plc_client(plc.mapping("line2"), station="line2", sessions=sessions)
    async with serving(first) as at_first, serving(second, connected=False):
        await eventually(lambda: attempts >= 4)
        assert "BadTooManyMonitoredItems" in str(second.fault)
        assert len(service.subscriptions) <= 2
        await inspects(plc, at_first, "line1", "A")
    await eventually(lambda: not service.subscriptions)


@pytest.mark.parametrize("word", ["verdict", "result_trigger_id", "heartbeat"])
async def test_station_whose_value_is_refused_does_not_disturb_the_others(plc: PlcServer, word: str) -> None:
    """It looks at its own nodes anew, on the session that the others go on using, and its results go out after that."""
    StubbornPlc(plc)
    sessions = PlcSessions()
    first = plc_client(plc.mapping("line1"), sessions=sessions)
    second = plc_client(plc.mapping("line2"), station="line2", sessions=sessions)
    with capture_logs() as logs:
        async with serving(first) as at_first, serving(second):
            with refusing(plc, word, ua.StatusCodes.BadOutOfRange, station="line2"):
                for number in range(1, 6):
                    await plc.trigger(f"B-{number}", station="line2")
                    with suppress(SinkUnavailable):
                        await second.publish_status(status(heartbeat=number), ready=True)
                    await inspects(plc, at_first, "line1", f"A-{number}")
            await eventually(lambda: second.fault is None or "write_refused" not in second.fault)
            await plc.trigger("B-6", station="line2")
            await eventually(lambda: was_given(plc, "line2", "B-6"))
            assert (connections(plc), first.fault) == (1, None)
    events = [entry["event"] for entry in logs]
    assert events.count("plc_connected") == len((first, second))
    assert (events.count("plc_looked_at_anew") > 0) is (word != "heartbeat")


async def was_given(plc: PlcServer, station: str, part_id: str) -> bool:
    """Tell whether a station's result is that of a part."""
    return bool(await plc.node("result_part_id", station).read_value() == part_id)


async def test_request_without_an_answer_renews_the_session_of_all(plc: PlcServer) -> None:
    """The PLC hangs while it takes one station's result: its session is thrown away, and all come back on a new one."""
    answers = asyncio.Event()
    answers.set()
    service = HangingPlc(plc.server.iserver.aspace, plc.node("verdict", "line2").nodeid, answers)
    plc.server.iserver.attribute_service = service
    sessions, patience = PlcSessions(), {"request_timeout_ms": 400}
    first = plc_client(plc.mapping("line1") | patience, sessions=sessions)
    second = plc_client(plc.mapping("line2") | patience, station="line2", sessions=sessions)
    async with serving(first) as at_first, serving(second):
        answers.clear()
        await plc.trigger("slow", station="line2")
        await eventually(lambda: "no_answer" in str(first.fault))
        assert "no_answer" in str(second.fault)
        answers.set()
        assert (await asyncio.wait_for(plc.result("line2"), 20)).part_id == "slow"
        await eventually(lambda: first.fault is None)
        await inspects(plc, at_first, "line1", "after")
        await eventually(lambda: connections(plc) == 1)


class HangingPlc(AttributeService):
    """Takes a write to one node only while it answers."""

    def __init__(self, aspace: AddressSpace, node_id: ua.NodeId, answers: asyncio.Event) -> None:
        super().__init__(aspace)
        self._node_id = node_id
        self._answers = answers

    async def write(
        self,
        params: ua.WriteParameters,
        user: User = User(role=UserRole.Admin),  # noqa: B008 - asyncua's signature
    ) -> list[ua.StatusCode]:
        if any(item.NodeId == self._node_id for item in params.NodesToWrite):
            await self._answers.wait()
        return await super().write(params, user)


def _has_no_fault(client: OpcUaClientAdapter) -> bool:
    return client.fault is None


async def test_station_that_stops_while_it_opens_leaves_the_session_to_the_others(plc: PlcServer) -> None:
    """Whoever was first is cancelled at any moment: the second one is served, and nobody leaves a task behind."""
    loop, left_behind = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _loop, context: left_behind.append(context["message"]))
    for turns in range(0, 24, 2):
        sessions = PlcSessions()
        first = plc_client(plc.mapping("line1"), sessions=sessions)
        second = plc_client(plc.mapping("line2"), station="line2", sessions=sessions)
        await first.open()
        opening = asyncio.create_task(first.run(RecordingIntake(), NoCommands()))
        await loop_turns(turns // 2)
        async with serving(second, connected=False) as at_second:
            await loop_turns(turns - turns // 2)
            opening.cancel()
            await asyncio.wait([opening])
            await eventually(partial(_has_no_fault, second))
            await inspects(plc, at_second, "line2", "B")
            assert connections(plc) == 1, turns
        await eventually(lambda: connections(plc) == 0)
        gc.collect()
        assert left_behind == [], turns


async def test_only_station_that_stops_while_it_opens_leaves_nothing_behind(plc: PlcServer) -> None:
    """Neither a connection nor an exception that nobody has looked at, whenever it was."""
    loop, left_behind = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _loop, context: left_behind.append(context["message"]))
    for turns in range(12):
        only = plc_client(plc.mapping("line1"))
        await only.open()
        opening = asyncio.create_task(only.run(RecordingIntake(), NoCommands()))
        await loop_turns(turns)
        opening.cancel()
        await asyncio.wait([opening])
        await eventually(lambda: connections(plc) == 0)
        gc.collect()
        assert left_behind == [], turns


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
