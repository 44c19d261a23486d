"""Runs the parts side by side and supervises them; judges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from service.compute import Compute
from service.dispatch import Dispatcher, Outbox
from service.errors import SinkUnavailable
from service.inspector import Inspector
from service.ports import Adapter, Arrival, Clock, CommandHandler, Journal, VerdictSink
from service.station import Station

log = structlog.get_logger(__name__)

_HEARTBEAT_S = 0.5
_STATUS_DELAY_S = 0.02
_DRAIN_S = 5.0
_CLOSE_S = 2.5
_RESTART_S = (0.1, 5.0)


class Runner:
    """The running service: sources hand their events to `submit`, everything else is kept going by `run`."""

    def __init__(
        self,
        *,
        station: Station,
        inspector: Inspector,
        compute: Compute,
        dispatcher: Dispatcher,
        outboxes: Sequence[Outbox],
        adapters: Sequence[Adapter],
        commands: CommandHandler,
        journal: Journal,
        clock: Clock,
        before_ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._station = station
        self._inspector = inspector
        self._compute = compute
        self._dispatcher = dispatcher
        self._outboxes = outboxes
        self._adapters = adapters
        self._commands = commands
        self._journal = journal
        self._clock = clock
        self._before_ready = before_ready
        self._group: asyncio.TaskGroup | None = None
        self._draining = False
        self._news = [asyncio.Event() for _ in outboxes]
        self.started = asyncio.Event()

    def submit(self, arrival: Arrival) -> None:
        """Take over `arrival`: never blocks, never raises; exactly one answer follows.

        While the service shuts down an event is left alone: it is not acknowledged, so its broker keeps it.
        """
        if self._draining or self._group is None:
            return
        task = self._group.create_task(self._inspector.inspect(arrival), name=f"inspect {arrival.event.event_id}")
        task.add_done_callback(lambda _: self._announce())
        self._announce()

    @property
    def ready(self) -> bool:
        """Tell whether a new event would be judged now."""
        return not self._draining and self._station.can_judge and self._inspector.has_room

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then answer what is in work and close.

        Raises:
            UsageError: something that must be there at start is not.
        """
        try:
            for adapter in self._adapters:
                await adapter.open()
            last_seq = await self._journal.last_seq()
            for outbox in self._outboxes:
                await outbox.recover(last_seq)
            async with asyncio.TaskGroup() as group:
                self._group = group
                parts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
                    ("compute", self._compute.run),
                    ("dispatcher", self._dispatcher.run),
                    ("heartbeat", self._beat),
                ]
                for outbox, news in zip(self._outboxes, self._news, strict=True):
                    name = outbox.sink.name
                    parts.append((f"outbox {name}", outbox.run))
                    parts.append((f"status {name}", partial(self._tell_status, outbox.sink, news)))
                serving = [group.create_task(_supervise(name, part), name=name) for name, part in parts]
                await self._before_ready()
                await self._inspector.recover()
                serving += [
                    group.create_task(
                        _supervise(adapter.name, partial(adapter.run, self, self._commands)), name=adapter.name
                    )
                    for adapter in self._adapters
                ]
                self.started.set()
                self._announce()
                await stop.wait()
                await self._drain()
                for task in serving:
                    task.cancel()
        finally:
            self._group = None
            await self._close()

    async def _drain(self) -> None:
        self._draining = True
        self._announce()
        try:
            async with asyncio.timeout(_DRAIN_S):
                while self._inspector.in_work or not self._dispatcher.idle:  # noqa: ASYNC110 - two parts, one bound
                    await asyncio.sleep(0.01)
        except TimeoutError:
            log.warning("drain_incomplete", in_work=self._inspector.in_work)

    async def _close(self) -> None:
        for adapter in self._adapters:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await adapter.close()
            except TimeoutError:
                log.warning("close_timed_out", adapter=adapter.name)
        self._compute.close()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + _HEARTBEAT_S, loop.time())
            await asyncio.sleep(due - loop.time())
            self._station.beat()
            self._announce()

    def _announce(self) -> None:
        for news in self._news:
            news.set()

    async def _tell_status(self, sink: VerdictSink, news: asyncio.Event) -> None:
        """Tell one sink what changed: a moment later, not in the moment in which a verdict is on its way."""
        while True:
            await news.wait()
            await asyncio.sleep(_STATUS_DELAY_S)
            news.clear()
            try:
                await sink.publish_status(self._station.status(), ready=self.ready)
            except SinkUnavailable as exc:
                log.debug("status_not_shown", sink=sink.name, error=str(exc))


async def _supervise(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Keep `part` running: a defect ends in a log entry and a fresh start, never in silence."""
    first, longest = _RESTART_S
    delay = first
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await part()
            log.error("part_ended", part=name)
        except Exception:  # the supervised boundary: a defect ends in a log entry and a fresh start
            log.exception("part_crashed", part=name)
        if loop.time() - began > 60:
            delay = first
        await asyncio.sleep(delay)
        delay = min(longest, delay * 2)
