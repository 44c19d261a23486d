"""One connection to an MQTT broker, from CONNECT to its loss: a generation.

Each connection has a paho client of its own, which is thrown away when it is lost. So nothing that belongs to an old
session reaches a new one: no stale acknowledgement (packet ids begin anew, and a late one would acknowledge a message
that nobody has looked at) and no gate command that paho would send again on its own.

The event loop reads and writes the socket itself, without paho's network thread: a gate command is with the kernel when
`publish` returns, so nothing lies between the look at the clock and its way to the broker; another thread may have to
wait for its turn for as long as the machine is busy. Only the connection is made on a thread, since name resolution and
the TLS handshake block. paho calls back while it holds locks that its own methods take, so a callback only hands over
to the next turn of the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar, cast

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from adapters.mqtt.access import BrokerAccess
from adapters.mqtt.faults import connack_fault, may_be_over_a_message
from adapters.mqtt.packets import (
    LARGEST_PACKET,
    Incoming,
    Outgoing,
    incoming,
    packet_bytes,
    properties_of,
    publish_properties,
)
from adapters.mqtt.poison_message import PoisonMessageDetector
from service.errors import SinkUnavailable
from service.ports import Clock
from service.text import one_line

T = TypeVar("T")

_ANSWER_TIMEOUT_S = 5.0
"""How long a broker may take to accept a connection or a subscription."""

_MAX_UNCONFIRMED = 20
"""Publishes on their way at a time, like mosquitto's `max_inflight_messages`; the rest waits here, not in paho."""

_MAX_UNANSWERED = 256
"""Incoming messages on their way at a time (MQTT 5 Receive Maximum): more than any intake holds, yet a bound."""

_KEEP_ALIVE_LOOK_S = 1.0
"""How often paho is asked whether it is time for a ping."""

_AT_LEAST_ONCE = 1


Confirmation = asyncio.Future[str | None]
"""None once the broker has accepted a message, else why it has not, in one line. Never an exception."""


class Connection:
    """A connection that is used once.

    Args:
        access: the broker.
        clock: stamps what comes in, and tells how long a message is still worth something.
        on_message: called on the event loop with every message; what has QoS 1 waits for `ack`.
        will: what the broker publishes when the connection breaks.
        poison_detector: remembers at which message earlier connections to this broker were closed.
    """

    def __init__(
        self,
        access: BrokerAccess,
        *,
        clock: Clock,
        on_message: Callable[[Connection, Incoming], None],
        will: Outgoing | None = None,
        poison_detector: PoisonMessageDetector | None = None,
    ) -> None:
        self._access = access
        self._clock = clock
        self._on_message = on_message
        self._poison_detector = poison_detector or PoisonMessageDetector()
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._attached = False
        self._abandoned = False
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._subscribed: asyncio.Future[Sequence[ReasonCode]] = self._loop.create_future()
        self._resumed = False  # the broker has kept our session
        self._window = _MAX_UNCONFIRMED
        self._largest = LARGEST_PACKET
        self._waiting: deque[tuple[Outgoing, Confirmation]] = deque()
        self._unconfirmed: dict[int, tuple[Outgoing, Confirmation]] = {}  # oldest first
        self.lost: asyncio.Future[str] = self._loop.create_future()
        # None once the connection is lost; also unties the two objects, so that paho can tidy up its sockets
        self._client: Client | None = self._make_client(will)

    async def connect(self) -> None:
        """Connect and wait until the broker has accepted. Raises SinkUnavailable where it does not."""
        if self._client is None:
            raise SinkUnavailable(self.lost.result())
        # a thread that nobody waits for: name resolution may hang, and must not hold up the end of the process
        # in the context of who connects: what comes in later is logged with the station's name
        connect = partial(contextvars.copy_context().run, partial(self._connect, self._client))
        threading.Thread(target=connect, name="mqtt-connect", daemon=True).start()
        await self._answered(self._accepted, "the broker does not answer")
        for warn in self._access.warnings:
            warn()

    async def subscribe(self, *topic_filters: str, instead_of: Sequence[str] = ()) -> Sequence[str | None]:
        """Subscribe with QoS 1. Returns for each filter None, or why the broker refused it.

        instead_of: filters that a session which the broker has kept may hold from an earlier configuration. They go
        right behind and not before, so that no message falls between the two; what waits in the session stays there.

        Raises:
            SinkUnavailable: the connection is lost.
        """
        if self._client is None:
            raise SinkUnavailable(self.lost.result())
        self._client.subscribe([(topic_filter, _AT_LEAST_ONCE) for topic_filter in topic_filters])
        if self._resumed and instead_of:
            self._client.unsubscribe(list(instead_of))  # its answer tells nothing that we would act on
        self._client.loop_write()
        codes = await self._answered(self._subscribed, "the broker does not answer a subscription")
        return [str(code) if code.is_failure else None for code in codes]

    def publish(self, message: Outgoing) -> Confirmation:
        """Publish `message` behind those published before it; what this broker does not take is refused at once."""
        confirmation: Confirmation = self._loop.create_future()
        if self._client is None:
            confirmation.set_result(self.lost.result())
        elif (refusal := self._refusal(message)) is not None:
            confirmation.set_result(refusal)
        else:
            self._waiting.append((message, confirmation))
            self._issue()
        return confirmation

    def ack(self, message: Incoming) -> None:
        """Acknowledge `message`, which came in on this connection; does nothing once it is lost."""
        if self._client is not None and message.qos == _AT_LEAST_ONCE:
            self._client.ack(message.mid, message.qos)
            self._client.loop_write()

    async def close(self, *, timeout_s: float) -> None:
        """Say good-bye, so that the broker keeps the will to itself."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_write()
            await asyncio.wait([self.lost], timeout=timeout_s)
            self.abort("closed")

    def abort(self, reason: str) -> None:
        """Break the connection now, without a word to the broker."""
        # set before the socket is looked at: `_opened` looks the other way round, so one of the two shuts it
        self._abandoned = True
        self._shut_socket()
        self._lose(reason)
        if self._attached and self._socket is not None:
            self._detach(self._socket)
            self._socket.close()

    def _make_client(self, will: Outgoing | None) -> Client:
        access = self._access
        mqtt5 = access.protocol == "5"
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=access.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if mqtt5 else access.session_expiry_s == 0,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages = 0  # `_issue` counts; paho would send what it queued however late it is by then
        if access.username is not None:
            client.username_pw_set(access.username, access.password)
        if access.tls is not None:
            client.tls_set_context(access.tls)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=_AT_LEAST_ONCE, retain=will.retain)
        client.on_socket_open = lambda _client, _userdata, opened: self._opened(cast("socket.socket", opened))
        client.on_socket_close = lambda _client, _userdata, closed: self._detach(cast("socket.socket", closed))
        client.on_socket_register_write = lambda client, _userdata, full: self._wait_for_room(
            client, cast("socket.socket", full)
        )
        client.on_socket_unregister_write = lambda _client, _userdata, free: self._has_room(cast("socket.socket", free))
        client.on_connect = lambda _client, _userdata, flags, code, properties: self._connected(flags, code, properties)
        client.on_subscribe = lambda _client, _userdata, _mid, codes, _properties: self._suback(codes)
        client.on_publish = lambda _client, _userdata, mid, code, _properties: self._puback(mid, code)
        client.on_message = lambda _client, _userdata, message: self._received(message)
        client.on_disconnect = lambda _client, _userdata, flags, code, _properties: self._disconnected(
            code, by_broker=flags.is_disconnect_packet_from_server
        )
        return client

    def _issue(self) -> None:
        window = 1 if self._poison_detector.one_by_one else self._window
        while self._client is not None and self._waiting and len(self._unconfirmed) < window:
            message, confirmation = self._waiting.popleft()
            if not message.wanted():
                confirmation.set_result(None)
                continue
            info = self._client.publish(
                message.topic, message.payload, _AT_LEAST_ONCE, message.retain, self._properties(message)
            )
            # also where paho has no socket any more: it is about to say why, and `_lose` passes that on
            self._unconfirmed[info.mid] = (message, confirmation)
            self._client.loop_write()

    def _properties(self, message: Outgoing) -> Properties | None:
        return publish_properties(message, self._clock) if self._access.protocol == "5" else None

    def _refusal(self, message: Outgoing) -> str | None:
        """Say why `message` is not even offered: the broker would close the connection, and lose all else with it."""
        size = packet_bytes(message, self._properties(message))
        if size > self._largest:
            return f"too large for the broker: {size} bytes, it takes {self._largest}"
        return self._poison_detector.refusal(message)

    async def _answered(self, answer: asyncio.Future[T], silence: str) -> T:
        either: list[asyncio.Future[T] | asyncio.Future[str]] = [answer, self.lost]
        await asyncio.wait(either, timeout=_ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            self.abort(silence)
            raise SinkUnavailable(self.lost.result())
        return answer.result()

    def _accept(self, *, resumed: bool, receive_maximum: int, largest: int) -> None:
        self._resumed = resumed
        self._window = min(_MAX_UNCONFIRMED, receive_maximum)
        self._largest = min(LARGEST_PACKET, largest)
        _settle(self._accepted, None)

    def _confirm(self, mid: int, refusal: str | None) -> None:
        message, confirmation = self._unconfirmed.pop(mid, (None, None))
        if message is not None and confirmation is not None:
            self._poison_detector.confirmed(message)
            confirmation.set_result(refusal)
            self._issue()

    def _lose(self, reason: str, *, over_a_message: bool = False) -> None:
        if self.lost.done():
            return
        self._client = None
        self.lost.set_result(reason)
        if over_a_message and self._unconfirmed:
            oldest, _ = next(iter(self._unconfirmed.values()))
            self._poison_detector.lost_at(oldest)
        for _, confirmation in (*self._unconfirmed.values(), *self._waiting):
            confirmation.set_result(reason)
        self._unconfirmed.clear()
        self._waiting.clear()

    def _shut_socket(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # closed already
                # not SSLSocket.shutdown, which would take the TLS state from under the thread that connects
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _attach(self, client: Client) -> None:
        """Take the socket over from the thread that connected."""
        opened = client.socket()
        if opened is not None:
            self._attached = True
            self._loop.add_reader(opened, self._readable, client)
            self._loop.add_writer(opened, client.loop_write)  # CONNECT waits there since before anybody watched
            self._keep_alive(client)

    def _readable(self, client: Client) -> None:
        try:
            client.loop_read()
            # what TLS has decrypted already wakes nobody up
            while self._attached and isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
                client.loop_read()
        except Exception as exc:  # noqa: BLE001 - whatever paho makes of what is no MQTT
            self.abort(f"the broker sent what cannot be read: {type(exc).__name__}")

    def _keep_alive(self, client: Client) -> None:
        if self._attached:
            client.loop_misc()
            self._loop.call_later(_KEEP_ALIVE_LOOK_S, self._keep_alive, client)

    def _wait_for_room(self, client: Client, full: socket.socket) -> None:
        if self._attached:
            self._loop.add_writer(full, client.loop_write)

    def _has_room(self, free: socket.socket) -> None:
        if self._attached:
            self._loop.remove_writer(free)

    def _detach(self, closed: socket.socket) -> None:
        if self._attached:
            self._attached = False
            self._loop.remove_reader(closed)
            self._loop.remove_writer(closed)

    # from here on: called by paho, in the thread that connects or while it holds its locks

    def _hand_over(self, handler: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
            self._loop.call_soon_threadsafe(handler)

    def _connect(self, client: Client) -> None:
        access = self._access
        try:
            if access.protocol == "5":
                properties = properties_of(PacketTypes.CONNECT)
                properties.SessionExpiryInterval = access.session_expiry_s
                properties.ReceiveMaximum = _MAX_UNANSWERED
                client.connect(
                    access.host,
                    access.port,
                    access.keepalive_s,
                    clean_start=access.session_expiry_s == 0,
                    properties=properties,
                )
            else:
                client.connect(access.host, access.port, access.keepalive_s)
        except Exception as exc:  # noqa: BLE001 - a name that cannot be one, what paho cannot pack: nobody else hears it
            self._hand_over(partial(self._lose, one_line(exc)))
        else:
            self._hand_over(partial(self._attach, client))

    def _opened(self, opened: socket.socket) -> None:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms of delayed ACK in every exchange
        self._socket = opened
        if self._abandoned:
            self._shut_socket()

    def _connected(self, flags: ConnectFlags, code: ReasonCode, properties: Properties | None) -> None:
        if code.is_failure:
            self._hand_over(partial(self._lose, connack_fault(str(code))))
            return
        accept = partial(
            self._accept,
            resumed=flags.session_present,
            receive_maximum=getattr(properties, "ReceiveMaximum", _MAX_UNCONFIRMED),
            largest=getattr(properties, "MaximumPacketSize", LARGEST_PACKET),
        )
        self._hand_over(accept)

    def _suback(self, codes: Sequence[ReasonCode]) -> None:
        self._hand_over(partial(_settle, self._subscribed, codes))

    def _puback(self, mid: int, code: ReasonCode) -> None:
        self._hand_over(partial(self._confirm, mid, f"refused by the broker: {code}" if code.is_failure else None))

    def _received(self, message: MQTTMessage) -> None:
        self._hand_over(partial(self._on_message, self, incoming(message, self._clock)))

    def _disconnected(self, code: ReasonCode, *, by_broker: bool) -> None:
        # paho has a code for itself, too; "unspecified" stands for a closed socket
        detail = "" if code == "Unspecified error" and not by_broker else f": {code}"
        if not (self._accepted.done() or detail):
            detail = " before the broker answered" + ("" if self._access.tls else "; does it want TLS (mqtt.tls)?")
        reason = f"{'closed by the broker' if by_broker else 'connection lost'}{detail}"
        self._hand_over(partial(self._lose, reason, over_a_message=may_be_over_a_message(str(code))))


def _settle(answer: asyncio.Future[T], value: T) -> None:
    if not answer.done():
        answer.set_result(value)
