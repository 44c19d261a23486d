"""The way of a command from the broker to whoever carries it out, and of the reply back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from adapters.mqtt.codec import InvalidCommand, is_reply_topic, is_taken_topic, read_command
from adapters.mqtt.packets import Incoming, Outgoing
from adapters.telemetry import Metrics
from schemas.messages import Command, CommandName, CommandReply
from schemas.topics import Leaf, StationTopics
from service.errors import SinkUnavailable
from service.ports import CommandHandler
from service.tasks import together

log = structlog.get_logger(__name__)

_COMMANDS_WAITING = 32
_REPLIES_WAITING = 256
"""As many as a broker has on its way to us at a time: a flood of commands neither fills the memory, nor stands before
the gate commands, since one reply after the other goes out."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What came as a command, with its number in the order of arrival, and where its reply goes."""

    command: Command | InvalidCommand
    number: int
    reply_to: str
    correlation_data: bytes | None

    @property
    def name(self) -> str | None:
        """Return what it calls itself."""
        return self.command.name if isinstance(self.command, InvalidCommand) else self.command.command


class Commands:
    """Has commands carried out one after the other, for their order has a meaning; each of them gets a reply.

    A reply that finds no connection is lost, and the log says so.

    But `pause` goes ahead: who stops a line does not wait for a model that is being loaded. A `resume` that it
    overtakes is not carried out any more, else the line would run against the last word; one that comes after it waits
    for it. A command beyond those that may wait is told so at once.

    Args:
        topics: of the station.
        source: whom the handler is told to be asked by, and counters name.
        metrics: counts what is refused.
        publish: publishes a reply. Raises SinkUnavailable where it cannot.
    """

    def __init__(
        self, topics: StationTopics, *, source: str, metrics: Metrics, publish: Callable[[Outgoing], Awaitable[None]]
    ) -> None:
        self._topics = topics
        self._source = source
        self._metrics = metrics
        self._publish = publish
        self._in_turn: asyncio.Queue[_Asked] = asyncio.Queue(_COMMANDS_WAITING)
        self._pauses: asyncio.Queue[_Asked] = asyncio.Queue(_COMMANDS_WAITING)
        self._replies: asyncio.Queue[tuple[CommandReply, Outgoing]] = asyncio.Queue(_REPLIES_WAITING)
        self._taken = 0
        self._last_pause = 0

    def take(self, message: Incoming) -> None:
        """Take a command in; never blocks."""
        self._taken += 1
        asked = self._read(message)
        is_pause = isinstance(asked.command, Command) and asked.command.command is CommandName.PAUSE
        queue = self._pauses if is_pause else self._in_turn
        if queue.full():
            self._count("overload")
            log.warning("mqtt_command_refused", command=asked.name, reason="overload")
            self._reply(asked, self._failure(asked, f"not carried out: {queue.maxsize} commands are waiting"))
            return
        queue.put_nowait(asked)
        if is_pause:
            self._last_pause = asked.number

    async def run(self, handler: CommandHandler) -> None:
        """Carry out and reply until cancelled."""
        await together(
            ("mqtt commands in turn", partial(self._carry_out, self._in_turn, handler)),
            ("mqtt pauses", partial(self._carry_out, self._pauses, handler)),
            ("mqtt replies", self._publish_replies),
        )

    def _read(self, message: Incoming) -> _Asked:
        reply_to = message.response_topic or self._topics.of(Leaf.REPLY)
        if is_reply_topic(reply_to) and not is_taken_topic(reply_to, str(self._topics.prefix)):
            return _Asked(read_command(message.payload), self._taken, reply_to, message.correlation_data)
        unusable = InvalidCommand(None, "the response topic cannot be used")
        return _Asked(unusable, self._taken, self._topics.of(Leaf.REPLY), message.correlation_data)

    async def _carry_out(self, queue: asyncio.Queue[_Asked], handler: CommandHandler) -> None:
        while True:
            asked = await queue.get()
            try:
                self._reply(asked, await self._outcome(asked, handler))
            finally:
                queue.task_done()

    async def _outcome(self, asked: _Asked, handler: CommandHandler) -> CommandReply:
        if isinstance(asked.command, InvalidCommand):
            self._count("invalid_command")
            return self._failure(asked, asked.command.error)
        if asked.command.command is CommandName.RESUME:
            await self._pauses.join()  # first: another pause may come meanwhile
            if asked.number < self._last_pause:
                return self._failure(asked, "not carried out: a pause came after it")
        return await handler.handle(asked.command, self._source)

    def _reply(self, asked: _Asked, reply: CommandReply) -> None:
        message = Outgoing(asked.reply_to, reply.to_json(), correlation_data=asked.correlation_data)
        try:
            self._replies.put_nowait((reply, message))
        except asyncio.QueueFull:
            log.warning("mqtt_reply_lost", command=reply.command, error=f"{_REPLIES_WAITING} replies are waiting")

    async def _publish_replies(self) -> None:
        while True:
            reply, message = await self._replies.get()
            try:
                await self._publish(message)
            except SinkUnavailable as exc:
                log.warning("mqtt_reply_lost", command=reply.command, error=str(exc))

    def _failure(self, asked: _Asked, error: str) -> CommandReply:
        return CommandReply(station=self._topics.station, command=asked.name, ok=False, error=error)

    def _count(self, reason: str) -> None:
        self._metrics.refused.labels(self._source, reason).inc()
