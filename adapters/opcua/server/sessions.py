"""The sessions of the station's OPC UA server: whose they are, and how they are logged in."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Final, Protocol

import structlog
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto import uacrypto
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AddressSpace
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.subscription_service import SubscriptionService

from adapters.opcua.server.continuation import ContinuationPoints
from adapters.opcua.server.methods import StationMethods
from adapters.opcua.server.subscriptions.ownership import OwnerSession
from adapters.opcua.server.subscriptions.service import StationSubscriptions
from adapters.opcua.server.users import StationUser, StationUsers

log = structlog.get_logger(__name__)

_DECRYPT: Final[dict[str, Callable[..., bytes]]] = {
    # "rsa-1_5" is not among them: its padding tells a patient listener the password
    "http://www.w3.org/2001/04/xmlenc#rsa-oaep": uacrypto.decrypt_rsa_oaep,
    "http://opcfoundation.org/UA/security/rsa-oaep-sha2-256": uacrypto.decrypt_rsa_oaep_sha256,
}

_OF_THE_USER: Final = (ua.AttributeIds.UserAccessLevel, ua.AttributeIds.UserExecutable)

CALLER: ContextVar[User | None] = ContextVar("CALLER", default=None)
"""Whose session calls a method: asyncua's method service is not told."""


class Channel(Protocol):
    """What a session is spoken to through."""

    def lose_session(self, session: InternalSession) -> None:
        """Know a session no more: it has ended, or gone to another channel."""


class StationSession(OwnerSession):
    """A session whose method calls know their caller, and which its user may take along to another channel."""

    iserver: StationInternalServer

    def __init__(
        self,
        internal_server: StationInternalServer,
        aspace: AddressSpace,
        submgr: SubscriptionService,
        name: str,
        user: User,
        external: bool,
    ) -> None:
        super().__init__(internal_server, aspace, submgr, name, user, external)
        self.channel: Channel | None = None
        self._continuation = ContinuationPoints()

    def activate_elsewhere(
        self, params: ua.ActivateSessionParameters, peer_certificate: bytes | None
    ) -> ua.ActivateSessionResult:
        """Log in from another channel, as the same user with the same certificate (OPC 10000-4, 5.6.3).

        Raises:
            ServiceError: it is another, or nobody.
        """
        user, nonce = self.user, self.nonce
        result = self.activate_session(params, peer_certificate)
        if self.user != user:
            self.user, self.nonce = user, nonce
            raise ServiceError(ua.StatusCodes.BadIdentityChangeNotSupported)
        return result

    def may_take_over(self, holder: InternalSession) -> bool:
        """Tell whether a session's subscriptions may become this one's: both are of the same user."""
        return self.iserver.user_manager.are_same(self.user, holder.user)

    async def close_session(self, delete_subs: bool = True) -> None:
        """End the session, by whomever; requests that wait in it are told so.

        Its subscriptions stay where that is asked for and its user may take them over. Else nobody could end them.
        """
        await super().close_session(delete_subs or not self.may_take_over(self))
        if self.channel is not None:
            self.channel.lose_session(self)

    async def read(self, params: ua.ReadParameters) -> list[ua.DataValue]:
        """Read attributes. Of what its user may not do no node says that he may (OPC 10000-3, 5.6.2 and 5.7)."""
        values = await super().read(params)
        for index, item in enumerate(params.NodesToRead):
            if item.AttributeId in _OF_THE_USER:
                values[index] = self._as_allowed(item, values[index])
        return values

    def _as_allowed(self, item: ua.ReadValueId, value: ua.DataValue) -> ua.DataValue:
        shown = value.Value
        if shown is None or shown.Value is None or not isinstance(self.user, StationUser):
            return value
        if item.AttributeId == ua.AttributeIds.UserExecutable:
            allowed = shown.Value and self.iserver.method_service.may_call(self.user, item.NodeId)
        else:
            allowed = shown.Value if self.user.writes else shown.Value & ~ua.AccessLevel.CurrentWrite.mask
        return replace(value, Value=ua.Variant(allowed, shown.VariantType))

    async def browse(self, params: ua.BrowseParameters) -> list[ua.BrowseResult]:
        """Return references, as many of each node as are wanted at once."""
        return self._continuation.begin(await super().browse(params), params.RequestedMaxReferencesPerNode)

    async def browse_next(self, parameters: ua.BrowseNextParameters) -> list[ua.BrowseResult]:
        """Return what an earlier browse has left, or forget it."""
        points = [point or b"" for point in parameters.ContinuationPoints]
        release = parameters.ReleaseContinuationPoints
        return self._continuation.release(points) if release else self._continuation.go_on(points)

    async def history_read(self, params: ua.HistoryReadParameters) -> list[ua.HistoryReadResult]:
        """Say that there is no history; asyncua answers that there was nothing."""
        if not params.NodesToRead:
            raise ServiceError(ua.StatusCodes.BadNothingToDo)
        unsupported, unknown = ua.StatusCodes.BadHistoryOperationUnsupported, ua.StatusCodes.BadNodeIdUnknown
        codes = [unsupported if one.NodeId in self.aspace else unknown for one in params.NodesToRead]
        return [ua.HistoryReadResult(StatusCode=ua.StatusCode(ua.UInt32(code))) for code in codes]

    async def call(self, params: list[ua.CallMethodRequest]) -> list[ua.CallMethodResult]:
        """Carry out method calls in the name of the session's user."""
        token = CALLER.set(self.user)
        try:
            return await super().call(params)
        finally:
            CALLER.reset(token)


class StationInternalServer(InternalServer):
    """asyncua's server core with session tokens that cannot be guessed and passwords that cannot be played again.

    asyncua counts its tokens, and a channel that names a living session's token is attached to it before the password
    is looked at. It also takes an encrypted password whatever nonce is in it.
    """

    user_manager: StationUsers
    method_service: StationMethods

    def __init__(self, user_manager: StationUsers) -> None:
        super().__init__(user_manager)
        self.subscription_service = self.isession.subscription_service = StationSubscriptions(self.aspace, iserver=self)
        self.method_service = StationMethods(self.aspace)

    def create_session(
        self,
        name: str,
        user: User = User(role=UserRole.Anonymous),  # noqa: B008 - asyncua's signature
        external: bool = False,
    ) -> InternalSession:
        """Return a new session."""
        session = StationSession(self, self.aspace, self.subscription_service, name, user=user, external=external)
        if external:
            self.unregister_external_session(session)
            session.auth_token = ua.NodeId(ua.ByteString(secrets.token_bytes(32)))
            self.register_external_session(session)
        return session

    @property
    def sessions(self) -> Sequence[InternalSession]:
        """Return the clients' sessions, those that have lost their connection included."""
        return list(self._external_sessions.values())

    async def check_login(self, session: InternalSession, token: object, *, peer: str) -> None:
        """Look at the password on a thread, before asyncua asks for the user.

        Raises:
            ServiceError: name and password are refused; what else is wrong asyncua says.
        """
        users = self.user_manager
        if users.trusted is not None:
            await asyncio.to_thread(users.trusted.refresh)
        if users.book is None or not isinstance(token, ua.UserNameIdentityToken):
            return
        try:
            username, password = self.decrypt_user_token(session, token)
        except Exception as exc:  # noqa: BLE001 - RSA and its paddings raise what they like about a stranger's bytes
            log.debug("password_not_decrypted", error=type(exc).__name__)
            return
        if await users.book.check(username or "", password or "", peer=peer) is None:
            raise ServiceError(ua.StatusCodes.BadUserAccessDenied)

    def decrypt_user_token(self, isession: InternalSession, token: ua.UserNameIdentityToken) -> tuple[str, str]:
        """Return name and password of a token that was made for this very moment of the session.

        Raises:
            ValueError: it was made for another, or encrypted in a way that gives its key away bit by bit.
        """
        algorithm, secret = token.EncryptionAlgorithm, token.Password
        if not algorithm:
            return super().decrypt_user_token(isession, token)
        if algorithm not in _DECRYPT or isession.nonce is None:
            raise ValueError("a password encrypted in a way that is not offered")
        raw = _DECRYPT[algorithm](self.private_key, secret)
        length = int.from_bytes(raw[:4], "little") - len(isession.nonce)
        if length < 0 or not hmac.compare_digest(raw[4 + length :], isession.nonce):
            raise ValueError("a password that was encrypted for another session")
        return token.UserName, raw[4 : 4 + length].decode("utf-8")

    def register_server(self, server: object, conf: object = None) -> None:  # noqa: ARG002 - asyncua's signature
        """Refuse: this is no discovery server, and asyncua would keep what anybody registers, without a login."""
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)
