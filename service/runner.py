"""Runs what a service is made of side by side and supervises it; judges nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from schemas.messages import Command, CommandReply
from service.dispatch import Dispatcher
from service.errors import JournalError, SinkUnavailable
from service.inspector import Inspector
from service.outbox import Outbox
from service.ports import Adapter, Arrival, CommandHandler, VerdictSink, Watchdog
from service.station import Station
from service.tasks import NamedTask, supervise

log = structlog.get_logger(__name__)

_HEARTBEAT_S = 0.5
_STATUS_DELAY_S = 0.1
"""Longer than most inspections: a line flips between ready and busy with every part, and to tell twenty subscribers so
in the middle of one costs the gate more than anybody gains. What a PLC must see at once its adapter writes itself.
"""

_RECOVER_RETRY_S = 1.0
_DRAIN_S = 5.0
_CLOSE_S = 2.5


@dataclass(slots=True, eq=False)
class _PendingStatus:
    """What a sink has to be told. could_judge: of the last news, None before the first."""

    news: asyncio.Event = field(default_factory=asyncio.Event)
    urgent: asyncio.Event = field(default_factory=asyncio.Event)
    could_judge: bool | None = None


class Runner:
    """The running service: sources hand their events to `submit` and commands to `handle`; `run` keeps all else going.

    Args:
        station: whose status is told.
        inspector: answers events.
        dispatcher: brings the answers out.
        outboxes: one a sink.
        adapters: what has a wire.
        tasks: what else must run.
        commands: carries out what the adapters are told.
        capacity: so many events may be in work or wait.
        watchdog: told that the service is alive and able to decide, with each beat.
        before_ready: done before the first event is taken.
    """

    def __init__(
        self,
        *,
        station: Station,
        inspector: Inspector,
        dispatcher: Dispatcher,
        outboxes: Sequence[Outbox],
        adapters: Sequence[Adapter],
        tasks: Sequence[NamedTask],
        commands: CommandHandler,
        capacity: int,
        watchdog: Watchdog,
        before_ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._station = station
        self._inspector = inspector
        self._dispatcher = dispatcher
        self._outboxes = outboxes
        self._adapters = adapters
        self._left_open: Sequence[Arrival] = ()
        self._tasks = tasks
        self._commands = commands
        self._capacity = capacity
        self._watchdog = watchdog
        self._before_ready = before_ready
        self._group: asyncio.TaskGroup | None = None
        self._inspections: set[asyncio.Task[None]] = set()
        self._draining = False
        self._pending_status = [_PendingStatus() for _ in outboxes]
        self.started = asyncio.Event()

    def submit(self, arrival: Arrival) -> None:
        """Take over `arrival`: never blocks, never raises; exactly one answer follows.

        While the service shuts down, an event that its source will give again is left alone: it is not acknowledged.
        """
        if self._group is not None and not (self._draining and arrival.comes_again):
            self._inspect(arrival, self._group)
            self.announce()

    @property
    def left_open(self) -> Sequence[Arrival]:
        """Events of earlier runs that are, or were, in work."""
        return self._left_open

    @property
    def ready(self) -> bool:
        """Tell whether a new event would be judged now."""
        # those that have only just been submitted stand in no queue yet
        has_room = self._inspector.has_room and len(self._inspections) < self._capacity
        return not self._draining and self._station.can_judge and has_room

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then answer what is in work and close.

        Raises:
            UsageError: something that must be there at start is not.
        """
        try:
            for adapter in self._adapters:
                await adapter.open()
            await self._inspector.take_up_numbering()
            for outbox in self._outboxes:
                await outbox.recover(self._inspector.last_seq)
            async with asyncio.TaskGroup() as group:
                self._group = group
                tasks: list[NamedTask] = [*self._tasks, ("dispatcher", self._dispatcher.run), ("heartbeat", self._beat)]
                for outbox, pending in zip(self._outboxes, self._pending_status, strict=True):
                    name = outbox.sink.name
                    tasks.append((f"outbox {name}", outbox.run))
                    tasks.append((f"status {name}", partial(self._tell_status, outbox.sink, pending)))
                serving = [group.create_task(supervise(name, run), name=name) for name, run in tasks]
                await self._before_ready()
                # before the adapters: what comes again from a broker then meets the event that is in work
                if not await self._recover(group):
                    serving.append(group.create_task(self._recover_later(group), name="recover"))
                serving += [
                    group.create_task(supervise(adapter.name, partial(adapter.run, self, self)), name=adapter.name)
                    for adapter in self._adapters
                ]
                self.started.set()
                self._watchdog.started()
                self.announce()
                await stop.wait()
                self._watchdog.stopping()
                await self._drain()
                self._inspector.keep_now()
                # what is not answered by now is in the journal, and is answered by the next run
                for task in (*serving, *self._inspections):
                    task.cancel()
        finally:
            self._group = None
            await self._close()

    async def handle(self, command: Command, source: str) -> CommandReply:
        """Carry out `command` and say how it went; never raises. What it changed is shown before the reply is out."""
        reply = await self._commands.handle(command, source)
        self.announce()
        await asyncio.sleep(0)
        return reply

    async def _recover(self, group: asyncio.TaskGroup) -> bool:
        """Inspect what was left unanswered; tell whether the journal could say what that is."""
        try:
            left_open = await self._inspector.recover()
        except JournalError as exc:
            log.error("journal_recover_failed", error=str(exc))
            return False
        self._left_open = left_open
        for arrival in left_open:
            self._inspect(arrival, group)
        return True

    async def _recover_later(self, group: asyncio.TaskGroup) -> None:
        while True:
            await asyncio.sleep(_RECOVER_RETRY_S)
            if await self._recover(group):
                return

    def _inspect(self, arrival: Arrival, group: asyncio.TaskGroup) -> None:
        task = group.create_task(self._inspector.inspect(arrival), name=f"inspect {arrival.event.event_id}")
        self._inspections.add(task)
        task.add_done_callback(self._inspected)

    def _inspected(self, task: asyncio.Task[None]) -> None:
        self._inspections.discard(task)
        self.announce()

    async def _drain(self) -> None:
        self._draining = True
        self.announce()
        try:
            async with asyncio.timeout(_DRAIN_S):
                while self._inspections or not self._dispatcher.idle:  # noqa: ASYNC110 - two parts, one bound
                    await asyncio.sleep(0.01)
        except TimeoutError:
            log.warning("drain_incomplete", unanswered=len(self._inspections))

    async def _close(self) -> None:
        await asyncio.gather(*(_closed(adapter) for adapter in self._adapters))

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + _HEARTBEAT_S, loop.time())
            await asyncio.sleep(due - loop.time())
            if self._station.beat():
                self._watchdog.alive(self._station.status())
            self.announce()

    def announce(self) -> None:
        """Let every sink be told the state of the station, at once where what it can do has changed."""
        can_judge = self._station.can_judge
        for pending in self._pending_status:
            pending.news.set()
            if can_judge is not pending.could_judge:
                pending.urgent.set()
            pending.could_judge = can_judge

    async def _tell_status(self, sink: VerdictSink, pending: _PendingStatus) -> None:
        """Tell one sink what changed: a moment later, not in the moment in which a verdict is on its way.

        At once where it is whether parts are judged at all, and the first time: until then a sink shows a station of
        which nothing is known.
        """
        while True:
            await pending.news.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STATUS_DELAY_S):
                    await pending.urgent.wait()
            pending.news.clear()
            pending.urgent.clear()
            try:
                await sink.publish_status(self._station.status(), ready=self.ready)
            except SinkUnavailable as exc:
                log.debug("status_not_shown", sink=sink.name, error=str(exc))


async def _closed(adapter: Adapter) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await adapter.close()
    except TimeoutError:
        log.warning("close_timed_out", adapter=adapter.name)
    except Exception:  # one that fails to say good-bye must not keep the others from it
        log.exception("close_failed", adapter=adapter.name)
