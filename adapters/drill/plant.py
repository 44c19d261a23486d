"""The plant's side of MQTT in a drill: a camera that asks again, a gate and a screen, in one plain client."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from adapters.drill.ledger import Ledger
from adapters.drill.part import Outage
from adapters.simulation.broker import LOOPBACK

_START_S = 20.0


class DrillPlant:
    """Publishes events with QoS 1, hears verdicts and gate commands, and reconnects by itself.

    Its sessions begin clean: a gate that was away must not be handed commands for parts that have passed.

    Args:
        port: of the broker.
        station: id of the station.
        ledger: where everything is taken down.
        protocol: of the broker.
    """

    def __init__(self, port: int, *, station: str, ledger: Ledger, protocol: Literal["5", "3.1.1"] = "5") -> None:
        self._port = port
        self._prefix = f"cangate/{station}"
        self._ledger = ledger
        self._payloads: dict[str, bytes] = {}
        self._event_ids: dict[int, str] = {}
        self._deaf: Outage | None = None
        self._subscribed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.heartbeat = 0
        mqtt5 = protocol == "5"
        # Any: paho types a socket without setsockopt, and callbacks that must return None
        client: Any = paho.Client(
            CallbackAPIVersion.VERSION2,
            protocol=paho.MQTTv5 if mqtt5 else paho.MQTTv311,
            clean_session=None if mqtt5 else True,
        )
        client.max_inflight_messages_set(0)
        client.reconnect_delay_set(1, 1)
        client.on_socket_open = lambda _client, _userdata, opened: opened.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        topics = [(f"{self._prefix}/{leaf}", 1) for leaf in ("verdict", "gate", "status")]
        client.on_connect = lambda client, *_: client.subscribe(topics)
        client.on_subscribe = lambda *_: self._hear_again()
        client.on_disconnect = lambda *_: self._hear_nothing()
        client.on_message = lambda _client, _userdata, message: self._hear(message)
        self._client = client
        self._clean: dict[str, Any] = {"clean_start": True} if mqtt5 else {}

    async def __aenter__(self) -> Self:
        self._client.connect_async(LOOPBACK, self._port, 5, **self._clean)
        self._client.loop_start()
        async with asyncio.timeout(_START_S):
            await self._subscribed.wait()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    @property
    def connected(self) -> bool:
        """Tell whether the broker is there."""
        return bool(self._client.is_connected())

    def event_of(self, trigger_id: int) -> str:
        """Return the last event that was shown with a trigger id, "" where there was none."""
        return self._event_ids.get(trigger_id, "")

    def show(self, event_id: str, uri: str, *, number: int, deadline_ms: int) -> None:
        """Say that a frame is ready."""
        trigger_id = number % 2**32
        event = {
            "schema": "cangate/image-ready/1",
            "event_id": event_id,
            "part_id": f"P-{number}",
            "trigger_id": trigger_id,
            "captured_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "deadline_ms": deadline_ms,
            "image": {"uri": uri},
        }
        self._event_ids[trigger_id] = event_id
        self._payloads[event_id] = json.dumps(event).encode()
        self._publish(event_id, time.monotonic() + deadline_ms / 1000)

    def ask_again(self, event_id: str) -> None:
        """Send an event once more, word for word."""
        self._publish(event_id, 0.0)

    def send(self, payload: bytes, *, leaf: str = "image-ready") -> None:
        """Publish anything at all."""
        self._client.publish(f"{self._prefix}/{leaf}", payload, 1)

    def _publish(self, event_id: str, deadline: float) -> None:
        self._ledger.ask(event_id, deadline)
        self._client.publish(f"{self._prefix}/image-ready", self._payloads[event_id], 1)

    def _hear_nothing(self) -> None:
        if self._deaf is None:
            self._deaf = self._ledger.begin_outage(time.monotonic())

    def _hear_again(self) -> None:
        if self._deaf is not None:
            self._deaf.ended, self._deaf = time.monotonic(), None
        self._loop.call_soon_threadsafe(self._subscribed.set)

    def _hear(self, message: Any) -> None:  # noqa: ANN401 - paho's
        at = time.monotonic()
        if message.topic.endswith("/verdict"):
            self._ledger.hear_verdict(bytes(message.payload), at)
        elif message.topic.endswith("/gate"):
            self._ledger.hear_gate(bytes(message.payload), at)
        else:
            self.heartbeat = json.loads(message.payload)["heartbeat"]
