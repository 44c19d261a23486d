"""What every adapter that carries JSON promises, asked of a fake and of MQTT with real brokers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

import pytest

from adapters.mqtt import MqttAdapter
from adapters.simulation.broker import EmbeddedBroker, MosquittoBroker
from schemas.messages import CommandName, Gate, GateCommand, ImageEvent, ImageRef, Reason, StationState, Status
from service.errors import SinkUnavailable
from service.ports import Answer
from tests.support.fakes import FakeAdapter, Heard, RecordingCommands, RecordingIntake
from tests.support.mqtt import PlantClient, adapter_for, answer_to, private_mosquitto, running, status
from tests.support.waiting import eventually


class Plant(Protocol):
    """The other side of the wire."""

    async def send(self, leaf: str, payload: bytes, *, correlation_data: bytes | None = None) -> None: ...

    async def next(self, leaf: str) -> Heard: ...

    def waiting(self, leaf: str) -> int: ...


@dataclass(frozen=True, slots=True)
class Rig:
    """An adapter at work, with both of its sides in the hands of the test."""

    adapter: FakeAdapter | MqttAdapter
    plant: Plant
    intake: RecordingIntake
    commands: RecordingCommands


@pytest.fixture(
    params=[
        "fake",
        pytest.param("mosquitto-5", marks=pytest.mark.broker),
        pytest.param("mosquitto-3.1.1", marks=pytest.mark.broker),
        "embedded-3.1.1",
    ]
)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """Yield the same rig over each transport."""
    kind = str(request.param)
    intake, commands = RecordingIntake(), RecordingCommands()
    async with AsyncExitStack() as stack:
        if kind == "fake":
            fake = FakeAdapter()
            task = asyncio.create_task(fake.run(intake, commands))
            stack.callback(task.cancel)
            yield Rig(fake, fake, intake, commands)
        else:
            broker: EmbeddedBroker | MosquittoBroker = await stack.enter_async_context(
                EmbeddedBroker() if kind.startswith("embedded") else private_mosquitto()
            )
            protocol: Literal["5", "3.1.1"] = "5" if kind.endswith("-5") else "3.1.1"
            plant = await stack.enter_async_context(PlantClient(broker.port, protocol=protocol))
            adapter = adapter_for(broker.port, protocol=protocol)
            await stack.enter_async_context(running(adapter, intake, commands))
            yield Rig(adapter, plant, intake, commands)


def _event(event_id: str = "e1", **fields: object) -> bytes:
    return json.dumps({"event_id": event_id, "image": {"uri": "file:///frame.png"}, **fields}).encode()


class TestTransport:
    """The behaviours that the service relies on."""

    async def test_event_arrives_with_all_its_fields(self, rig: Rig) -> None:
        """A whole ImageReady reaches the intake as it was sent, unknown fields left out."""
        await rig.plant.send(
            "image-ready",
            _event(
                schema="cangate/image-ready/1",
                part_id="C-1",
                trigger_id=7,
                captured_at="2026-01-31T08:00:00.000Z",
                deadline_ms=500,
                simulated=True,
                colour="silver",
            ),
        )
        arrival = await rig.intake.next()
        expected = ImageEvent(
            event_id="e1",
            part_id="C-1",
            trigger_id=7,
            captured_at=datetime(2026, 1, 31, 8, tzinfo=UTC),
            deadline_ms=500,
            simulated=True,
        )
        assert (expected, ImageRef(uri="file:///frame.png"), None) == (arrival.event, arrival.image, arrival.refusal)

    async def test_verdict_and_gate_command_are_published(self, rig: Rig) -> None:
        """A verdict goes out byte for byte as it was stored, and its gate command with it."""
        answer = answer_to("e1", gate=Gate.REJECT)
        await rig.adapter.publish(answer)
        assert answer.verdict_json == (await rig.plant.next("verdict")).payload
        gate = GateCommand.model_validate_json((await rig.plant.next("gate")).payload)
        assert GateCommand.of(answer.verdict) == gate

    async def test_verdicts_keep_the_order_of_their_calls(self, rig: Rig) -> None:
        """Fifty publishes begun in the order of seq arrive in the order of seq."""
        answers = [answer_to(f"e{seq}", seq=seq) for seq in range(1, 51)]
        async with asyncio.TaskGroup() as group:
            for answer in answers:
                group.create_task(rig.adapter.publish(answer))
        arrived = [(await rig.plant.next("verdict")).payload for _ in answers]
        assert [answer.verdict_json for answer in answers] == arrived
        gates = [GateCommand.model_validate_json((await rig.plant.next("gate")).payload).seq for _ in answers]
        assert list(range(1, 51)) == gates

    @pytest.mark.parametrize(
        ("silent", "why"),
        [
            (answer_to("silent", left_s=-1.0), "a PASS after its deadline"),
            (answer_to("silent", gate=Gate.REJECT, repeated=True), "a repetition"),
        ],
    )
    async def test_verdict_without_gate_command(self, rig: Rig, silent: Answer, why: str) -> None:
        """A late PASS and a repeated verdict are published as verdicts only."""
        await rig.adapter.publish(silent)
        await rig.adapter.publish(answer_to("late", seq=2, gate=Gate.REJECT, left_s=-1.0))
        assert silent.verdict_json == (await rig.plant.next("verdict")).payload
        gate = GateCommand.model_validate_json((await rig.plant.next("gate")).payload)
        assert gate.event_id == "late", f"{why} must not reach the gate; a late REJECT must"

    async def test_invalid_event_with_a_name_is_refused_by_that_name(self, rig: Rig) -> None:
        """An event that names itself but is no ImageReady becomes a refusal that keeps what is valid."""
        await rig.plant.send("image-ready", b'{"event_id":"e1","part_id":"C-1","trigger_id":"seven"}')
        arrival = await rig.intake.next()
        assert ImageEvent(event_id="e1", part_id="C-1") == arrival.event
        assert arrival.refusal is not None
        assert arrival.refusal.reason is Reason.FRAME_REFUSED

    @pytest.mark.parametrize(
        ("named", "event_id"),
        [
            ("x" * 257, "x" * 257),
            ("x" * 60_000, "x" * 60_000),
            ("\t\x1b[2J\x7f\r\n", "\t\x1b[2J\x7f\r\n"),
            (7, "7"),
            (-(10**30), "-1" + "0" * 30),
        ],
        ids=["long", "very long", "control characters", "number", "large number"],
    )
    async def test_any_name_is_echoed_exactly(self, rig: Rig, named: object, event_id: str) -> None:
        """What is no valid id but names the event is refused by that name; verdict and gate command say it again."""
        event = {"event_id": named, "image": {"uri": "file:///frame.png"}}
        await rig.plant.send("image-ready", json.dumps(event).encode())
        arrival = await rig.intake.next()
        assert event_id == arrival.event.event_id
        assert arrival.refusal is not None
        assert arrival.refusal.reason is Reason.FRAME_REFUSED
        await rig.adapter.publish(answer_to(event_id, gate=Gate.REJECT))
        for leaf in ("verdict", "gate"):
            assert event_id == json.loads((await rig.plant.next(leaf)).payload)["event_id"]

    async def test_nameless_input_is_skipped_and_the_next_event_is_taken(self, rig: Rig) -> None:
        """What cannot be answered stops nothing."""
        for payload in (b"", b"\xff\xfe", b"[1]", b"7", b'{"event_id":7.5}', b"[" * 60_000, b'{"a":NaN', b"null"):
            await rig.plant.send("image-ready", payload)
        await rig.plant.send("image-ready", _event("good"))
        assert (await rig.intake.next()).event.event_id == "good"

    async def test_commands_are_carried_out_in_order_and_answered(self, rig: Rig) -> None:
        """Each command gets its reply; an invalid one an error in one line."""
        await rig.plant.send("cmd", b'{"command":"ping","args":{"a":1}}')
        await rig.plant.send("cmd", b'{"command":"explode"}')
        await rig.plant.send("cmd", b"not json")
        await rig.plant.send("cmd", b'{"schema":"cangate/command/1","command":"pause"}')
        replies = [json.loads((await rig.plant.next("reply")).payload) for _ in range(4)]
        assert [(reply["command"], reply["ok"]) for reply in replies] == [
            ("ping", True),
            ("explode", False),
            (None, False),
            ("pause", True),
        ]
        assert replies[0]["result"] == {"a": 1}
        assert all(len(reply["error"].splitlines()) == 1 for reply in replies if not reply["ok"])
        assert [command.command for command in rig.commands.taken] == [CommandName.PING, CommandName.PAUSE]

    async def test_status_is_published_and_close_says_offline(self, rig: Rig) -> None:
        """The first status is published at once, and the last one says that nobody is there."""
        await rig.adapter.publish_status(status(StationState.READY), ready=True)
        heard = []
        while StationState.READY not in heard:  # MQTT may first bring what an earlier connection left
            heard.append(Status.model_validate_json((await rig.plant.next("status")).payload).state)
        await rig.adapter.close()
        assert Status.model_validate_json((await rig.plant.next("status")).payload).state == StationState.OFFLINE

    async def test_nothing_is_published_after_close(self, rig: Rig) -> None:
        """A sink that is gone says so, with a fault of one line."""
        await rig.adapter.close()
        with pytest.raises(SinkUnavailable):
            await rig.adapter.publish(answer_to())
        with pytest.raises(SinkUnavailable):
            await rig.adapter.publish_status(status(), ready=False)
        await eventually(lambda: rig.adapter.fault is not None)
        assert len(str(rig.adapter.fault).splitlines()) == 1
