"""Commands over a real mosquitto: where replies go, what waits, and what may go ahead."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from adapters.telemetry import Metrics
from schemas.messages import Command, CommandName, CommandReply
from tests.support.fakes import RecordingCommands, RecordingIntake
from tests.support.mqtt import PlantClient, adapter_for, answer_to, counted, private_mosquitto, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker

PING = b'{"command":"ping"}'


class SlowActivation(RecordingCommands):
    """As a station: `activate_model` takes as long as `gate` says, everything else is done at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.clear()
        self.began = asyncio.Event()

    async def handle(self, command: Command, source: str) -> CommandReply:
        if command.command is CommandName.ACTIVATE_MODEL:
            self.began.set()
            return await super().handle(command, source)
        self.taken.append(command)
        return CommandReply(station="line1", command=command.command, ok=True)

    @property
    def names(self) -> list[str]:
        return [command.command.value for command in self.taken]


async def _replies(plant: PlantClient, count: int) -> list[Any]:
    return [json.loads((await plant.next("reply")).payload) for _ in range(count)]


async def test_command_is_answered_where_it_asks_to_be() -> None:
    """MQTT 5: the reply goes to the response topic with the correlation data."""
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), RecordingIntake(), RecordingCommands()),
    ):
        await plant.send("cmd", PING, response_topic="cangate/line1/reply/hmi-3", correlation_data=b"\x07")
        reply = await plant.next("reply/hmi-3")
        assert (json.loads(reply.payload)["ok"], reply.correlation_data) == (True, b"\x07")


@pytest.mark.parametrize(
    "response_topic",
    ["cangate/line1/gate", "cangate/other/gate", "cangate/other/image-ready/raw", "/".join("a" * 250), "a" * 1025],
    ids=lambda topic: topic[:30],
)
async def test_reply_goes_to_nobody_elses_topic_nor_where_it_ends_the_connection(response_topic: str) -> None:
    """It goes where replies go, and the command is not carried out; a gate command on its way is not lost."""
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        PlantClient(broker.port, station="other") as other,
        running(adapter_for(broker.port), RecordingIntake(), commands := RecordingCommands()) as adapter,
    ):
        connection = adapter._connection
        await plant.send("cmd", PING, response_topic=response_topic)
        [reply] = await _replies(plant, 1)
        assert (reply["ok"], reply["error"]) == (False, "the response topic cannot be used")
        await plant.send("cmd", PING)  # behind it: what came of the first one is out
        assert [reply["ok"] for reply in await _replies(plant, 1)] == [True]
        await adapter.publish(answer_to())
        await plant.next("gate")
        assert adapter._connection is connection
        assert (len(commands.taken), plant.waiting("gate")) == (1, 0)
        assert other.waiting("gate") + other.waiting("image-ready/raw") == 0


async def test_commands_beyond_the_queue_are_told_so_at_once() -> None:
    """One in work and thirty-two waiting; the rest hears that it is not carried out, what was taken is."""
    commands = RecordingCommands()
    commands.gate.clear()
    metrics = Metrics()
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port, metrics=metrics), RecordingIntake(), commands),
    ):
        for number in range(100):
            await plant.send(
                "cmd", b'{"command":"ping","args":{"number":%d}}' % number, correlation_data=b"%d" % number
            )
        refused = [await plant.next("reply") for _ in range(67)]
        assert [reply.correlation_data for reply in refused] == [b"%d" % number for number in range(33, 100)]
        errors = {json.loads(reply.payload)["error"] for reply in refused}
        assert errors == {"not carried out: 32 commands are waiting"}
        assert counted(metrics, "cangate_refused_total", transport="mqtt", reason="overload") == 67
        commands.gate.set()
        assert [reply["ok"] for reply in await _replies(plant, 33)] == [True] * 33
        assert [command.args["number"] for command in commands.taken] == list(range(33))


async def test_pause_goes_ahead_of_what_takes_long() -> None:
    """A line is stopped at once, whatever waits; a resume from before it does not start the line again."""
    commands = SlowActivation()
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), RecordingIntake(), commands),
    ):
        await plant.send("cmd", b'{"command":"activate_model"}')
        await commands.began.wait()
        await plant.send("cmd", b'{"command":"resume"}')
        for _ in range(40):
            await plant.send("cmd", PING)
        await plant.send("cmd", b'{"command":"pause"}')
        replies = await _replies(plant, 10)  # nine pings find no room
        assert [(reply["command"], reply["ok"]) for reply in replies] == [("ping", False)] * 9 + [("pause", True)]
        assert commands.names == ["pause"]
        commands.gate.set()
        activated, resumed, *_ = await _replies(plant, 33)
        assert (activated["command"], activated["ok"]) == ("activate_model", True)
        assert (resumed["ok"], resumed["error"]) == (False, "not carried out: a pause came after it")
        assert "resume" not in commands.names


async def test_resume_waits_for_its_turn_behind_a_pause() -> None:
    """Pause, another model, resume: the line must not run with the old model meanwhile."""
    commands = SlowActivation()
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), RecordingIntake(), commands),
    ):
        for name in ("pause", "activate_model", "resume"):
            await plant.send("cmd", b'{"command":"%s"}' % name.encode())
        await commands.began.wait()
        await eventually(lambda: commands.names == ["pause"])
        commands.gate.set()
        assert [reply["command"] for reply in await _replies(plant, 3)] == ["pause", "activate_model", "resume"]
        assert commands.names == ["pause", "activate_model", "resume"]


async def test_resume_does_not_overtake_a_pause_that_takes_long() -> None:
    """Whatever a handler does: the last word is the last."""
    commands = RecordingCommands()
    commands.gate.clear()
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), RecordingIntake(), commands),
    ):
        for name in ("pause", "resume"):
            await plant.send("cmd", b'{"command":"%s"}' % name.encode())
        await plant.send("cmd", b"{")
        commands.gate.set()
        await _replies(plant, 3)
        assert [command.command.value for command in commands.taken] == ["pause", "resume"]
