"""The server's side of each connection: bounded before it is known, and quiet about rubbish.

asyncua 2.1 collects whatever a chunk's header announces, up to 4 GiB, before anybody has logged in; logs a traceback
for each message that it cannot read; and checks passwords on the event loop. Here a chunk has the size that was agreed,
a message that cannot be read ends its connection with one line in the log, and a password was checked on a thread
before asyncua asks for the user.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import structlog
from asyncua import Server, ua
from asyncua.common.connection import TransportLimits
from asyncua.common.utils import Buffer, ServiceError
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.server.internal_server import InternalServer
from asyncua.server.uaprocessor import PublishRequestData, UaProcessor
from asyncua.ua.ua_binary import struct_from_binary

from adapters.opcua.security import StationInternalServer

log = structlog.get_logger(__name__)

_CHUNK_HEADER: Final = 8
_MESSAGE_TYPES: Final = frozenset({b"HEL", b"OPN", b"MSG", b"CLO", b"ERR", b"ACK", b"RHE"})
_MAX_MESSAGE: Final = 8 * 1024 * 1024
_MAX_CONNECTIONS: Final = 100
_MAX_LOGIN_S: Final = 15.0
_REVOKED_WITHIN_S: Final = 2.0
_PUBLISH: Final = ua.NodeId(ua.Int32(ua.ObjectIds.PublishRequest_Encoding_DefaultBinary))
_ACTIVATE: Final = ua.NodeId(ua.Int32(ua.ObjectIds.ActivateSessionRequest_Encoding_DefaultBinary))


class StationServer(Server):
    """asyncua's server with our side of each connection."""

    iserver: StationInternalServer

    def __init__(self, iserver: StationInternalServer) -> None:
        super().__init__(iserver=iserver)
        iserver.max_connections = _MAX_CONNECTIONS
        iserver.max_pending_activation_seconds = _MAX_LOGIN_S
        self.limits = TransportLimits(
            max_chunk_count=_MAX_MESSAGE // TransportLimits.max_recv_buffer + 1, max_message_size=_MAX_MESSAGE
        )

    @property
    def connections(self) -> Sequence[OPCUAProtocol]:
        """Return the connections that are open."""
        return list(self.bserver.clients) if self.bserver else []

    async def start(self) -> None:
        """Start to listen. Raises OSError where the port cannot be had."""
        await self._setup_server_nodes()
        await self.iserver.start()
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
                    await session.close_session()
                    for connection in self.connections:
                        if connection.processor and connection.processor.session is session and connection.transport:
                            connection.transport.abort()


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
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.processor is not None:
            self.processor = _Processor(self.iserver, transport, self.limits)
            self.processor.set_policies(self.policies)  # type: ignore[no-untyped-call] # asyncua leaves it untyped

    def data_received(self, data: bytes) -> None:
        """Take in what came, unless it cannot be the protocol."""
        if self.transport is None or self.transport.is_closing():
            return  # refused: asyncua would take it in all the same
        fault = _fault(self._buffer + data, self.limits.max_recv_buffer)
        if fault is not None:
            self._end(fault)
            return
        super().data_received(data)

    async def _process_one_msg(self, header: object, buf: Buffer) -> bool:
        try:
            return await super()._process_one_msg(header, buf)
        except Exception as exc:  # noqa: BLE001 - a stranger's bytes make asyncua trip over anything: no defect
            self._end(f"a message that cannot be read: {_one_line(exc)}")
            return False

    def _end(self, fault: str) -> None:
        log.warning("opcua_connection_refused", peer=_host(self.peer_name), reason=fault)
        if self.transport is not None:
            self.transport.abort()


class _Processor(UaProcessor):
    iserver: InternalServer

    async def _process_message(
        self, typeid: ua.NodeId, requesthdr: ua.RequestHeader, seqhdr: object, body: Buffer
    ) -> bool:
        try:
            if typeid == _PUBLISH and self._may_publish(typeid, body):
                await self._take_publish_request(requesthdr, seqhdr, body)
                return True
            if typeid == _ACTIVATE:
                await self._check_login(requesthdr, body.copy())
            handled = await super()._process_message(typeid, requesthdr, seqhdr, body)  # type: ignore[no-untyped-call] # as above
            return bool(handled)
        except (ServiceError, ua.uaerrors.UaStatusCodeError):
            raise
        except Exception as exc:  # as above; a client that asks for nonsense is told so and may go on
            log.warning("opcua_request_failed", peer=_host(self.name), request=str(typeid), error=_one_line(exc))
            raise ServiceError(ua.StatusCodes.BadDecodingError) from exc

    def _may_publish(self, typeid: ua.NodeId, body: Buffer) -> bool:
        permissions = self._connection.security_policy.permissions
        if self.session is None or permissions is None:
            return self.session is not None
        return bool(permissions.check_validity(self.session.user, typeid, body))  # type: ignore[no-untyped-call] # as above

    async def _take_publish_request(self, requesthdr: ua.RequestHeader, seqhdr: object, body: Buffer) -> None:
        """Do as asyncua does, which compares each request with thirty others before it sees that it is this one."""
        assert self.session is not None
        self.session_last_activity = time.monotonic()
        self.session.touch()
        parameters = struct_from_binary(ua.PublishParameters, body)
        subscriptions, results = self.session.publish(parameters.SubscriptionAcknowledgements)
        request = PublishRequestData(requesthdr=requesthdr, seqhdr=seqhdr, results=results)
        while self._publish_results_subs:
            subscription_id = next(iter(self._publish_results_subs))
            del self._publish_results_subs[subscription_id]
            waiting = self.session.subscription_service.subscriptions.get(subscription_id)
            if waiting is not None and await waiting.publish_results(request):
                return
        if len(self._publish_requests) >= self.publish_request_limit(subscriptions):
            self._evict_publish_request()
        self._publish_requests.append(request)

    async def _check_login(self, requesthdr: ua.RequestHeader, body: Buffer) -> None:
        session = self.session or self.iserver.lookup_external_session(requesthdr.AuthenticationToken)
        if session is None:
            return  # asyncua says so
        parameters = struct_from_binary(ua.ActivateSessionParameters, body)
        assert isinstance(self.iserver, StationInternalServer)
        await self.iserver.check_login(session, parameters.UserIdentityToken, peer=_host(self.name))


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


def _host(peer: object) -> str:
    return str(peer[0]) if isinstance(peer, tuple) and peer else "unknown"


def _one_line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:200]
