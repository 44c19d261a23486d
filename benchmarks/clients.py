"""Clients of a line that share no code with the service: one that asks over MQTT, one that watches the verdict tags."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import paho.mqtt.client as mqtt
from asyncua import Client, Node, ua
from asyncua.client.ua_session import UaSession
from asyncua.common.subscription import DataChangeEvent, Subscription
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary
from paho.mqtt.enums import CallbackAPIVersion

from adapters.simulation.broker import LOOPBACK
from benchmarks.running import STATION, without_delay

ANSWER_S = 20.0


class MqttCamera:
    """Publishes image-ready events one at a time and notes when the gate command comes."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._gates: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._on_message
        self._client.on_socket_open = without_delay
        self._client.connect(LOOPBACK, port)
        self._client.subscribe(f"cangate/{STATION}/gate", 1)
        self._client.loop_start()

    async def ask(self, part_id: str, uri: str) -> tuple[float, float]:
        """Return when the event was published and when its gate command came, s."""
        event = {"event_id": part_id, "part_id": part_id, "image": {"uri": uri}}
        published = time.perf_counter()
        self._client.publish(f"cangate/{STATION}/image-ready", json.dumps(event), qos=1)
        async with asyncio.timeout(ANSWER_S):
            while True:
                event_id, at = await self._gates.get()
                if event_id == part_id:
                    return published, at

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _: mqtt.Client, __: object, message: mqtt.MQTTMessage) -> None:
        heard = str(json.loads(message.payload)["event_id"]), time.perf_counter()
        self._loop.call_soon_threadsafe(self._gates.put_nowait, heard)


class TagClient:
    """A PLC as client of the service's own server: writes triggers, watches ResultSeq."""

    def __init__(self, client: Client, namespace: int, subscription: Subscription) -> None:
        self._client = client
        self._namespace = namespace
        self._subscription = subscription
        self._trigger = 0

    def node(self, tag: str) -> Node:
        """Return the node of a tag."""
        return self._client.get_node(f"ns={self._namespace};s={STATION}.{tag}")

    async def trigger(self, part_id: str, uri: str) -> float:
        """Give a trigger; return when, s."""
        self._trigger += 1
        await self._client.write_values([self.node("TriggerPartId"), self.node("TriggerImageUri")], [part_id, uri])
        at = time.perf_counter()
        await self.node("Trigger").write_value(self._trigger, ua.VariantType.UInt32)
        return at

    async def result(self) -> float:
        """Return when the next change of ResultSeq came, s."""
        async with asyncio.timeout(ANSWER_S):
            async for event in self._subscription:
                if isinstance(event, DataChangeEvent) and event.value:
                    return time.perf_counter()
        raise ConnectionError("the subscription has ended")


@asynccontextmanager
async def tag_client(
    endpoint: str, *, sampling_ms: float, tags: Sequence[str] = ("ResultSeq",), decode: bool = True
) -> AsyncIterator[TagClient]:
    """Connect and subscribe to `tags`; the result of `result()` is only of use for ResultSeq alone.

    decode: else what is told is acknowledged, and nobody looks into it.
    """
    logging.getLogger("asyncua").setLevel(logging.ERROR)  # it warns of every value that the server revises
    async with Client(endpoint, timeout=10) as client:
        namespace = await client.get_namespace_index("urn:cangate")
        if not decode:
            client.uaclient.session.publish = partial(_take_in, client.uaclient.session)  # type: ignore[method-assign] # there is no other place
        subscription = await client.create_subscription(sampling_ms, queue_maxsize=10_000)
        connected = TagClient(client, namespace, subscription)
        nodes = [connected.node(tag) for tag in tags]
        await subscription.subscribe_data_change(nodes, queuesize=100, sampling_interval=ua.Duration(sampling_ms))
        if tags == ("ResultSeq",):
            initial: Any = await subscription.next_event(ANSWER_S)
            assert isinstance(initial, DataChangeEvent)
        yield connected


async def _take_in(session: UaSession, acks: list[ua.SubscriptionAcknowledgement]) -> ua.PublishResponse:
    """Publish as asyncua's session does, and read no more of the answer than what it takes to acknowledge it."""
    request = ua.PublishRequest()
    request.Parameters.SubscriptionAcknowledgements = acks
    answer = await session._send_request(request, timeout=0)  # noqa: SLF001 - as asyncua itself
    response = ua.PublishResponse(ResponseHeader=_header(answer))
    result = response.Parameters
    result.SubscriptionId, waiting = struct.unpack("<Ii", answer.read(8))
    answer.read(4 * max(0, waiting) + 1)  # available sequence numbers, more notifications
    (result.NotificationMessage.SequenceNumber,) = struct.unpack("<I", answer.read(4))
    result.NotificationMessage.NotificationData = [ua.DataChangeNotification()]  # else asyncua does not acknowledge it
    return response


def _header(answer: Buffer) -> ua.ResponseHeader:
    nodeid_from_binary(answer)
    return struct_from_binary(ua.ResponseHeader, answer)
