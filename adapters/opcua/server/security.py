"""What the station's OPC UA server asks of a channel: policies and certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.accounts import PasswordBook
from adapters.opcua.own_certificate import make_pair
from adapters.opcua.policies import PLAIN, POLICIES
from adapters.opcua.server.users import StationUsers
from adapters.opcua.trust import TrustedCertificates
from adapters.secret_files import warn_where_others_read
from schemas.settings import OpcUaServerSettings
from service.errors import UsageError

log = structlog.get_logger(__name__)

_FOR_CLIENTS: Final = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


def security_policies(names: Iterable[str]) -> list[ua.SecurityPolicyType]:
    """Return asyncua's policies for the names in `opcua.server.security`. Raises UsageError for an unknown one."""
    unknown = [name for name in names if name not in POLICIES]
    if unknown:
        raise UsageError(f"opcua.server.security: unknown policy {unknown[0]!r}; known are {', '.join(POLICIES)}")
    policies = [POLICIES[name] for name in dict.fromkeys(names)]
    if not policies:
        raise UsageError("opcua.server.security names no policy")
    return policies


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
        # whoever put this very certificate into the folder meant it, whatever it says
        if not (_is_for_clients(certificate) or self.trusted.holds(certificate)):
            log.warning(
                "certificate_not_for_clients",
                subject=certificate.subject.rfc4514_string(),
                remedy="issue it for client authentication, too, or put it itself into opcua.server.trusted_certs",
            )
            raise ServiceError(ua.StatusCodes.BadCertificateUseNotAllowed)


def _is_for_clients(certificate: x509.Certificate) -> bool:
    """Tell whether a certificate may be a client's; one that says nothing of its purpose may be anybody's.

    asyncua would want one that says so, and every key usage of OPC 10000-6, 6.2.2: older clients' have not.
    """
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return any(purpose in purposes for purpose in _FOR_CLIENTS)


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
