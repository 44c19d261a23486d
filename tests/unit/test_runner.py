"""What the runner takes over, and when: a burst, and the last moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from service.ports import Arrival
from service.runner import Runner
from tests.support.line import arrival
from tests.support.waiting import eventually


class Inspecting:
    """Stands for inspector, dispatcher and station: takes every event, and is done with it when `done` is set."""

    has_room = can_judge = idle = True
    last_seq = 0

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.done = asyncio.Event()

    async def recover(self) -> list[Arrival]:
        return []

    async def inspect(self, event: Arrival) -> None:
        self.taken.append(event.event.event_id)
        await self.done.wait()

    def keep_now(self) -> None:
        pass

    def beat(self) -> bool:
        return False

    async def run(self) -> None:
        await asyncio.Event().wait()


class Asleep:
    """A watchdog that nobody asks, and commands that nobody gives."""

    def started(self) -> None:
        pass

    def stopping(self) -> None:
        pass


async def _at_once() -> None:
    pass


@asynccontextmanager
async def running(inspecting: Inspecting, capacity: int = 10) -> AsyncIterator[tuple[Runner, asyncio.Event]]:
    anything = cast("Any", inspecting)
    runner = Runner(
        station=anything,
        inspector=anything,
        dispatcher=anything,
        outboxes=(),
        adapters=(),
        parts=(),
        commands=cast("Any", Asleep()),
        capacity=capacity,
        watchdog=cast("Any", Asleep()),
        before_ready=_at_once,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    await runner.started.wait()
    try:
        yield runner, stop
    finally:
        inspecting.done.set()
        stop.set()
        await asyncio.wait_for(task, 10)


async def test_a_burst_fills_the_places_before_anybody_is_inspected() -> None:
    """A PLC that writes many triggers in one request is told that there is no room as soon as there is none."""
    async with running(Inspecting(), capacity=3) as (runner, _):
        shown = []
        for number in range(4):
            shown.append(runner.ready)
            runner.submit(arrival(f"e{number}"))
        assert shown == [True, True, True, False]


async def test_what_comes_in_the_last_moments_is_answered_unless_it_comes_again() -> None:
    """A trigger that was given while Ready was shown is not dropped; a broker keeps what is not acknowledged."""
    inspecting = Inspecting()
    async with running(inspecting) as (runner, stop):
        runner.submit(arrival("in work"))
        stop.set()
        await eventually(lambda: not runner.ready)
        runner.submit(arrival("of a broker", comes_again=True))
        runner.submit(arrival("a trigger"))
        await eventually(lambda: "a trigger" in inspecting.taken)
    assert inspecting.taken == ["in work", "a trigger"]
