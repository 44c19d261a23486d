"""The server and its side of each connection: bounded before it is known, and quiet about rubbish.

asyncua 2.1 collects whatever a chunk's header announces, up to 4 GiB, before anybody has logged in; logs a traceback
for each message that it cannot read; and keeps what a client asks for and does not read. Here a chunk has the size that
was agreed, a message that cannot be read ends its connection with one line in the log, messages of one connection let
the others in between, a client that does not read its answers is let go, and so is one that is no client any more.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, cast

import structlog
from asyncua import Server, ua
from asyncua.common.connection import TransportLimits
from asyncua.common.utils import Buffer
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.ua.ua_binary import uatcp_to_binary

from adapters.opcua.server.channels import Unfit
from adapters.opcua.server.continuation import MAX_CONTINUATION_POINTS
from adapters.opcua.server.limits import MAX_BROWSE_PATHS, MAX_OPERATIONS
from adapters.opcua.server.requests import MAX_SESSIONS, StationProcessor, peer_host
from adapters.opcua.server.sessions import StationInternalServer
from adapters.opcua.server.subscriptions.service import MAX_ITEMS, MIN_INTERVAL_MS
from adapters.opcua.server.views import StationViews
from service.errors import brief

log = structlog.get_logger(__name__)

_CHUNK_HEADER: Final = 8
_MESSAGE_TYPES: Final = frozenset({b"HEL", b"OPN", b"MSG", b"CLO", b"ERR", b"ACK", b"RHE"})
_MAX_ANNOUNCED: Final = 8 * 1024 * 1024
_MAX_REQUEST: Final = 512 * 1024
"""Bytes. node-opcua takes what the server announces for requests as the limit of answers too, so that stays high."""

_MAX_UNSENT: Final = 16 * 1024 * 1024
_MAX_WAITING: Final = 50  # messages of one connection; more stay in the socket
_MAX_SUBSCRIPTIONS: Final = 200
_MAX_QUEUE: Final = 500  # changes that an item keeps for its subscriber
_MAX_UNACKNOWLEDGED: Final = 100
_MAX_CONNECTIONS: Final = 100
_MAX_LOGIN_S: Final = 15.0  # for which a connection may be without a login, at first and later; above 0
_LOOKED_AT_EVERY_S: Final = 1.0
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds, seconds and tries until a host that is gone is noticed; the system's own measure is two hours."""

_REVOKED_WITHIN_S: Final = 2.0
_SHOWN: Final = {
    **{
        f"ServerCapabilities_OperationLimits_{name}": ua.Variant(MAX_OPERATIONS, ua.VariantType.UInt32)
        for name in (
            "MaxNodesPerRead",
            "MaxNodesPerWrite",
            "MaxNodesPerMethodCall",
            "MaxNodesPerBrowse",
            "MaxNodesPerRegisterNodes",
            "MaxMonitoredItemsPerCall",
        )
    },
    "ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds": ua.Variant(
        MAX_BROWSE_PATHS, ua.VariantType.UInt32
    ),
    "ServerCapabilities_MaxBrowseContinuationPoints": ua.Variant(MAX_CONTINUATION_POINTS, ua.VariantType.UInt16),
    "ServerCapabilities_MaxSessions": ua.Variant(MAX_SESSIONS, ua.VariantType.UInt32),
    "ServerCapabilities_MaxSubscriptions": ua.Variant(_MAX_SUBSCRIPTIONS, ua.VariantType.UInt32),
    "ServerCapabilities_MaxMonitoredItems": ua.Variant(MAX_ITEMS, ua.VariantType.UInt32),
    "ServerCapabilities_MaxMonitoredItemsQueueSize": ua.Variant(_MAX_QUEUE, ua.VariantType.UInt32),
    "ServerCapabilities_MinSupportedSampleRate": ua.Variant(MIN_INTERVAL_MS, ua.VariantType.Double),
    "ServerCapabilities_ServerProfileArray": ua.Variant([], ua.VariantType.String, is_array=True),
    "ServerCapabilities_LocaleIdArray": ua.Variant([], ua.VariantType.String, is_array=True),
    "ServerDiagnostics_EnabledFlag": ua.Variant(False, ua.VariantType.Boolean),
    "ServerRedundancy_RedundancySupport": ua.Variant(ua.RedundancySupport.None_, ua.VariantType.Int32),
    "Auditing": ua.Variant(False, ua.VariantType.Boolean),
}
"""What the Server object says of itself, which asyncua leaves null, though it must be there (OPC 10000-5, 6.3)."""


class StationServer(Server):
    """asyncua's server with our side of each connection."""

    iserver: StationInternalServer

    def __init__(self, iserver: StationInternalServer) -> None:
        super().__init__(iserver=iserver)
        iserver.max_connections = _MAX_CONNECTIONS
        iserver.max_pending_activation_seconds = _MAX_LOGIN_S
        iserver.max_subscriptions = _MAX_SUBSCRIPTIONS
        iserver.max_monitored_item_queue_size = _MAX_QUEUE
        iserver.max_unacked_messages_per_subscription = _MAX_UNACKNOWLEDGED
        iserver.view_service = StationViews(iserver.aspace)
        self.limits = _ChunkLimits(
            max_chunk_count=_MAX_ANNOUNCED // TransportLimits.max_recv_buffer + 1, max_message_size=_MAX_ANNOUNCED
        )

    @property
    def connections(self) -> Sequence[OPCUAProtocol]:
        """Return the connections that are open."""
        return list(self.bserver.clients) if self.bserver else []

    async def start(self) -> None:
        """Start to listen. Raises OSError where the port cannot be had."""
        await self._setup_server_nodes()
        await self.iserver.start()
        await self._show_limits()
        host, port = self._get_bind_socket_info()
        assert host is not None
        assert port is not None
        self.bserver = _Listener(self.iserver, host, port, self.limits)
        self.bserver.set_policies(self._policies)
        try:
            await self.bserver.start()
        except OSError:
            await self.iserver.stop()
            raise

    async def _show_limits(self) -> None:
        now = cast("ua.DateTime", datetime.now(UTC))
        for name, shown in _SHOWN.items():
            node = ua.NodeId(ua.Int32(getattr(ua.ObjectIds, f"Server_{name}")))
            value = ua.DataValue(shown, SourceTimestamp=now)
            (await self.iserver.aspace.write_attribute_value(node, ua.AttributeIds.Value, value)).check()

    async def end_revoked_sessions(self) -> None:
        """End, soon after it changed, the sessions of those who would not be let in again; until cancelled.

        The session goes first: one without a connection could be taken up again by who knows its token.
        """
        users = self.iserver.user_manager
        while True:
            await asyncio.sleep(_REVOKED_WITHIN_S)
            await asyncio.to_thread(users.refresh)
            for session in self.iserver.sessions:
                if session.is_activated() and not users.still_allow(session.user):
                    log.warning("opcua_session_ended", user=session.user.name, reason="user or certificate revoked")
                    used = [one for one in self.connections if one.processor and one.processor.session is session]
                    await session.close_session()
                    for connection in used:
                        if connection.transport:
                            connection.transport.abort()


class _ChunkLimits(TransportLimits):
    def is_msg_size_within_limit(self, sz: int) -> bool:
        return sz <= _MAX_REQUEST and super().is_msg_size_within_limit(sz)


class _Listener(BinaryServer):
    def _make_protocol(self) -> OPCUAProtocol:
        return _Connection(
            iserver=self.iserver,
            policies=self._policies,
            clients=self.clients,
            closing_tasks=self.closing_tasks,
            limits=self.limits,
        )


class _Connection(OPCUAProtocol):
    processor: StationProcessor | None
    _is_at_work = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high=_MAX_UNSENT)
            self.processor = StationProcessor(self.iserver, transport, self.limits)
            self.processor.set_policies(self.policies)  # type: ignore[no-untyped-call] # asyncua leaves it untyped
            _keep_alive(transport.get_extra_info("socket"))

    def pause_writing(self) -> None:
        """End a connection that does not read: asyncua would keep its answers however many they are."""
        self._end(f"it does not read: more than {_MAX_UNSENT} bytes are waiting for it")

    def data_received(self, data: bytes) -> None:
        """Take in what came, unless it cannot be the protocol."""
        if self.transport is None or self.transport.is_closing():
            return  # refused: asyncua would take it in all the same
        fault = _fault(self._buffer + data, self.limits.max_recv_buffer)
        if fault is not None:
            self._end(fault)
            return
        super().data_received(data)
        if self.messages.qsize() > _MAX_WAITING:
            self.transport.pause_reading()

    async def _process_one_msg(self, header: object, buf: Buffer) -> bool:
        if self.transport is None or self.transport.is_closing():
            return False
        self._is_at_work = True
        try:
            goes_on = await super()._process_one_msg(header, buf)
        except Unfit as exc:
            self._end(exc.reason, exc.code, exc.__cause__)
            return False
        except Exception as exc:  # noqa: BLE001 - a stranger's bytes make asyncua trip over anything: no defect
            self._end(f"a message that cannot be read: {brief(exc)}")
            return False
        finally:
            self._is_at_work = False
        if self.messages.empty():
            self.transport.resume_reading()
        else:
            await asyncio.sleep(0)  # a queue that is not empty is taken from without giving up the event loop
        return goes_on

    async def _activation_watchdog(self) -> None:
        """End the connection where its channel has run out, or where nobody has been logged in for long.

        asyncua's hook, which it starts where max_pending_activation_seconds is above 0. Its own looks once, after the
        time for a login: whoever logged in and fell silent kept his place for good. A long command keeps its session
        and its channel alive: what the client sends to that end waits behind it, and its end would be the command's.
        """
        last_known, at_work = time.monotonic(), -math.inf
        while True:
            await asyncio.sleep(_LOOKED_AT_EVERY_S)
            assert self.transport is not None
            assert self.processor is not None
            now, longest = time.monotonic(), self.iserver.max_pending_activation_seconds
            if self.processor.is_known and not self.transport.is_closing():
                last_known = now
                if self._is_at_work:
                    at_work = now
                    self.processor.touch()
            if now > max(self.processor.ends_at, at_work + 2 * _LOOKED_AT_EVERY_S):  # a renewal may have waited
                await self._let_go(ua.StatusCodes.BadSecureChannelClosed, "its channel was not renewed")
                return
            if now - last_known > longest:
                await self._let_go(ua.StatusCodes.BadTimeout, f"nobody has been logged in for {longest:g} s")
                return

    async def _let_go(self, code: int, reason: str) -> None:
        """End the connection and say why; a moment later without waiting for anything unsent."""
        assert self.transport is not None
        log.warning("opcua_connection_ended", peer=peer_host(self.peer_name), reason=reason)
        if not self.transport.is_closing():
            self._say_and_close(code, reason)
            await asyncio.sleep(_LOOKED_AT_EVERY_S)  # cancelled where the connection has ended by then
        self.transport.abort()

    def _end(self, fault: str, code: int | None = None, cause: BaseException | None = None) -> None:
        """End a connection that cannot go on; where there is a status for it, the other side is told, but not why."""
        if self.transport is None or self.transport.is_closing():
            return
        why = {} if cause is None else {"error": brief(cause)}
        log.warning("opcua_connection_refused", peer=peer_host(self.peer_name), reason=fault, **why)
        if code is None:
            self.transport.abort()
            return
        self._say_and_close(code, fault)

    def _say_and_close(self, code: int, reason: str) -> None:
        assert self.transport is not None
        told = ua.ErrorMessage(ua.StatusCode(ua.UInt32(code)), ua.String(reason))
        self.transport.write(uatcp_to_binary(cast("ua.MessageType", ua.MessageType.Error), told))
        self.transport.close()


def _keep_alive(connected: socket.socket) -> None:
    """Let the system find out whether the other side is still there."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _fault(received: bytes, max_chunk: int) -> str | None:
    """Return what is wrong with the chunks in `received`, the last of which may not be whole yet."""
    at = 0
    while len(received) - at >= _CHUNK_HEADER:
        kind, size = received[at : at + 3], int.from_bytes(received[at + 4 : at + _CHUNK_HEADER], "little")
        if kind not in _MESSAGE_TYPES or received[at + 3 : at + 4] not in (b"F", b"C", b"A"):
            return "it does not speak OPC UA"
        if not _CHUNK_HEADER < size <= max_chunk:
            return f"a chunk of {size} bytes, {max_chunk} are allowed"
        at += size
    return None
