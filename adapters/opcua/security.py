"""Who may talk to the station's OPC UA server: policies, certificates, users and roles."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import argon2
from argon2.exceptions import InvalidHashError, VerificationError
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto import cert_gen
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from schemas.settings import OpcUaServerSettings
from schemas.tags import NAMESPACE_URI
from service.errors import UsageError

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


class Role(StrEnum):
    """What a user of `users_file` may do: everyone reads, `plc` and `engineer` write the PLC's tags."""

    OPERATOR = "operator"
    PLC = "plc"
    ENGINEER = "engineer"


@dataclass
class StationUser(User):
    """A logged-in client; asyncua's own role stays User, since its Admin may change the address space."""

    writes: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """A line of `users_file`."""

    role: Role
    password_hash: str


def read_users(path: Path) -> dict[str, Account]:
    """Read `name:role:argon2-hash` lines; empty lines and lines that begin with # are skipped.

    Raises:
        UsageError: the file cannot be read, or a line cannot be used; it is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"opcua.server.users_file: cannot read {path}: {exc}") from exc
    accounts: dict[str, Account] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, role, password_hash = line.strip().split(":", 2)
            argon2.extract_parameters(password_hash)
            accounts[name] = Account(Role(role), password_hash)
        except (ValueError, InvalidHashError) as exc:
            raise UsageError(f"{path}, line {number}: expected name:role:argon2-hash, role {'|'.join(Role)}") from exc
    return accounts


class TrustedCertificates:
    """The certificates of a folder: who holds one of them, or one that a CA among them issued, is trusted."""

    def __init__(self, certificates: Sequence[x509.Certificate]) -> None:
        self._certificates = frozenset(certificates)
        self._issuers = [certificate for certificate in certificates if _is_ca(certificate)]

    @classmethod
    def load(cls, folder: Path, key: str = "opcua.server.trusted_certs") -> TrustedCertificates:
        """Read every .der, .pem, .crt and .cer file.

        Raises:
            UsageError: a missing folder or an unusable file, named after the setting `key`.
        """
        if not folder.is_dir():
            raise UsageError(f"{key}: no such folder: {folder}")
        paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in {".der", ".pem", ".crt", ".cer"}]
        return cls([read_certificate(path, key) for path in paths])

    def covers(self, certificate: x509.Certificate) -> bool:
        """Tell whether `certificate` is trusted and valid now."""
        if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
            return False
        return certificate in self._certificates or any(_issued_by(certificate, issuer) for issuer in self._issuers)


class StationUsers(UserManager):
    """Decides who gets a session. asyncua's own manager accepts anyone."""

    def __init__(
        self,
        accounts: Mapping[str, Account],
        *,
        anonymous: bool,
        plain: bool,
        trusted: TrustedCertificates | None,
    ) -> None:
        self._accounts = accounts
        self._anonymous = anonymous
        self._plain = plain
        self._trusted = trusted
        self._hasher = argon2.PasswordHasher()
        self._key = secrets.token_bytes(32)
        self._verified: dict[str, bytes] = {}

    def get_user(
        self,
        iserver: InternalServer,  # noqa: ARG002 - asyncua's signature
        username: str | None = None,
        password: str | None = None,
        certificate: bytes | None = None,
    ) -> StationUser | None:
        """Return the user, or None to refuse. `certificate` is the one the secure channel was opened with, as DER."""
        if not self._channel_allowed(certificate):
            return None
        if username is None:
            return StationUser(UserRole.User, writes=True) if self._anonymous else None
        account = self._accounts.get(username)
        if account is None or not self._password_fits(username, account, password or ""):
            return None
        return StationUser(UserRole.User, username, writes=account.role is not Role.OPERATOR)

    def _channel_allowed(self, certificate: bytes | None) -> bool:
        # asyncua opens an unsecured channel whatever the policies, and shows its certificate validator only the
        # certificate that CreateSession names, which need not be the one behind the channel. Hence both again here.
        if not certificate:
            return self._plain
        if self._trusted is None:
            return True
        try:
            return self._trusted.covers(x509.load_der_x509_certificate(certificate))
        except ValueError:
            return False

    def _password_fits(self, name: str, account: Account, password: str) -> bool:
        # argon2 takes about 0.1 s on the event loop: only the first login of a PLC may cost a part its deadline.
        digest = hashlib.blake2b(password.encode(), key=self._key).digest()
        if hmac.compare_digest(self._verified.get(name, b""), digest):
            return True
        try:
            self._hasher.verify(account.password_hash, password)
        except (VerificationError, InvalidHashError):
            return False
        self._verified[name] = digest
        return True


class StationInternalServer(InternalServer):
    """asyncua's server core with session tokens that cannot be guessed.

    asyncua counts them, and a channel that names a living session's token is attached to it before the password is
    looked at.
    """

    def create_session(
        self,
        name: str,
        user: User = User(role=UserRole.Anonymous),  # noqa: B008 - asyncua's signature
        external: bool = False,
    ) -> InternalSession:
        """Return a new session."""
        session = super().create_session(name, user, external)
        if external:
            self.unregister_external_session(session)
            session.auth_token = ua.NodeId(ua.ByteString(secrets.token_bytes(32)))
            self.register_external_session(session)
        return session


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
        accounts = read_users(settings.users_file) if settings.users_file else {}
        if not accounts and not settings.anonymous:
            raise UsageError("opcua.server: nobody could log in: anonymous = false needs a users_file with users")
        trusted = TrustedCertificates.load(settings.trusted_certs) if settings.trusted_certs else None
        plain = PLAIN in settings.security
        users = StationUsers(accounts, anonymous=settings.anonymous, plain=plain, trusted=trusted)
        tokens: list[type] = [ua.AnonymousIdentityToken] if settings.anonymous else []
        tokens += [ua.UserNameIdentityToken] if accounts else []
        certificate, private_key = (None, None) if set(settings.security) == {PLAIN} else _own_pair(settings, pki)
        return cls(policies, users, tokens, trusted, certificate, private_key)

    async def validate_client(self, certificate: x509.Certificate, application: ua.ApplicationDescription) -> None:
        """Refuse a client's certificate with the status that says why. Raises ServiceError."""
        options = CertificateValidatorOptions.BASIC_VALIDATION | CertificateValidatorOptions.PEER_CLIENT
        await CertificateValidator(options).validate(certificate, application)
        if self.trusted is not None and not self.trusted.covers(certificate):
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)


def _own_pair(settings: OpcUaServerSettings, pki: Path) -> tuple[Path, Path]:
    if (settings.cert_file is None) != (settings.key_file is None):
        raise UsageError("opcua.server: cert_file and key_file belong together")
    if settings.cert_file is not None and settings.key_file is not None:
        for path in (settings.cert_file, settings.key_file):
            if not path.is_file():
                raise UsageError(f"opcua.server: no such file: {path}")
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


def read_certificate(path: Path, key: str) -> x509.Certificate:
    """Read a DER or PEM file. Raises UsageError, named after the setting `key`, where it cannot be used."""
    try:
        content = path.read_bytes()
        pem = content.lstrip().startswith(b"-----BEGIN")
        return x509.load_pem_x509_certificate(content) if pem else x509.load_der_x509_certificate(content)
    except (OSError, ValueError) as exc:
        raise UsageError(f"{key}: cannot use {path}: {exc}") from exc


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
