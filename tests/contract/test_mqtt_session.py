"""What happens when connections break: real mosquitto, killed, frozen and brought back."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from adapters.clock import SystemClock
from adapters.mqtt.access import BrokerAccess
from adapters.mqtt.connection import Connection
from adapters.mqtt.packets import Incoming, Outgoing
from adapters.simulation.broker import MosquittoBroker
from adapters.telemetry import Metrics
from schemas.messages import Gate, StationState, Status
from service.errors import SinkUnavailable
from tests.support.fakes import RecordingIntake
from tests.support.mqtt import (
    PlantClient,
    adapter_for,
    answer_to,
    break_off,
    counted,
    mosquitto_or_skip,
    private_mosquitto,
    running,
    status,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker


def _event(event_id: str) -> bytes:
    return json.dumps({"event_id": event_id, "image": {"uri": "file:///frame.png"}}).encode()


async def test_adapter_waits_for_a_broker_that_is_down_at_start() -> None:
    """A broker that is away is a fault of one line, not an error, and is found when it comes."""
    broker = private_mosquitto()
    async with broker:
        await broker.stop()
        adapter = adapter_for(broker.port)
        async with running(adapter, RecordingIntake(), connected=False):
            await eventually(lambda: "refused" in str(adapter.fault))
            assert f"127.0.0.1:{broker.port}: Connection refused" == adapter.fault
            with pytest.raises(SinkUnavailable, match="refused"):
                await adapter.publish(answer_to())
            await broker.start()
            await eventually(lambda: adapter.fault is None)
            await adapter.publish(answer_to())


async def test_what_is_unwise_is_said_once_connected(tmp_path: Path) -> None:
    """Opening says nothing: something else may yet end the start, with its one line."""
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    secret.chmod(0o644)
    async with private_mosquitto() as broker:
        adapter = adapter_for(broker.port, username="cangate", password_file=secret)
        with capture_logs() as logged:
            await adapter.open()
            assert logged == []
            async with running(adapter, RecordingIntake()):
                assert [line["path"] for line in logged if line["event"] == "secret_open_to_others"] == [str(secret)]


async def test_adapter_reconnects_after_the_broker_was_killed() -> None:
    """SIGKILL takes the broker; after its return events come in, verdicts go out and the status is retained anew."""
    async with private_mosquitto() as broker:
        intake, adapter = RecordingIntake(), adapter_for(broker.port)
        async with running(adapter, intake):
            await adapter.publish_status(status(), ready=True)
            await broker.stop(signal.SIGKILL)
            await eventually(lambda: adapter.fault is not None)
            with pytest.raises(SinkUnavailable):
                await adapter.publish(answer_to("lost"))
            await broker.start()
            await eventually(lambda: adapter.fault is None)
            await adapter.publish_status(status(), ready=True)
            async with PlantClient(broker.port) as plant:
                retained = await plant.next("status")
                assert (retained.retain, Status.model_validate_json(retained.payload).state) == (True, "ready")
                await plant.send("image-ready", _event("after"))
                arrival = await intake.next()
                await adapter.publish(answer_to(arrival.event.event_id))
                assert b'"event_id":"after"' in (await plant.next("verdict")).payload
                assert plant.waiting("verdict") == 0, "what failed must not be sent again by the client library"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_event_comes_again_after_a_crash_until_it_is_answered(protocol: str) -> None:
    """An unacknowledged event is delivered to the next session, an acknowledged one is not."""
    async with private_mosquitto() as broker, PlantClient(broker.port) as plant:
        intake = RecordingIntake()
        async with running(adapter_for(broker.port, protocol=protocol), intake) as adapter:
            await plant.send("image-ready", _event("e1"))
            assert (await intake.next()).event.event_id == "e1"
            break_off(adapter)  # no answer
        async with running(adapter_for(broker.port, protocol=protocol), intake) as adapter:
            again = await intake.next()
            assert again.event.event_id == "e1"
            again.answered()
        async with running(adapter_for(broker.port, protocol=protocol), intake):
            await plant.send("image-ready", _event("e2"))
            assert (await intake.next()).event.event_id == "e2", "e1 was acknowledged"


async def test_stale_acknowledgement_does_not_reach_a_new_session() -> None:
    """Packet ids begin anew after a reconnect: the late answer to an old event must not acknowledge a new one."""
    async with private_mosquitto() as broker:
        intake = RecordingIntake()
        async with running(adapter_for(broker.port), intake) as adapter:
            async with PlantClient(broker.port) as plant:
                await plant.send("image-ready", _event("old"))
                old = await intake.next()
            await broker.stop(signal.SIGKILL)  # keeps nothing: the next session is a new one
            await eventually(lambda: adapter.fault is not None)
            await broker.start()
            await eventually(lambda: adapter.fault is None)
            async with PlantClient(broker.port) as plant:
                await plant.send("image-ready", _event("new"))
                assert (await intake.next()).event.event_id == "new"
                old.answered()
                await adapter.publish(answer_to())  # what was written before it has reached the broker, too
            break_off(adapter)
        async with running(adapter_for(broker.port), intake):
            assert (await intake.next()).event.event_id == "new"


async def test_will_is_seen_by_mosquitto_sub() -> None:
    """When the connection breaks the broker says `offline`, retained; a good-bye says it first and stops the will."""
    async with private_mosquitto() as broker:
        async with running(adapter_for(broker.port), RecordingIntake()) as adapter:
            await adapter.publish_status(status(heartbeat=41), ready=True)
            break_off(adapter)
            await eventually(lambda: adapter.fault is None)  # taken up again: the will was published
            broken = await _mosquitto_sub_status(broker)
            assert (broken.state, broken.station) == (StationState.OFFLINE, "line1")
            await adapter.publish_status(status(heartbeat=42), ready=True)
            assert (await _mosquitto_sub_status(broker)).state is StationState.READY
        goodbye = await _mosquitto_sub_status(broker)
        assert (goodbye.state, goodbye.heartbeat) == (StationState.OFFLINE, 42)


async def test_frozen_broker_is_given_up_and_taken_up_again() -> None:
    """A broker that takes bytes but answers nothing is a fault after the publish timeout."""
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port, publish_timeout_s=0.2), RecordingIntake()) as adapter,
    ):
        broker.send_signal(signal.SIGSTOP)
        with pytest.raises(SinkUnavailable, match=r"no acknowledgement within 0\.2 s"):
            await adapter.publish(answer_to("frozen"))
        assert "no acknowledgement" in str(adapter.fault)
        broker.send_signal(signal.SIGCONT)
        await eventually(lambda: adapter.fault is None)
        await adapter.publish(answer_to("thawed", seq=2))
        while b'"event_id":"thawed"' not in (await plant.next("verdict")).payload:
            pass


async def test_two_of_one_client_id_are_told_so() -> None:
    """A broker throws the first one out for the second, without a word, and the other way round."""
    async with (
        private_mosquitto() as broker,
        running(adapter_for(broker.port, client_id="twin"), RecordingIntake()) as first,
        running(adapter_for(broker.port, client_id="twin"), RecordingIntake(), connected=False),
    ):
        await eventually(lambda: (first.fault or "").endswith("does another client call itself twin?"))


async def test_pass_that_the_broker_does_not_confirm_in_time_is_told() -> None:
    """It left in time; that it may have been heard late is counted and logged, for who looks into it."""
    metrics = Metrics()
    async with (
        private_mosquitto() as broker,
        running(adapter_for(broker.port, metrics=metrics), RecordingIntake()) as adapter,
    ):
        broker.send_signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.5, broker.send_signal, signal.SIGCONT)
        with capture_logs() as logs:
            await adapter.publish(answer_to("late", left_s=0.3))
        await adapter.publish(answer_to("in time", seq=2))
        broker.send_signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.5, broker.send_signal, signal.SIGCONT)
        await adapter.publish(answer_to("reject", seq=3, gate=Gate.REJECT, left_s=0.3))
    assert [entry["event_id"] for entry in logs if entry["event"] == "pass_unconfirmed"] == ["late"]
    assert counted(metrics, "cangate_pass_unconfirmed_total") == 1


async def test_pass_that_waits_too_long_for_its_turn_is_not_sent() -> None:
    """What waits behind the send window is asked again whether it may still go; paho would send it however late."""
    async with private_mosquitto() as broker, PlantClient(broker.port) as plant:
        connection = await _connect(broker.port)
        wanted = True
        broker.send_signal(signal.SIGSTOP)
        sent = [connection.publish(Outgoing("cangate/line1/verdict", b"%d" % number)) for number in range(20)]
        sent.append(connection.publish(Outgoing("cangate/line1/gate", b"PASS", wanted=lambda: wanted)))
        sent.append(connection.publish(Outgoing("cangate/line1/gate", b"REJECT")))
        wanted = False
        broker.send_signal(signal.SIGCONT)
        assert await asyncio.gather(*sent) == [None] * 22
        assert (await plant.next("gate")).payload == b"REJECT"
        await connection.close(timeout_s=1.0)


async def test_connection_that_is_lost_fails_what_waits_on_it() -> None:
    """Nothing hangs: everything unconfirmed ends with the reason, and so does what comes later."""
    async with private_mosquitto() as broker:
        connection = await _connect(broker.port)
        broker.send_signal(signal.SIGSTOP)
        waiting = [connection.publish(Outgoing("t", b"")) for _ in range(30)]
        await broker.stop(signal.SIGKILL)
        ends = await asyncio.gather(*waiting)
        assert set(ends) == {connection.lost.result()}
        assert "connection lost" in connection.lost.result()
        assert await connection.publish(Outgoing("t", b"")) == connection.lost.result()
        with pytest.raises(SinkUnavailable):
            await connection.subscribe("t")


async def test_socket_has_no_delay() -> None:
    """Nagle's algorithm and delayed acknowledgements together cost 40 ms in every exchange."""
    async with private_mosquitto() as broker:
        connection = await _connect(broker.port)
        assert connection._socket is not None
        assert connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        await connection.close(timeout_s=1.0)


async def test_fault_names_why_the_broker_refused_or_closed() -> None:
    """A broker that cannot keep messages refuses a retained will, and closes on a retained publish; both say why."""
    async with private_mosquitto("retain_available false") as broker:
        adapter = adapter_for(broker.port)
        async with running(adapter, RecordingIntake(), connected=False):
            await eventually(lambda: "connection refused by the broker: Retain not supported" in str(adapter.fault))
        connection = await _connect(broker.port)
        assert await connection.publish(Outgoing("t", b"", retain=True)) == "closed by the broker: Retain not supported"


async def test_broker_that_wants_a_password_is_named_as_the_fault() -> None:
    """A refused login is a fault of one line, tried again with patience."""
    async with private_mosquitto(allow_anonymous=False) as broker:
        adapter = adapter_for(broker.port, username="cangate", password="wrong")
        async with running(adapter, RecordingIntake(), connected=False):
            await eventually(lambda: "Not authorized" in str(adapter.fault))
            assert "wrong" not in str(adapter.fault)


async def test_share_group_delivers_each_event_to_one_worker() -> None:
    """Two workers of a share group get every event once; commands go to both."""
    async with private_mosquitto() as broker, PlantClient(broker.port) as plant:
        first, second = RecordingIntake(), RecordingIntake()
        settings: dict[str, Any] = {"share_group": "inspectors"}
        async with (
            running(adapter_for(broker.port, client_id="a", **settings), first),
            running(adapter_for(broker.port, client_id="b", **settings), second),
        ):
            for number in range(10):
                await plant.send("image-ready", _event(f"e{number}"))
            await eventually(lambda: first.arrivals.qsize() + second.arrivals.qsize() >= 10)
            seen = [intake.arrivals.get_nowait().event.event_id for intake in (first, second) for _ in range(5)]
            assert sorted(seen) == [f"e{number}" for number in range(10)]
            await plant.send("cmd", b'{"command":"ping"}')
            assert {json.loads((await plant.next("reply")).payload)["ok"] for _ in range(2)} == {True}


async def test_worker_that_joins_a_share_group_leaves_its_own_subscription() -> None:
    """With a client id of its own choice: each event is judged once, those that waited in its old session too."""
    async with private_mosquitto() as broker, PlantClient(broker.port) as plant:
        first, second = RecordingIntake(), RecordingIntake()
        async with running(adapter_for(broker.port, client_id="a"), first):
            await plant.send("image-ready", _event("alone"))
            (await first.next()).answered()
        await plant.send("image-ready", _event("waited"))
        settings: dict[str, Any] = {"share_group": "inspectors"}
        async with (
            running(adapter_for(broker.port, client_id="a", **settings), first),
            running(adapter_for(broker.port, client_id="b", **settings), second),
        ):
            assert (await first.next()).event.event_id == "waited"
            for number in range(10):
                await plant.send("image-ready", _event(f"e{number}"))
            await plant.send("cmd", b'{"command":"ping"}')
            for _ in range(2):  # both have had what came before it
                await plant.next("reply")
            seen = [intake.arrivals.get_nowait() for intake in (first, second) for _ in range(intake.arrivals.qsize())]
            assert sorted(arrival.event.event_id for arrival in seen) == [f"e{number}" for number in range(10)]


async def test_left_over_subscription_is_acknowledged_and_ignored() -> None:
    """A kept session may still hold subscriptions of an older configuration."""
    async with private_mosquitto() as broker, PlantClient(broker.port) as plant:
        earlier = await _connect(broker.port, client_id="cangate-line1", session_expiry_s=60)
        await earlier.subscribe("cangate/line1/verdict")
        await earlier.close(timeout_s=1.0)
        intake = RecordingIntake()
        async with running(adapter_for(broker.port), intake):
            await plant.send("verdict", _event("not-for-us"))
            await plant.send("image-ready", _event("for-us"))
            assert (await intake.next()).event.event_id == "for-us"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xf0\xff\xff\xff\xff\xff",  # a length without an end
        b"\x30\x05\x00\x09a\xff\xff",  # a topic longer than its packet
        b"\x32\x02\x00\x00",  # QoS 1 without a packet id
        b"\x30\x06\x00\x01\xff\x02\xff\xff",  # a topic that is no UTF-8, a property that does not exist
        b"\x90\x03\x00\x01\x05",  # properties beyond the end
        b"\x40\x01\x00",  # half a packet id
        b"\x20\x00",  # accepted again, with nothing in it
        b"\x00\x00",  # no such packet
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=repr,
)
async def test_broker_that_talks_nonsense_is_left_or_ignored(nonsense: bytes) -> None:
    """Whatever comes, the loop goes on, nothing is left open, and what was published is told to be unconfirmed."""
    gone = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x03\x00\x00\x00" + nonsense)
        while await reader.read(1000):
            pass
        writer.close()
        gone.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        connection = await _connect(server.sockets[0].getsockname()[1])
        confirmation = connection.publish(Outgoing("a", b"b"))
        await asyncio.wait([confirmation], timeout=0.3)
        connection.abort("enough")
        assert await asyncio.wait_for(confirmation, 5) is not None
        await asyncio.wait_for(gone.wait(), 5)


async def _connect(port: int, *, client_id: str = "other", session_expiry_s: int = 0) -> Connection:
    def ignore(connection: Connection, message: Incoming) -> None:
        connection.ack(message)

    access = BrokerAccess("127.0.0.1", port, client_id, session_expiry_s=session_expiry_s)
    connection = Connection(access, clock=SystemClock(), on_message=ignore)
    await connection.connect()
    return connection


async def _mosquitto_sub_status(broker: MosquittoBroker) -> Status:
    """Return the retained status as mosquitto's own client sees it."""
    client = mosquitto_or_skip().with_name("mosquitto_sub")
    tool = str(client) if client.exists() else "mosquitto_sub"
    process = await asyncio.create_subprocess_exec(
        *(tool, "-V", "5", "-p", str(broker.port), "-t", "cangate/line1/status", "-C", "1", "-W", "10"),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return Status.model_validate_json(said)
