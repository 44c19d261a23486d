"""What the runner takes over, and when: a burst, and the last moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from schemas.messages import Command, CommandName, CommandReply
from service.errors import JournalError
from service.ports import Arrival
from service.runner import Runner
from tests.support.line import arrival
from tests.support.waiting import eventually, loop_turns


class Inspecting:
    """Stands for inspector, dispatcher and station: takes every event, and is done with it when `done` is set."""

    has_room = can_judge = True
    last_seq = 0

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.done = asyncio.Event()

        self.unreadable = 0
        self.left_open: list[Arrival] = []

    @property
    def idle(self) -> bool:
        return True

    async def take_up_numbering(self) -> None:
        pass

    async def recover(self) -> list[Arrival]:
        if self.unreadable:
            self.unreadable -= 1
            raise JournalError("cannot be read")
        return self.left_open

    async def inspect(self, event: Arrival) -> None:
        self.taken.append(event.event.event_id)
        await self.done.wait()

    def keep_now(self) -> None:
        pass

    def beat(self) -> bool:
        return False

    def status(self) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()


class Asleep:
    """A watchdog that nobody asks."""

    def started(self) -> None:
        pass

    def stopping(self) -> None:
        pass


class Shown:
    """Stands for an outbox and its sink: keeps what it is told of the station."""

    name = "shown"

    def __init__(self) -> None:
        self.sink = self
        self.ready: list[bool] = []

    async def recover(self, last_seq: int) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def publish_status(self, status: object, *, ready: bool) -> None:  # noqa: ARG002 - the port's
        self.ready.append(ready)


async def _at_once() -> None:
    pass


@asynccontextmanager
async def running(
    inspecting: Inspecting, capacity: int = 10, *, shown: Sequence[Shown] = (), commands: object = None
) -> AsyncIterator[tuple[Runner, asyncio.Event]]:
    anything = cast("Any", inspecting)
    runner = Runner(
        station=anything,
        inspector=anything,
        dispatcher=anything,
        outboxes=cast("Any", shown),
        adapters=(),
        tasks=(),
        commands=cast("Any", commands),
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


async def test_what_was_left_open_is_answered_when_the_journal_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that fails at the start is asked again; meanwhile the line runs."""
    monkeypatch.setattr("service.runner._RECOVER_RETRY_S", 0.01)
    inspecting = Inspecting()
    inspecting.unreadable, inspecting.left_open = 2, [arrival("left open")]
    async with running(inspecting) as (runner, _):
        runner.submit(arrival("new"))
        await eventually(lambda: "left open" in inspecting.taken)
    assert inspecting.taken == ["new", "left open"]


async def test_a_command_that_ends_judging_is_shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trigger that is written while Ready is shown is judged: other news of the station wait, this one does not."""
    monkeypatch.setattr("service.runner._STATUS_DELAY_S", 60.0)
    inspecting, shown = Inspecting(), Shown()

    class Pausing:
        async def handle(self, command: Command, source: str) -> CommandReply:  # noqa: ARG002 - the port's
            inspecting.can_judge = False
            return CommandReply(station="line1", command=command.command, ok=True)

    async with running(inspecting, shown=[shown], commands=Pausing()) as (runner, _):
        await eventually(lambda: shown.ready == [True])
        runner.submit(arrival("in work"))
        await runner.handle(Command(command=CommandName.PAUSE), "test")
        await eventually(lambda: shown.ready == [True, False])


class Diary(Inspecting):
    """Stands for everything that the runner brings up and down, and keeps in which order it did."""

    name = "adapter"
    last_seq = 41

    def __init__(self) -> None:
        super().__init__()
        self.sink = self
        self.all_is_out = True
        self.asked = 0  # whether all is out
        self.entries: list[str] = []
        self.left_open = [arrival("left open")]

    @property
    def idle(self) -> bool:
        self.asked += 1
        return self.all_is_out

    async def open(self) -> None:
        self.entries.append("adapter opened")

    async def take_up_numbering(self) -> None:
        self.entries.append("numbering taken up")

    async def recover(self, last_seq: int | None = None) -> Any:
        self.entries.append("events recovered" if last_seq is None else f"outbox recovered from {last_seq}")
        return self.left_open if last_seq is None else None

    async def ready(self) -> None:
        self.entries.append("made ready")

    def started(self) -> None:
        self.entries.append("started")

    async def run(self, *heard: object) -> None:
        if heard:
            self.entries.append("adapter runs")
        await asyncio.Event().wait()

    async def inspect(self, event: Arrival) -> None:
        self.entries.append(f"{event.event.event_id} in work")
        await self.done.wait()
        self.entries.append(f"{event.event.event_id} answered")

    async def publish_status(self, status: object, *, ready: bool) -> None:
        pass

    def stopping(self) -> None:
        self.entries.append("stopping")

    def keep_now(self) -> None:
        self.entries.append("kept")

    async def close(self) -> None:
        self.entries.append("closed")


class Failing:
    """An adapter that cannot say good-bye."""

    name = "failing"

    async def open(self) -> None:
        pass

    async def run(self, *_: object) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        raise OSError("gone")


async def test_runner_brings_up_and_down_in_order() -> None:
    """What was left open is in work before a broker gives it again; the last verdict is out before anything closes."""
    diary = Diary()
    anything = cast("Any", diary)
    runner = Runner(
        station=anything,
        inspector=anything,
        dispatcher=anything,
        outboxes=[anything],
        adapters=[cast("Any", Failing()), anything],
        tasks=(),
        commands=anything,
        capacity=10,
        watchdog=anything,
        before_ready=diary.ready,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    await eventually(lambda: "adapter runs" in diary.entries)
    assert [each.event.event_id for each in runner.left_open] == ["left open"]
    stop.set()
    await eventually(lambda: "stopping" in diary.entries)
    await loop_turns(20)
    assert "kept" not in diary.entries  # a part is in work
    diary.all_is_out = False
    diary.done.set()
    await eventually(lambda: diary.asked > 1)
    assert "kept" not in diary.entries  # its verdict is not out
    diary.all_is_out = True
    await asyncio.wait_for(task, 20)
    assert diary.entries == [
        "adapter opened",
        "numbering taken up",
        "outbox recovered from 41",
        "made ready",
        "events recovered",
        "started",
        "left open in work",
        "adapter runs",
        "stopping",
        "left open answered",
        "kept",
        "closed",
    ]


async def test_runner_tells_its_watchdog_only_that_it_can_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told of a station whose heartbeat stands still, systemd would leave it so."""
    monkeypatch.setattr("service.runner._HEARTBEAT_S", 0.001)
    told: list[object] = []

    class Beating(Inspecting):
        beats = 0

        def beat(self) -> bool:
            self.beats += 1
            return self.beats % 2 == 0

        def status(self) -> Any:
            return self.beats

    monkeypatch.setattr(Asleep, "alive", lambda _, status: told.append(status), raising=False)
    async with running(Beating()):
        await eventually(lambda: len(told) >= 3)
    assert told[:3] == [2, 4, 6]


async def test_runner_has_no_room_where_the_inspector_has_none_or_nothing_can_be_judged() -> None:
    """Whichever of the two it is: a trigger that is written then is missed, and must not be invited."""
    inspecting = Inspecting()
    async with running(inspecting) as (runner, _):
        seen = [runner.ready]
        for what in ("has_room", "can_judge"):
            setattr(inspecting, what, False)
            seen.append(runner.ready)
            setattr(inspecting, what, True)
        assert seen == [True, False, False]
