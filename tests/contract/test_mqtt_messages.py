"""The words of the contract on the wire: properties, limits, retained copies, refusals; mosquitto and its own tools."""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import structlog

from adapters.pki import PlantAuthority
from adapters.telemetry import Metrics
from schemas.messages import Gate, ImageEvent, Reason, StationState
from service.errors import SinkUnavailable
from service.ports import Arrival
from tests.support.fakes import RecordingCommands, RecordingIntake
from tests.support.mqtt import (
    PlantClient,
    adapter_for,
    answer_to,
    counted,
    dynamic_security_or_skip,
    private_mosquitto,
    running,
    status,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker


def _event(event_id: str = "e1", **fields: object) -> bytes:
    return json.dumps({"event_id": event_id, "image": {"uri": "file:///frame.png"}, **fields}).encode()


def _refused(metrics: Metrics, reason: str) -> float:
    return counted(metrics, "cangate_refused_total", transport="mqtt", reason=reason)


async def test_verdict_echoes_correlation_data_and_expires_with_its_deadline() -> None:
    """MQTT 5: the request's correlation data comes back, and the broker forgets what nobody fetched in time."""
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), intake := RecordingIntake()) as adapter,
    ):
        await plant.send("image-ready", _event(), correlation_data=b"\x00\xffcorrelation")
        arrival = await intake.next()
        await adapter.publish(answer_to(left_s=29.9, correlation_data=arrival.correlation_data))
        verdict, gate = await plant.next("verdict"), await plant.next("gate")
        assert verdict.correlation_data == b"\x00\xffcorrelation"
        assert (gate.correlation_data, verdict.retain, gate.retain) == (None, False, False)
        # rounded down, and the broker takes off what it has spent with them
        assert verdict.expiry_s in {28, 29}
        assert gate.expiry_s in {28, 29}

        await adapter.publish(answer_to(gate=Gate.REJECT, left_s=-5.0))
        late = await plant.next("gate")
        assert late.expiry_s in {0, 1}, "at least one second, however late"


async def test_status_is_retained_and_told_once_a_second_unless_it_changed() -> None:
    """Many calls, few messages: only trouble or its end, a new connection or a second gone by is worth one."""
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), RecordingIntake()) as adapter,
    ):
        for heartbeat in range(5):
            await adapter.publish_status(status(StationState.READY, heartbeat=heartbeat), ready=True)
        await adapter.publish_status(status(StationState.BUSY, heartbeat=5), ready=True)
        await adapter.publish_status(status(StationState.FAULT, heartbeat=6), ready=False)
        told = [json.loads((await plant.next("status")).payload) for _ in range(2)]
        assert [(said["state"], said["heartbeat"]) for said in told] == [("ready", 0), ("fault", 6)]
        async with PlantClient(broker.port) as newcomer:
            assert (await newcomer.next("status")).retain


async def test_raw_image_comes_with_its_user_properties() -> None:
    """mosquitto_pub sends encoded bytes with MQTT 5 user properties, as a camera would."""
    async with private_mosquitto() as broker, running(adapter_for(broker.port), intake := RecordingIntake()):
        await _mosquitto_pub(
            broker.port,
            "cangate/line1/image-ready/raw",
            *("-m", "encoded image"),
            *("-D", "publish", "user-property", "event_id", "e1"),
            *("-D", "publish", "user-property", "part_id", "C-1"),
            *("-D", "publish", "user-property", "trigger_id", "4294967295"),
            *("-D", "publish", "user-property", "captured_at", "2026-01-31T09:00:00.000+01:00"),
            *("-D", "publish", "user-property", "deadline_ms", "250"),
            *("-D", "publish", "correlation-data", "again"),
        )
        arrival = await intake.next()
        expected = ImageEvent(
            event_id="e1",
            part_id="C-1",
            trigger_id=4_294_967_295,
            captured_at=datetime(2026, 1, 31, 8, tzinfo=UTC),
            deadline_ms=250,
        )
        assert arrival.event == expected
        assert (arrival.frame_bytes, arrival.image, arrival.refusal) == (b"encoded image", None, None)
        assert arrival.correlation_data == b"again"


async def test_raw_image_does_not_wait_for_its_acknowledgement() -> None:
    """While the journal fails thousands of events wait for it: what was inside is of no use to them."""
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), intake := RecordingIntake()),
    ):
        await plant.send("image-ready/raw", bytes(999), user_properties=[("event_id", "e1")])
        answered = (await intake.next()).answered
        assert isinstance(answered, partial)
        (message,) = answered.args
        assert (message.mid > 0, message.payload) == (True, b"")


async def test_raw_image_of_no_bytes_and_one_too_large() -> None:
    """No bytes are passed on as they are; more than allowed are refused by name."""
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), intake := RecordingIntake()),
    ):
        await plant.send("image-ready/raw", b"", user_properties=[("event_id", "empty")])
        await plant.send("image-ready/raw", bytes(1000), user_properties=[("event_id", "largest")])
        await plant.send("image-ready/raw", bytes(1001), user_properties=[("event_id", "too-large")])
        empty, largest, too_large = [await intake.next() for _ in range(3)]
        assert (empty.frame_bytes, empty.refusal) == (b"", None)
        assert (largest.frame_bytes, largest.refusal) == (bytes(1000), None)
        assert too_large.refusal is not None
        assert (too_large.refusal.reason, too_large.frame_bytes) == (Reason.FRAME_REFUSED, None)


@pytest.mark.parametrize("length", [257, 60_000])
async def test_raw_image_with_a_name_that_is_no_valid_id_is_refused_by_it(length: int) -> None:
    """The verdict says all of it, however long the user property was; mosquitto passes no control character on."""
    event_id = "e" * length
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), intake := RecordingIntake()) as adapter,
    ):
        await plant.send("image-ready/raw", b"JPEG", user_properties=[("event_id", event_id), ("part_id", "C-1")])
        arrival = await intake.next()
        assert (arrival.event, arrival.frame_bytes) == (ImageEvent(event_id=event_id, part_id="C-1"), None)
        assert arrival.refusal is not None
        assert arrival.refusal.reason is Reason.FRAME_REFUSED
        await adapter.publish(answer_to(event_id, gate=Gate.REJECT))
        assert json.loads((await plant.next("verdict")).payload)["event_id"] == event_id


@pytest.mark.parametrize(
    ("leaf", "payload", "reason"),
    [
        ("image-ready", b"", "not_json"),
        ("image-ready", b"\xff\xfe", "not_json"),
        ("image-ready", b"{" * 60_000, "not_json"),
        ("image-ready", b'["event_id"]', "not_json"),
        ("image-ready", b'{"event_id":1.2}', "no_event_id"),
        ("image-ready", b'{"event_id":"a\\u0000"}', "no_event_id"),
        ("image-ready", b'{"event_id":""}', "no_event_id"),
        ("image-ready", _event("named-but-huge", more="x" * 65_536), "too_large"),
        ("image-ready/raw", b"bytes without a name", "no_event_id"),
        ("cmd", b'{"command":"ping","more":"' + b"x" * 65_536 + b'"}', "too_large"),
    ],
)
async def test_input_that_cannot_be_answered_is_counted_and_acknowledged(
    leaf: str, payload: bytes, reason: str
) -> None:
    """It is gone from the broker, and the next good event is judged."""
    metrics = Metrics()
    # one message at a time, so the good event only comes when the bad one was acknowledged; 3.1.1, because with MQTT 5
    # mosquitto goes by the client's Receive Maximum instead
    async with (
        private_mosquitto("max_inflight_messages 1") as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port, protocol="3.1.1", metrics=metrics), intake := RecordingIntake()),
    ):
        await plant.send(leaf, payload)
        await plant.send("image-ready", _event("good"))
        assert (await intake.next()).event.event_id == "good"
        assert _refused(metrics, reason) == 1


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_retained_copies_are_ignored(protocol: str) -> None:
    """A retained trigger or command is old news: it must not judge a part that is long gone, nor pause the line."""
    metrics = Metrics()
    commands, intake = RecordingCommands(), RecordingIntake()
    async with private_mosquitto() as broker, PlantClient(broker.port) as plant:
        await plant.send("image-ready", _event("stale"), retain=True)
        await plant.send("cmd", b'{"command":"pause"}', retain=True)
        async with running(adapter_for(broker.port, protocol=protocol, metrics=metrics), intake, commands):
            await eventually(lambda: _refused(metrics, "retained") == 2)
            await plant.send("image-ready", _event("live"))
            await plant.send("cmd", b'{"command":"resume"}')
            assert (await intake.next()).event.event_id == "live"
            await eventually(lambda: bool(commands.taken))
            assert [command.command for command in commands.taken] == ["resume"]


@pytest.mark.parametrize("retained", [False, True], ids=["", "retained"])
@pytest.mark.parametrize("leaf", ["image-ready", "image-ready/raw", "cmd"])
@pytest.mark.parametrize("odd", [["user-property", "\ufeffname", "\ufeffvalue"], ["content-type", "\ufeff"]], ids=str)
async def test_text_that_mqtt_allows_ends_no_connection(odd: list[str], leaf: str, *, retained: bool) -> None:
    """U+FEFF, which a file of Windows begins with: paho would end each connection to which the broker hands it."""
    kept = ["-r"] if retained else []
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port) as plant,
        running(adapter_for(broker.port), intake := RecordingIntake(), RecordingCommands()) as adapter,
    ):
        connection = adapter._connection
        payload = '{"command":"ping"}' if leaf == "cmd" else _event("odd").decode()
        await _mosquitto_pub(broker.port, f"cangate/line1/{leaf}", "-m", payload, *kept, "-D", "publish", *odd)
        await plant.send("image-ready", _event("after"))
        async with asyncio.timeout(10):
            while (await intake.next()).event.event_id != "after":
                pass
        assert adapter._connection is connection


@pytest.mark.parametrize(("refused", "is_shown"), [("image-ready", True), ("image-ready/raw", False), ("cmd", True)])
async def test_subscription_that_the_broker_refuses_is_shown(tmp_path: Path, refused: str, *, is_shown: bool) -> None:
    """Nothing would ever come of it; the other ones go on. Images in messages are not every plant's."""
    rules = tmp_path / "rules.json"
    default = {"publishClientSend": True, "publishClientReceive": True, "subscribe": True, "unsubscribe": True}
    deny = {"acltype": "subscribeLiteral", "topic": f"cangate/line1/{refused}", "allow": False}
    rules.write_text(
        json.dumps(
            {
                "defaultACLAccess": default,
                "roles": [{"rolename": "station", "acls": [deny]}],
                "groups": [{"groupname": "all", "roles": [{"rolename": "station"}]}],
                "anonymousGroup": "all",
            }
        )
    )
    rules.chmod(0o666)
    async with (
        private_mosquitto(
            f"plugin {dynamic_security_or_skip()}", f"plugin_opt_config_file {rules}", "user root"
        ) as broker,
        running(adapter_for(broker.port), RecordingIntake()) as adapter,
    ):
        shown = f"subscription to cangate/line1/{refused} refused by the broker: Not authorized"
        assert adapter.refused == (shown if is_shown else None)


async def test_what_comes_in_is_logged_in_the_context_of_the_station() -> None:
    """Two stations of one process: their messages come in on threads and callbacks of their own."""
    seen: list[object] = []

    class Looking(RecordingIntake):
        def submit(self, arrival: Arrival) -> None:
            seen.append(structlog.contextvars.get_contextvars().get("station"))
            super().submit(arrival)

    intake = Looking()
    async with private_mosquitto() as broker, PlantClient(broker.port) as plant:
        with structlog.contextvars.bound_contextvars(station="line7"):
            adapter = running(adapter_for(broker.port), intake)
            await adapter.__aenter__()
        try:
            await plant.send("image-ready", _event())
            await intake.next()
        finally:
            await adapter.__aexit__(None, None, None)
    assert seen == ["line7"]


async def test_refused_publish_is_not_taken_for_a_delivered_one(tmp_path: Path) -> None:
    """A broker that forbids a topic acknowledges with a reason code; that confirms nothing (MQTT 5 section 3.4.2.1)."""
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite cangate/line1/status\ntopic read cangate/line1/#\n")
    async with (
        private_mosquitto(f"acl_file {rules}", "user root") as broker,
        running(adapter_for(broker.port), RecordingIntake()) as adapter,
    ):
        await adapter.publish_status(status(), ready=True)
        with pytest.raises(SinkUnavailable, match="refused by the broker: Not authorized"):
            await adapter.publish(answer_to())


async def test_prefix_of_several_levels_is_used_everywhere() -> None:
    """An ISA-95 path works as a prefix."""
    prefix = "acme/plant1/filling/line1"
    async with (
        private_mosquitto() as broker,
        PlantClient(broker.port, prefix=prefix) as plant,
        running(adapter_for(broker.port, prefix=prefix), intake := RecordingIntake()) as adapter,
    ):
        await plant.send("image-ready", _event())
        await intake.next()
        await adapter.publish(answer := answer_to())
        assert (await plant.next("verdict")).payload == answer.verdict_json


async def test_tls_with_a_client_certificate(tmp_path: Path) -> None:
    """Certificates on both sides; a broker whose certificate is not trusted is a fault, never a plain connection."""
    PlantAuthority.create(tmp_path, name="plant", days=10).issue("both", hosts=["127.0.0.1"], uri="urn:cangate", days=5)
    authority, certificate, key = tmp_path / "ca.pem", tmp_path / "both.pem", tmp_path / "both.key"
    async with private_mosquitto(
        "user root",
        f"cafile {authority}",
        f"certfile {certificate}",
        f"keyfile {key}",
        "require_certificate true",
    ) as broker:
        trusted = adapter_for(broker.port, tls=True, ca_file=authority, cert_file=certificate, key_file=key)
        async with running(trusted, RecordingIntake()):
            await trusted.publish(answer_to())
            assert trusted._connection is not None
            assert isinstance(trusted._connection._socket, ssl.SSLSocket)
            trusted._connection.abort("crashed")
            await eventually(lambda: trusted.fault is None)
            await trusted.publish(answer_to(seq=2))
        stranger = adapter_for(broker.port, tls=True)
        async with running(stranger, RecordingIntake(), connected=False):
            await eventually(lambda: "from no authority that we trust" in str(stranger.fault))


async def _mosquitto_pub(port: int, topic: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "mosquitto_pub", "-V", "5", "-p", str(port), "-q", "1", "-t", topic, *arguments
    )
    assert await process.wait() == 0
