"""Hand-written fakes that fulfil the ports of the service, in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapters.clock import SystemClock
from adapters.mqtt.codec import InvalidCommand, Unusable, read_command, read_image_ready
from schemas.messages import Command, CommandReply, GateCommand, StationState, Status
from schemas.topics import Leaf
from service.errors import SinkUnavailable
from service.ports import Answer, Arrival, CommandHandler, Intake


class RecordingIntake:
    """Takes every arrival and keeps it for the test to answer, or has `judge` answer it on the loop."""

    def __init__(self, judge: Callable[[Arrival], None] | None = None) -> None:
        self.ready = True
        self.left_open: Sequence[Arrival] = ()
        self.arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        self.judge = judge

    def submit(self, arrival: Arrival) -> None:
        self.arrivals.put_nowait(arrival)
        if self.judge:
            asyncio.get_running_loop().call_soon(self.judge, arrival)

    async def next(self) -> Arrival:
        async with asyncio.timeout(10):
            return await self.arrivals.get()


class RecordingCommands:
    """Answers every command with `ok`, and `args` as its result; `gate` holds them up."""

    def __init__(self) -> None:
        self.taken: list[Command] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, command: Command, source: str) -> CommandReply:  # noqa: ARG002 - the port's signature
        await self.gate.wait()
        self.taken.append(command)
        return CommandReply(station="line1", command=command.command, ok=True, result=command.args)


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as the plant got it; `expiry_s` and `correlation_data` only with MQTT 5."""

    payload: bytes
    retain: bool = False
    correlation_data: bytes | None = None
    expiry_s: int | None = None


class FakeAdapter:
    """An adapter and sink without a wire. The plant's side of it are `send`, `next` and `heard`.

    broken: set to a text, it is the fault for which nothing can be published. acknowledged: event ids, in order.
    """

    name = "fake"

    def __init__(self) -> None:
        self.broken: str | None = None
        self.acknowledged: list[str] = []
        self.heard: defaultdict[str, list[Heard]] = defaultdict(list)
        self._clock = SystemClock()
        self._inbox: asyncio.Queue[tuple[str, bytes, bytes | None]] = asyncio.Queue()
        self._unread: defaultdict[str, asyncio.Queue[Heard]] = defaultdict(asyncio.Queue)

    async def send(self, leaf: str, payload: bytes, *, correlation_data: bytes | None = None) -> None:
        """Be a camera on `image-ready`, or an operator on `cmd`."""
        self._inbox.put_nowait((leaf, payload, correlation_data))

    async def next(self, leaf: str) -> Heard:
        """Return the next message on `verdict`, `gate`, `status` or `reply`."""
        async with asyncio.timeout(10):
            return await self._unread[leaf].get()

    def waiting(self, leaf: str) -> int:
        """Return how many messages of a leaf were not fetched yet."""
        return self._unread[leaf].qsize()

    @property
    def fault(self) -> str | None:
        return self.broken

    async def open(self) -> None:
        """Nothing has to be there."""

    async def run(self, intake: Intake, commands: CommandHandler) -> None:
        while True:
            leaf, payload, correlation_data = await self._inbox.get()
            if leaf == Leaf.COMMAND:
                self._publish(Leaf.REPLY, await self._carry_out(commands, payload))
            else:
                self._take_event(intake, payload, correlation_data)

    async def close(self) -> None:
        said = self.heard[Leaf.STATUS]
        if said and self.broken is None:
            last = Status.model_validate_json(said[-1].payload)
            offline = last.model_copy(update={"state": StationState.OFFLINE})
            self._publish(Leaf.STATUS, Heard(offline.to_json()))
        self.broken = "closed"

    async def publish(self, answer: Answer) -> None:
        self._must_work()
        self._publish(Leaf.VERDICT, Heard(answer.verdict_json, correlation_data=answer.asker.correlation_data))
        if not answer.repeated and answer.gate_at(self._clock.monotonic()) is not None:
            self._publish(Leaf.GATE, Heard(GateCommand.of(answer.verdict).to_json()))

    async def publish_status(self, status: Status, *, ready: bool) -> None:  # noqa: ARG002 - the port's signature
        self._must_work()
        self._publish(Leaf.STATUS, Heard(status.to_json()))

    def _must_work(self) -> None:
        if self.broken is not None:
            raise SinkUnavailable(self.broken)

    def _publish(self, leaf: str, message: Heard) -> None:
        self.heard[leaf].append(message)
        self._unread[leaf].put_nowait(message)

    async def _carry_out(self, commands: CommandHandler, payload: bytes) -> Heard:
        command = read_command(payload)
        if isinstance(command, InvalidCommand):
            reply = CommandReply(station="line1", command=command.name, ok=False, error=command.error)
        else:
            reply = await commands.handle(command, self.name)
        return Heard(reply.to_json())

    def _take_event(self, intake: Intake, payload: bytes, correlation_data: bytes | None) -> None:
        request = read_image_ready(payload)
        if isinstance(request, Unusable):
            return
        event_id = request.event.event_id
        intake.submit(
            Arrival(
                event=request.event,
                image=request.image,
                received_at=self._clock.now(),
                received_monotonic=self._clock.monotonic(),
                source=self.name,
                correlation_data=correlation_data,
                refusal=request.refusal,
                answered=lambda: self.acknowledged.append(event_id),
            )
        )
