"""Who may talk to the station's OPC UA server: policies, certificates, users and roles."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto import cert_gen, uacrypto
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.accounts import Account, PasswordBook, Role
from adapters.opcua.ownership import OwnerSession
from adapters.opcua.subscriptions import StationSubscriptions
from adapters.opcua.trust import TrustedCertificates
from adapters.secret_files import warn_where_others_read
from schemas.settings import OpcUaServerSettings
from schemas.tags import NAMESPACE_URI
from service.errors import UsageError

log = structlog.get_logger(__name__)

PLAIN: Final = "None"
_POLICIES: Final = {
    PLAIN: ua.SecurityPolicyType.NoSecurity,
    # Basic128Rsa15 and Basic256 rest on SHA-1 and are deprecated by OPC 10000-7: not offered.
    **{
        f"{policy}_{mode}": ua.SecurityPolicyType[f"{policy}_{mode}"]
        for policy in ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
        for mode in ("Sign", "SignAndEncrypt")
    },
}
POLICY_NAMES: Final = tuple(_POLICIES)
_DECRYPT: Final[dict[str, Callable[..., bytes]]] = {
    # "rsa-1_5" is not among them: its padding tells a patient listener the password
    "http://www.w3.org/2001/04/xmlenc#rsa-oaep": uacrypto.decrypt_rsa_oaep,
    "http://opcfoundation.org/UA/security/rsa-oaep-sha2-256": uacrypto.decrypt_rsa_oaep_sha256,
}
_CERTIFICATE_DAYS = 3650  # nobody renews a certificate on a line by himself; the integrator brings his own


def security_policies(names: Iterable[str]) -> list[ua.SecurityPolicyType]:
    """Return asyncua's policies for the names in `opcua.server.security`. Raises UsageError for an unknown one."""
    unknown = [name for name in names if name not in _POLICIES]
    if unknown:
        raise UsageError(f"opcua.server.security: unknown policy {unknown[0]!r}; known are {', '.join(_POLICIES)}")
    policies = [_POLICIES[name] for name in dict.fromkeys(names)]
    if not policies:
        raise UsageError("opcua.server.security names no policy")
    return policies


@dataclass
class StationUser(User):
    """A logged-in client; asyncua's own role stays User, since its Admin may change the address space.

    account and certificate (DER): what let it in, where it had one.
    """

    writes: bool = False
    chooses_model: bool = False
    account: Account | None = None
    certificate: bytes | None = None


CALLER: ContextVar[User | None] = ContextVar("CALLER", default=None)
"""Whose session calls a method: asyncua's method service is not told."""


class StationUsers(UserManager):
    """Decides who gets a session. asyncua's own manager accepts anyone.

    Args:
        book: who has a password; None: nobody.
        anonymous: whether clients may come without one.
        plain: whether they may come over an unsecured channel.
        trusted: whose certificates are believed; None: anybody's.
    """

    def __init__(
        self, book: PasswordBook | None, *, anonymous: bool, plain: bool, trusted: TrustedCertificates | None
    ) -> None:
        self.book = book
        self._anonymous = anonymous
        self._plain = plain
        self.trusted = trusted

    def get_user(
        self,
        iserver: InternalServer,  # noqa: ARG002 - asyncua's signature
        username: str | None = None,
        password: str | None = None,
        certificate: bytes | None = None,
    ) -> StationUser | None:
        """Return the user, or None to refuse. `certificate` is the one the secure channel was opened with, as DER.

        It was `StationInternalServer.check_login` that looked at the password: argon2 must not hold up the event loop.
        """
        if not self._channel_allowed(certificate):
            return None
        if username is None:
            if not self._anonymous:
                return None
            return StationUser(UserRole.User, writes=True, chooses_model=True, certificate=certificate)
        account = None if self.book is None else self.book.verified(username, password or "")
        if account is None:
            return None
        return StationUser(
            UserRole.User,
            username,
            writes=account.role is not Role.OPERATOR,
            chooses_model=account.role is Role.ENGINEER,
            account=account,
            certificate=certificate,
        )

    def refresh(self) -> None:
        """Read users and trusted certificates again where they have changed; call on a thread."""
        if self.book is not None:
            self.book.refresh()
        if self.trusted is not None:
            self.trusted.refresh()

    def still_allow(self, user: User) -> bool:
        """Tell whether who was let in would be let in again, as the same."""
        if not isinstance(user, StationUser) or not self._channel_allowed(user.certificate):
            return False
        if user.account is None:
            return self._anonymous
        return self.book is not None and self.book.has(user.name, user.account)

    def are_same(self, one: User, other: User) -> bool:
        """Tell whether two logins are known to be of one user: of one name or, without names, of one certificate.

        OPC 10000-4, 5.13.7 asks of anonymous clients the same ApplicationUri over a secured channel. Anybody may write
        anybody's into a certificate of his own: it must be the very same. On an unsecured channel anybody can show it.
        """
        if not isinstance(one, StationUser) or not isinstance(other, StationUser):
            return False
        if one.account is not None and other.account is not None:
            return one.name == other.name
        is_anonymous = one.account is None and other.account is None
        return is_anonymous and not self._plain and bool(one.certificate) and one.certificate == other.certificate

    def _channel_allowed(self, certificate: bytes | None) -> bool:
        # asyncua opens an unsecured channel whatever the policies, and shows its certificate validator only the
        # certificate that CreateSession names, which need not be the one behind the channel. Hence both again here.
        if not certificate:
            return self._plain
        if self.trusted is None:
            return True
        try:
            return self.trusted.covers(x509.load_der_x509_certificate(certificate))
        except ValueError:
            return False


class StationSession(OwnerSession):
    """A session whose method calls know their caller, and whose subscriptions its user may take along."""

    iserver: StationInternalServer

    def may_take_over(self, holder: InternalSession) -> bool:
        """Tell whether a session's subscriptions may become this one's: both are of the same user."""
        return self.iserver.user_manager.are_same(self.user, holder.user)

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

    def __init__(self, user_manager: StationUsers) -> None:
        super().__init__(user_manager)
        self.subscription_service = self.isession.subscription_service = StationSubscriptions(self.aspace, iserver=self)

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


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """Everything that `OpcUaServerSettings` says about access, read and checked."""

    policies: list[ua.SecurityPolicyType]
    users: StationUsers
    tokens: list[type]
    trusted: TrustedCertificates | None
    certificate: Path | None
    private_key: Path | None

    @classmethod
    def load(cls, settings: OpcUaServerSettings, pki: Path) -> ServerSecurity:
        """Read the files that `settings` names; where a certificate is needed and none is named, make one in `pki`.

        Raises:
            UsageError: a setting or a file cannot be used.
        """
        policies = security_policies(settings.security)
        book = PasswordBook(settings.users_file) if settings.users_file else None
        if not book and not settings.anonymous:
            raise UsageError("opcua.server: nobody could log in: anonymous = false needs a users_file with users")
        trusted = TrustedCertificates.load(settings.trusted_certs) if settings.trusted_certs else None
        plain = PLAIN in settings.security
        users = StationUsers(book, anonymous=settings.anonymous, plain=plain, trusted=trusted)
        tokens: list[type] = [ua.AnonymousIdentityToken] if settings.anonymous else []
        tokens += [ua.UserNameIdentityToken] if book else []
        certificate, private_key = (None, None) if set(settings.security) == {PLAIN} else _own_pair(settings, pki)
        return cls(policies, users, tokens, trusted, certificate, private_key)

    async def validate_client(self, certificate: x509.Certificate, application: ua.ApplicationDescription) -> None:
        """Refuse a client's certificate with the status that says why, and keep it. Raises ServiceError."""
        options = CertificateValidatorOptions.BASIC_VALIDATION | CertificateValidatorOptions.PEER_CLIENT
        await CertificateValidator(options).validate(certificate, application)
        if self.trusted is None:
            return
        await asyncio.to_thread(self.trusted.refresh)
        objection = self.trusted.objection(certificate)
        if objection == ua.StatusCodes.BadCertificateUntrusted:
            await asyncio.to_thread(self.trusted.keep_rejected, certificate)
        if objection is not None:
            raise ServiceError(objection)


def _own_pair(settings: OpcUaServerSettings, pki: Path) -> tuple[Path, Path]:
    if (settings.cert_file is None) != (settings.key_file is None):
        raise UsageError("opcua.server: cert_file and key_file belong together")
    if settings.cert_file is not None and settings.key_file is not None:
        for path in (settings.cert_file, settings.key_file):
            if not path.is_file():
                raise UsageError(f"opcua.server: no such file: {path}")
        warn_where_others_read("opcua.server.key_file", settings.key_file)
        return settings.cert_file, settings.key_file
    certificate, private_key = pki / "opcua-server.der", pki / "opcua-server-key.pem"
    if not (certificate.is_file() and private_key.is_file()):
        try:
            make_pair(certificate, private_key, host=settings.host)
        except OSError as exc:
            raise UsageError(f"opcua.server: cannot write a certificate to {pki}: {exc}") from exc
    return certificate, private_key


def make_pair(
    certificate: Path,
    private_key: Path,
    *,
    host: str,
    application_uri: str = NAMESPACE_URI,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
) -> None:
    """Write a self-signed application certificate (OPC 10000-6, 6.2.2) and its key, the key for our eyes only."""
    key = cert_gen.generate_private_key()
    names = dict.fromkeys((socket.gethostname(), "localhost"))
    alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(application_uri), *map(x509.DNSName, names)]
    try:
        alternatives.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        alternatives.append(x509.DNSName(host))
    made = cert_gen.generate_self_signed_app_certificate(key, "cangate", {}, alternatives, [usage], _CERTIFICATE_DAYS)
    private_key.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(private_key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(cert_gen.dump_private_key_as_pem(key))
    certificate.write_bytes(made.public_bytes(Encoding.DER))
