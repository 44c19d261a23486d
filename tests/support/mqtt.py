"""Private brokers and an independent client for tests of everything that speaks MQTT."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from prometheus_client.parser import text_string_to_metric_families

from adapters.clock import SystemClock
from adapters.mqtt import MqttAdapter
from adapters.simulation.broker import MosquittoBroker, find_mosquitto
from adapters.telemetry import Metrics
from schemas.messages import Decision, Gate, JudgedImage, ModelRef, Reason, StagesMs, StationState, Status, Verdict
from schemas.settings import MqttSettings
from service.ports import Answer, Asker, CommandHandler, Intake
from tests.support.fakes import Heard, RecordingCommands
from tests.support.waiting import eventually

STATION = "line1"
WAIT_S = 15.0
"""For what must happen; a test that passes never waits this long."""


def mosquitto_or_skip() -> Path:
    """Return where mosquitto is installed, or skip the test."""
    executable = find_mosquitto()
    if executable is None:
        pytest.skip("mosquitto is not installed")
    return executable


def dynamic_security_or_skip() -> Path:
    """Return where mosquitto's plugin for access lists that refuse subscriptions is, or skip the test."""
    found = next(Path("/usr/lib").glob("**/mosquitto_dynamic_security.so"), None)
    if found is None:
        pytest.skip("mosquitto has no dynamic security here")
    return found


def private_mosquitto(*config_lines: str, allow_anonymous: bool = True) -> MosquittoBroker:
    """Return a private mosquitto, to be used with `async with`; skips the test where it is not installed."""
    return MosquittoBroker(mosquitto_or_skip(), config_lines=config_lines, allow_anonymous=allow_anonymous)


class PlantClient:
    """An independent client: plain paho, every topic of a station in one queue each."""

    def __init__(
        self,
        port: int,
        *,
        protocol: Literal["5", "3.1.1"] = "5",
        prefix: str = "cangate",
        station: str = STATION,
    ) -> None:
        self._prefix = f"{prefix}/{station}"
        topics = f"{self._prefix}/#"  # no `self` in what paho keeps: it closes its sockets when nothing holds it
        self._loop = asyncio.get_running_loop()
        self._heard: defaultdict[str, asyncio.Queue[Heard]] = defaultdict(asyncio.Queue)
        self._ready = asyncio.Event()
        self._mqtt5 = protocol == "5"
        # Any: paho types a socket without setsockopt, and callbacks that must return None
        client: Any = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5 if self._mqtt5 else paho.MQTTv311)
        client.on_socket_open = lambda _client, _userdata, opened: opened.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        client.on_connect = lambda client, *_: client.subscribe(topics, qos=1)
        client.on_subscribe = lambda *_: self._loop.call_soon_threadsafe(self._ready.set)
        client.on_message = lambda _client, _userdata, message: self._loop.call_soon_threadsafe(self._take, message)
        self._client = client
        self._port = port

    async def __aenter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        async with asyncio.timeout(WAIT_S):
            await self._ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    async def send(
        self,
        leaf: str,
        payload: bytes,
        *,
        retain: bool = False,
        correlation_data: bytes | None = None,
        response_topic: str | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Publish to a leaf of the station with QoS 1 and wait for the broker."""
        properties = None
        if self._mqtt5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho leaves it untyped
            if correlation_data is not None:
                properties.CorrelationData = correlation_data
            if response_topic is not None:
                properties.ResponseTopic = response_topic
            if user_properties:
                properties.UserProperty = list(user_properties)
        info = self._client.publish(f"{self._prefix}/{leaf}", payload, 1, retain, properties)
        await asyncio.to_thread(info.wait_for_publish, WAIT_S)

    async def next(self, leaf: str) -> Heard:
        """Return the next message of a leaf of the station."""
        async with asyncio.timeout(WAIT_S):
            return await self._heard[f"{self._prefix}/{leaf}"].get()

    def waiting(self, leaf: str) -> int:
        """Return how many messages of a leaf were not fetched yet."""
        return self._heard[f"{self._prefix}/{leaf}"].qsize()

    def _take(self, message: Any) -> None:
        properties = getattr(message, "properties", None)
        self._heard[message.topic].put_nowait(
            Heard(
                bytes(message.payload),
                bool(message.retain),
                getattr(properties, "CorrelationData", None),
                getattr(properties, "MessageExpiryInterval", None),
            )
        )


def adapter_for(port: int, *, metrics: Metrics | None = None, **settings: Any) -> MqttAdapter:
    """Return an adapter of the station for a broker on loopback; `settings` as in the configuration."""
    chosen = MqttSettings.model_validate({"port": port, "reconnect_max_s": 0.2, **settings})
    return MqttAdapter(chosen, station=STATION, clock=SystemClock(), max_raw_bytes=1000, metrics=metrics)


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    """Return what a counter shows to Prometheus, 0 where it shows nothing."""
    families = text_string_to_metric_families(metrics.text().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@asynccontextmanager
async def running(
    adapter: MqttAdapter, intake: Intake, commands: CommandHandler | None = None, *, connected: bool = True
) -> AsyncIterator[MqttAdapter]:
    """Run an adapter, by default from when it is connected, and close it."""
    await adapter.open()
    task = asyncio.create_task(adapter.run(intake, commands or RecordingCommands()))
    try:
        if connected:
            await eventually(lambda: adapter.fault is None)
        yield adapter
    finally:
        task.cancel()
        await asyncio.wait([task])
        await adapter.close()


def break_off(adapter: MqttAdapter) -> None:
    """Break the connection as a crash does: without a word to the broker."""
    assert adapter._connection is not None
    adapter._connection.abort("crashed")


def verdict(event_id: str = "e1", *, seq: int = 1, gate: Gate = Gate.PASS) -> Verdict:
    """Return a verdict that says what `gate` asks for."""
    now = datetime.now(UTC)
    damaged = gate is Gate.REJECT
    return Verdict(
        station=STATION,
        event_id=event_id,
        part_id="C-1",
        trigger_id=7,
        seq=seq,
        decision=Decision.DAMAGED if damaged else Decision.OK,
        gate=gate,
        reason=Reason.SCORE_AT_OR_ABOVE_THRESHOLD if damaged else Reason.SCORE_BELOW_THRESHOLD,
        uncertain=False,
        score=1.25 if damaged else 0.25,
        threshold=1.0,
        image=JudgedImage(width=60, height=40),
        model=ModelRef(name="canister", version="1", sha256="0" * 64),
        captured_at=now,
        received_at=now,
        decided_at=now,
        latency_ms=12.5,
        stages_ms=StagesMs(load=1.0, roi=2.0, normalize=0.5, embed=3.0, score=0.25, boxes=0.0),
    )


def answer_to(
    event_id: str = "e1",
    *,
    seq: int = 1,
    gate: Gate = Gate.PASS,
    left_s: float = 30.0,
    repeated: bool = False,
    correlation_data: bytes | None = None,
) -> Answer:
    """Return an answer with `left_s` until its deadline. Its bytes are no canonical JSON, so a copy would show."""
    said = verdict(event_id, seq=seq, gate=gate)
    deadline = SystemClock().monotonic() + left_s
    return Answer(said, said.to_json() + b" ", deadline, Asker("mqtt", correlation_data=correlation_data), repeated)


def status(state: StationState = StationState.READY, *, heartbeat: int = 0) -> Status:
    """Return a status of the station."""
    return Status(station=STATION, state=state, since=datetime.now(UTC), version="0.1.0", heartbeat=heartbeat)
