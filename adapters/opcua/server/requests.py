"""How requests of one connection are answered: asyncua's processor, with bounds and without its detours.

asyncua 2.1 answers each request whatever it costs, checks passwords on the event loop, and logs a traceback for what it
cannot read. Everything runs on the event loop of the gate: here a request has a bound on what it costs, a password was
checked on a thread before asyncua asks for the user, and the requests of a running line, Read and Publish, go straight.
"""

from __future__ import annotations

import asyncio
import math
from traceback import walk_tb
from typing import Final, Protocol, cast

import structlog
from asyncua import ua
from asyncua.common.connection import TransportLimits
from asyncua.common.utils import Buffer, NotEnoughData, ServiceError
from asyncua.crypto.permission_rules import ADMIN_TYPES, USER_TYPES
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession, SessionState
from asyncua.server.internal_subscription import InternalSubscription
from asyncua.server.uaprocessor import PublishRequestData, UaProcessor
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary, to_binary
from cryptography.exceptions import InvalidSignature

from adapters.opcua.server.channels import StationChannel
from adapters.opcua.server.excerpts import asks_for_excerpt, encoded, excerpt, refuse_bad_stamps
from adapters.opcua.server.limits import MAX_PIECES, MAX_STRANGERS_PIECES, counted, refuse_too_many, request_type
from adapters.opcua.server.sessions import StationInternalServer, StationSession
from service.errors import brief

log = structlog.get_logger(__name__)

_MAX_ANSWER: Final = 4 * 1024 * 1024
MAX_SESSIONS: Final = 300  # one for each connection, and for each subscription that has lost its own
_DECODER: Final = struct_from_binary.__code__.co_filename
_PUBLISH: Final = request_type("Publish")
_CREATE: Final = request_type("CreateSession")
_ACTIVATE: Final = request_type("ActivateSession")
_CLOSE: Final = request_type("CloseSession")
_READ: Final = request_type("Read")
_BROWSE: Final = request_type("Browse")
_BROWSE_NEXT: Final = request_type("BrowseNext")
_READ_ANSWER: Final = to_binary(ua.NodeId, ua.ReadResponse().TypeId)
_TRANSFER: Final = request_type("TransferSubscriptions")
_SERVICES: Final = frozenset({*(ua.NodeId(ua.Int32(one)) for one in (*USER_TYPES, *ADMIN_TYPES)), _BROWSE_NEXT})
_WITHOUT_SESSION: Final = frozenset(
    {
        _CREATE,
        _ACTIVATE,
        request_type("FindServers"),
        request_type("GetEndpoints"),
        request_type("RegisterServer"),
        request_type("RegisterServer2"),
        request_type("CloseSecureChannel"),
    }
)
_NO_DIAGNOSTICS: Final = (-1).to_bytes(4, "little", signed=True)


class _Response(Protocol):
    ResponseHeader: ua.ResponseHeader


class StationProcessor(UaProcessor):
    """Takes the requests of one connection and answers them."""

    iserver: InternalServer
    _connection: StationChannel

    def __init__(
        self, internal_server: InternalServer, transport: asyncio.BaseTransport, limits: TransportLimits
    ) -> None:
        super().__init__(internal_server, transport, limits)
        self._connection = StationChannel(self._limits)

    @property
    def is_known(self) -> bool:
        """Whether somebody is logged in here."""
        return self.session is not None and self.session.is_activated()

    @property
    def ends_at(self) -> float:
        """When the channel has run out, of time.monotonic()."""
        return self._connection.ends_at

    def touch(self) -> None:
        """Let the session live on: one of its requests is being carried out."""
        if self.session is not None:
            self.session.touch()

    def lose_session(self, session: InternalSession) -> None:
        """Know a session no more, and let nobody wait here for its news; another may have followed it."""
        if self.session is not session:
            return
        self.refuse_waiting(session, ua.StatusCodes.BadSessionClosed)
        self.session = None
        self._publish_results_subs.clear()

    def refuse_waiting(self, session: InternalSession, code: int) -> None:
        """Answer each request that waits for news of a session; those of another that is here wait on."""
        while self.session is session and self._publish_requests:
            waiting = self._publish_requests.popleft()
            handle = waiting.requesthdr.RequestHandle
            self._send(handle, waiting.seqhdr, _fault(handle, code))

    def open_secure_channel(self, algohdr: object, seqhdr: object, body: Buffer) -> None:
        """Open a channel, or another for the one that is open."""
        super().open_secure_channel(algohdr, seqhdr, counted(body, MAX_STRANGERS_PIECES))  # type: ignore[no-untyped-call] # asyncua leaves it untyped

    async def process_message(self, seqhdr: object, body: Buffer) -> bool:
        """Answer one message, whose header may hold as much as its body."""
        bounded = counted(body, MAX_PIECES if self.is_known else MAX_STRANGERS_PIECES)
        return bool(await super().process_message(seqhdr, bounded))  # type: ignore[no-untyped-call] # as above

    def send_response(
        self,
        requesthandle: ua.UInt32,
        seqhdr: ua.SequenceHeader,
        response: _Response,
        msgtype: bytes = ua.MessageType.SecureMessage,
    ) -> None:
        """Send an answer, where there is still somebody to take it."""
        response.ResponseHeader.RequestHandle = requesthandle
        told_once = isinstance(response, (ua.PublishResponse, ua.RepublishResponse))
        self._send(requesthandle, seqhdr, struct_to_binary(response), msgtype, whole=told_once)

    def get_publish_request(self, subscription_id: ua.UInt32) -> PublishRequestData | None:
        """Return a request of the subscription's own session that can be answered.

        asyncua hands news to requests of a lost connection, and to those of whatever session has followed.
        """
        if self._transport.is_closing():
            self._publish_requests.clear()
        one = self.iserver.subscription_service.subscriptions.get(subscription_id)
        if one is not None and not self._serves(one):
            return None
        request: PublishRequestData | None = super().get_publish_request(subscription_id)
        return request

    async def _process_message(
        self, typeid: ua.NodeId, requesthdr: ua.RequestHeader, seqhdr: ua.SequenceHeader, body: Buffer
    ) -> bool:
        try:
            self._refuse_misplaced(typeid, requesthdr.AuthenticationToken)
            if typeid == _PUBLISH and self._may(typeid, body):
                await self._take_publish_request(requesthdr, seqhdr, body)
                return True
            refuse_bad_stamps(typeid, body)
            refuse_too_many(typeid, body)
            if typeid == _READ and self._may(typeid, body):
                await self._read(requesthdr, seqhdr, body)
                return True
            if typeid == _BROWSE_NEXT and self._may(_BROWSE, body):
                await self._browse_next(requesthdr, seqhdr, body)
                return True
            if typeid == _ACTIVATE:
                await self._activate(requesthdr, seqhdr, body)
                return True
            if typeid == _CREATE:
                await self._make_room_for_session(body.copy())
            handled = await super()._process_message(typeid, requesthdr, seqhdr, body)  # type: ignore[no-untyped-call] # asyncua leaves it untyped
            if typeid == _CREATE and isinstance(self.session, StationSession):
                self.session.channel = self
            if typeid == _CLOSE and self.session is not None:
                self.lose_session(self.session)
            if typeid == _TRANSFER:
                self._serve_what_came()
            return bool(handled)
        except (ServiceError, ua.uaerrors.UaStatusCodeError):
            raise
        except Exception as exc:  # asyncua trips over anything; who asks for nonsense is told so and may go on
            told = {"peer": peer_host(self.name), "request": str(typeid)}
            if not self.is_known or typeid == _ACTIVATE or _was_decoding(exc):  # no login, no traceback
                log.warning("opcua_request_failed", **told, error=brief(exc))
                raise ServiceError(ua.StatusCodes.BadDecodingError) from exc
            log.exception("opcua_request_broke", **told)
            raise ServiceError(ua.StatusCodes.BadInternalError) from exc

    async def _session_watchdog_loop(self) -> None:
        """Leave it to the session's own clock: asyncua's second one here would end a session that has moved on."""

    def _refuse_misplaced(self, typeid: ua.NodeId, token: ua.NodeId) -> None:
        """Raise ServiceError for a service that there is not, or that needs a session and names none of this channel.

        asyncua asks a connection whether it has a session, and not the request which one it means.
        """
        if typeid not in _SERVICES:
            raise ServiceError(ua.StatusCodes.BadServiceUnsupported)
        if typeid in _WITHOUT_SESSION:
            return
        if self.session is None or self.session.state is SessionState.Closed or token != self.session.auth_token:
            raise ServiceError(ua.StatusCodes.BadSessionIdInvalid)
        if not self.is_known and typeid != _CLOSE:
            raise ServiceError(ua.StatusCodes.BadSessionNotActivated)

    def _may(self, typeid: ua.NodeId, body: Buffer) -> bool:
        if self.session is None or not self.is_known:
            return False
        permissions = self._connection.security_policy.permissions
        return permissions is None or bool(permissions.check_validity(self.session.user, typeid, body))  # type: ignore[no-untyped-call] # as above

    async def _read(self, requesthdr: ua.RequestHeader, seqhdr: ua.SequenceHeader, body: Buffer) -> None:
        """Do as asyncua does, but for values that are encoded already and an answer that stays within bounds."""
        assert self.session is not None
        self.session.touch()
        parts, size = [], 0
        parameters = struct_from_binary(ua.ReadParameters, body)
        if not parameters.MaxAge >= 0:  # or no number
            raise ServiceError(ua.StatusCodes.BadMaxAgeInvalid)
        for value, wanted in zip(await self.session.read(parameters), parameters.NodesToRead, strict=True):
            asked = excerpt(value, wanted) if asks_for_excerpt(wanted) else value
            part = encoded(asked, parameters.TimestampsToReturn)
            size += len(part)
            if size > _MAX_ANSWER:
                raise ServiceError(ua.StatusCodes.BadResponseTooLarge)
            parts.append(part)
        message = b"".join(
            (
                _READ_ANSWER,
                struct_to_binary(ua.ResponseHeader(RequestHandle=requesthdr.RequestHandle)),
                len(parts).to_bytes(4, "little"),
                *parts,
                _NO_DIAGNOSTICS,
            )
        )
        self._send(requesthdr.RequestHandle, seqhdr, message)

    def _send(
        self,
        requesthandle: ua.UInt32,
        seqhdr: ua.SequenceHeader,
        message: bytes,
        kind: bytes = ua.MessageType.SecureMessage,
        *,
        whole: bool = False,
    ) -> None:
        """Send an answer, or that it is longer than the client takes. whole: whatever it takes; it would be lost."""
        if self._transport.is_closing():
            return
        if kind == ua.MessageType.SecureMessage and not whole and not self._connection.takes(len(message)):
            message = _fault(requesthandle, ua.StatusCodes.BadResponseTooLarge)
        self._transport.write(
            self._connection.message_to_binary(
                message, message_type=cast("ua.MessageType", kind), request_id=seqhdr.RequestId
            )
        )

    async def _browse_next(self, requesthdr: ua.RequestHeader, seqhdr: ua.SequenceHeader, body: Buffer) -> None:
        """Answer what asyncua has no answer to."""
        assert self.session is not None
        self.session.touch()
        results = await self.session.browse_next(struct_from_binary(ua.BrowseNextParameters, body))
        response = ua.BrowseNextResponse(Parameters=ua.BrowseNextResult(Results=results))
        self.send_response(requesthdr.RequestHandle, seqhdr, response)

    async def _take_publish_request(self, requesthdr: ua.RequestHeader, seqhdr: object, body: Buffer) -> None:
        """Do as asyncua does, which compares each request with thirty others before it sees that it is this one."""
        assert self.session is not None
        self.session.touch()
        parameters = struct_from_binary(ua.PublishParameters, body)
        subscriptions, results = self.session.publish(parameters.SubscriptionAcknowledgements)
        if len(self._publish_requests) >= self.publish_request_limit(subscriptions):
            self._evict_publish_request()
        # now, for the session's last subscription may be found to be over: all its requests are told so
        self._publish_requests.append(PublishRequestData(requesthdr=requesthdr, seqhdr=seqhdr, results=results))
        while self._publish_results_subs and self._publish_requests:
            subscription_id = next(iter(self._publish_results_subs))
            del self._publish_results_subs[subscription_id]
            waiting = self.iserver.subscription_service.subscriptions.get(subscription_id)
            if waiting is not None and self._serves(waiting):  # else gone, or another connection's
                await waiting.publish_results()

    def _serve_what_came(self) -> None:
        """Let subscriptions that came over be asked for news here, and at once; asyncua leaves that where it was."""
        for number, one in self.iserver.subscription_service.subscriptions.items():
            if self._serves(one):
                one.pub_request_callback = self.get_publish_request  # type: ignore[assignment] # an id is an int
                self._publish_results_subs[ua.UInt32(number)] = True

    def _serves(self, one: InternalSubscription) -> bool:
        """Tell whether a subscription is of the session that is here now, and tells its news here."""
        is_own = self.session is not None and one.session_id == self.session.session_id
        return is_own and one.pub_result_callback == self.forward_publish_response

    async def _make_room_for_session(self, body: Buffer) -> None:
        """Leave the session that is here for a new one.

        Raises:
            ServiceError: it is one too many, or its lifetime is no number: the event loop's clock would break.
        """
        assert isinstance(self.iserver, StationInternalServer)
        if math.isnan(struct_from_binary(ua.CreateSessionParameters, body).RequestedSessionTimeout):
            raise ServiceError(ua.StatusCodes.BadInvalidArgument)
        await self._end_unless_kept(self.session)
        if len(self.iserver.sessions) >= MAX_SESSIONS:
            raise ServiceError(ua.StatusCodes.BadTooManySessions)
        if self.session is not None:
            self.lose_session(self.session)

    async def _end_unless_kept(self, session: InternalSession | None) -> None:
        """End a session that another follows here, unless it is kept for its subscriptions; asyncua keeps any."""
        if session is None:
            return
        there = self.iserver.subscription_service.subscriptions.values()
        if not (session.is_activated() and any(one.session_id == session.session_id for one in there)):
            await session.close_session()

    async def _activate(self, requesthdr: ua.RequestHeader, seqhdr: ua.SequenceHeader, body: Buffer) -> None:
        """Log in to the session that is named, which may be one from another channel (OPC 10000-4, 5.6.3).

        asyncua takes the connection's own whichever is named, brings another here before it knows by whom it was
        called, and leaves it with its old channel, too.
        """
        session = self.iserver.lookup_external_session(requesthdr.AuthenticationToken)
        if not isinstance(session, StationSession) or not (session is self.session or session.is_activated()):
            raise ServiceError(ua.StatusCodes.BadSessionIdInvalid)
        parameters = struct_from_binary(ua.ActivateSessionParameters, body)
        assert isinstance(self.iserver, StationInternalServer)
        await self.iserver.check_login(session, parameters.UserIdentityToken, peer=peer_host(self.name))
        policy = self._connection.security_policy
        challenge = (policy.host_certificate or b"") + (session.nonce or b"")
        try:
            policy.asymmetric_cryptography.verify(challenge, parameters.ClientSignature.Signature or b"")  # type: ignore[no-untyped-call] # as above
        except InvalidSignature as exc:
            raise ServiceError(ua.StatusCodes.BadApplicationSignatureInvalid) from exc
        if session is self.session:
            result = session.activate_session(parameters, policy.peer_certificate)
        else:
            result = session.activate_elsewhere(parameters, policy.peer_certificate)
            left = self.session
            self._take(session)  # before anything is waited for: meanwhile its old channel might end it
            await self._end_unless_kept(left)
        self.send_response(requesthdr.RequestHandle, seqhdr, ua.ActivateSessionResponse(Parameters=result))

    def _take(self, session: StationSession) -> None:
        """Speak for a session and its subscriptions from now on, instead of the channel that it was on."""
        if session.channel is not None:
            session.channel.lose_session(session)
        if self.session is not None:
            self.lose_session(self.session)
        self.session, session.channel = session, self
        for one in session.subscription_service.subscriptions.values():
            if one.session_id == session.session_id:
                one.pub_result_callback = self.forward_publish_response
        self._serve_what_came()


def _was_decoding(exc: Exception) -> bool:
    """Tell whether it was raised while a message was taken apart; by its type, a defect may look the same."""
    places = ((frame.f_code.co_filename, frame.f_code.co_name) for frame, _ in walk_tb(exc.__traceback__))
    return isinstance(exc, NotEnoughData) or any(
        file == _DECODER and (name == "unpack" or name.endswith("from_binary")) for file, name in places
    )


def _fault(requesthandle: ua.UInt32, code: int) -> bytes:
    answer = ua.ResponseHeader(RequestHandle=requesthandle, ServiceResult=ua.StatusCode(ua.UInt32(code)))
    return struct_to_binary(ua.ServiceFault(ResponseHeader=answer))


def peer_host(peer: object) -> str:
    """Return the address of a connection's other end, for the log."""
    return str(peer[0]) if isinstance(peer, tuple) and peer else "unknown"
