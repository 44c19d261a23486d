"""What a broker does not take, told beforehand or not, holds up nothing else; real mosquitto."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Literal

import pytest
from structlog.testing import capture_logs

from adapters.clock import SystemClock
from adapters.mqtt.connection import Confirmation, Connection
from adapters.mqtt.packets import Outgoing
from schemas.messages import Gate
from service.errors import SinkUnavailable
from service.outbox import Outbox
from service.ports import Answer
from tests.support.fakes import RecordingIntake
from tests.support.memory_journal import MemoryJournal
from tests.support.mqtt import PlantClient, adapter_for, answer_to, break_off, private_mosquitto, running
from tests.support.waiting import eventually, loop_turns
from tests.support.way_out import delivering

pytestmark = pytest.mark.broker

LIMIT = "max_packet_size 6000"
TOO_LONG = "L" * 5600
"""As the id of an event, which fits, makes a verdict that does not, and a gate command that does."""


def _put(outbox: Outbox, answer: Answer) -> asyncio.Future[bool]:
    stored = asyncio.get_running_loop().create_future()
    stored.set_result(True)
    return outbox.put(answer, stored=stored)


async def _seqs_until_the_last(plant: PlantClient, leaf: str, *, last: int) -> set[int]:
    """Return what came; a broker that closed the connection may have had some of it before, and is told again."""
    seqs: set[int] = set()
    while last not in seqs:
        seqs.add(json.loads((await plant.next(leaf)).payload)["seq"])
    return seqs


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_verdict_that_is_too_large_for_the_broker_holds_up_no_other(protocol: Literal["5", "3.1.1"]) -> None:
    """It is passed over and shown as refused, whether the broker says what it takes or only closes the connection.

    Its own gate command goes out, and so do the verdicts before and behind it. It is not offered again by the next run.
    """
    journal = MemoryJournal()
    async with (
        private_mosquitto(LIMIT) as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port, protocol=protocol), RecordingIntake()) as adapter,
        delivering(adapter, journal) as outbox,
    ):
        connection = adapter._connection
        names = ["e1", "e2", "e3", TOO_LONG, "e5", "e6"]
        with capture_logs() as logs:
            async with asyncio.timeout(30):
                answers = [answer_to(name, seq=seq, gate=Gate.REJECT) for seq, name in enumerate(names, start=1)]
                delivered = await asyncio.gather(*(_put(outbox, answer) for answer in answers))
        assert delivered == [name != TOO_LONG for name in names]
        assert await _seqs_until_the_last(plant, "gate", last=6) == {1, 2, 3, 4, 5, 6}
        assert await _seqs_until_the_last(plant, "verdict", last=6) == {1, 2, 3, 5, 6}
        why = "too large for the broker: " if protocol == "5" else "given up: 3 times in a row the broker closed"
        assert str(adapter.refused).startswith(f"verdict is {why}")
        assert len([entry for entry in logs if entry["event"] == "mqtt_publish_refused"]) == 1
        if protocol == "5":
            assert adapter._connection is connection, "it was not even offered"
        await eventually(lambda: journal.confirmations == {"mqtt": 6})


async def test_verdict_that_mosquitto_refuses_in_its_answer_ends_no_connection() -> None:
    """`message_size_limit` is announced to nobody, and the answer has a reason that no PUBACK has by the standard."""
    journal = MemoryJournal()
    async with (
        private_mosquitto("message_size_limit 600") as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), RecordingIntake()) as adapter,
        delivering(adapter, journal) as outbox,
    ):
        connection = adapter._connection
        answers = [answer_to(f"e{seq}", seq=seq) for seq in range(1, 6)]
        assert await asyncio.gather(*(_put(outbox, answer) for answer in answers)) == [False] * 5
        told = [json.loads((await plant.next("gate")).payload)["seq"] for _ in answers]
        assert told == [1, 2, 3, 4, 5]
        assert (adapter._connection, adapter.refused) == (
            connection,
            "verdict is refused by the broker: Packet too large",
        )


async def test_message_of_exactly_the_largest_size_is_offered() -> None:
    """No byte of what the broker announces is given away, and none is added."""
    async with (
        private_mosquitto(LIMIT) as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), RecordingIntake()) as adapter,
    ):
        connection = adapter._connection
        assert connection is not None
        header, length, topic, packet_id = 1, 2, 2 + len("cangate/line1/verdict"), 2
        properties = 1 + (1 + 4) + (1 + 2 + len(b"123")) + (1 + 2 + len("key") + 2 + len("value"))
        fits = 6000 - (header + length + topic + packet_id + properties)

        def publish(payload_bytes: int) -> Confirmation:
            message = Outgoing(
                "cangate/line1/verdict",
                bytes(payload_bytes),
                expires_monotonic=SystemClock().monotonic() + 30,
                correlation_data=b"123",
                user_properties=(("key", "value"),),
            )
            return connection.publish(message)

        assert await publish(fits) is None
        assert len((await plant.next("verdict")).payload) == fits
        assert await publish(fits + 1) == "too large for the broker: 6001 bytes, it takes 6000"
        assert not connection.lost.done()


async def test_refusal_of_one_verdict_is_shown_until_others_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough for a status to tell it, though the next part comes at once."""
    async with (
        private_mosquitto(LIMIT) as broker,
        running(adapter_for(broker.port), RecordingIntake()) as adapter,
    ):
        with pytest.raises(SinkUnavailable, match="too large"):
            await adapter.publish(answer_to(TOO_LONG))
        await adapter.publish(answer_to("e2", seq=2))
        assert "verdict is too large" in str(adapter.refused)
        monkeypatch.setattr("adapters.mqtt.adapter._REFUSED_SHOWN_S", 0.0)
        await adapter.publish(answer_to("e3", seq=3))
        assert adapter.refused is None


async def test_verdict_is_not_given_up_for_a_broker_that_falls_silent_or_goes_away() -> None:
    """However often: it was not the broker that closed the connection, or the broker was not there at all."""
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port, publish_timeout_s=0.2), RecordingIntake()) as adapter,
    ):
        answer = answer_to("kept")
        for _ in range(4):
            broker.send_signal(signal.SIGSTOP)
            with pytest.raises(SinkUnavailable, match="no acknowledgement"):
                await adapter.publish(answer)
            broker.send_signal(signal.SIGCONT)
            await eventually(lambda: adapter.fault is None)
        for _ in range(4):
            publishing = asyncio.create_task(adapter.publish(answer))
            await loop_turns(1)
            break_off(adapter)
            with pytest.raises(SinkUnavailable, match="crashed"):
                await publishing
            await eventually(lambda: adapter.fault is None)
        await adapter.publish(answer)
        assert b'"kept"' in (await plant.next("verdict")).payload
        assert adapter.refused is None


async def test_verdict_outlives_a_broker_that_is_killed_with_it_in_flight() -> None:
    """Once and once more; the bound is a third time in a row."""
    async with private_mosquitto() as broker, running(adapter_for(broker.port), RecordingIntake()) as adapter:
        answer = answer_to("kept")
        for _ in range(2):
            broker.send_signal(signal.SIGSTOP)
            publishing = asyncio.create_task(adapter.publish(answer))
            await loop_turns(1)
            await broker.stop(signal.SIGKILL)
            with pytest.raises(SinkUnavailable, match="connection lost"):
                await publishing
            await broker.start()
            await eventually(lambda: adapter.fault is None)
        async with PlantClient(broker.port) as plant:
            await adapter.publish(answer)
            assert b'"kept"' in (await plant.next("verdict")).payload
        assert adapter.refused is None


async def test_after_a_loss_messages_go_one_by_one_until_the_poison_message_must_have_come() -> None:
    """So the next loss names it, and what was only in flight beside it is not given up in its place."""
    async with private_mosquitto() as broker, running(adapter_for(broker.port), RecordingIntake()) as adapter:
        adapter._poison_detector.lost_at(Outgoing("t", b"suspect"))
        connection = adapter._connection
        assert connection is not None
        sent = [connection.publish(Outgoing("t", b"%d" % number)) for number in range(25)]
        assert _in_flight(connection) == 1
        for confirmation in sent[:20]:
            assert await confirmation is None
        assert _in_flight(connection) == 5
        assert await asyncio.gather(*sent) == [None] * 25


def _in_flight(connection: Connection) -> int:
    return len(connection._unconfirmed)
