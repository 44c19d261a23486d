"""From settings to everything that is needed to reach a PLC; reads the files that the settings name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
from asyncua import ua
from asyncua.crypto import security_policies
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.opcua.own_certificate import make_pair
from adapters.opcua.policies import PLAIN, POLICIES
from adapters.opcua.trust import TrustedCertificates, read_certificate
from adapters.secret_files import read_password, warn_where_others_read
from schemas.settings import OpcUaLogin
from service.errors import UsageError

log = structlog.get_logger(__name__)

APPLICATION_URI: Final = "urn:cangate:client"


@dataclass(frozen=True, slots=True)
class PlcAccess:
    """How to reach a PLC's server and who to be there.

    policy: None for an unsecured channel; else certificate and private_key are there. trusted: None trusts any server.
    """

    endpoint: str
    security: str
    application_name: str
    request_timeout_s: float
    connect_timeout_s: float
    policy: type[security_policies.SecurityPolicy] | None = None
    mode: ua.MessageSecurityMode = ua.MessageSecurityMode.None_
    application_uri: str = APPLICATION_URI
    certificate: Path | None = None
    private_key: Path | None = None
    trusted: TrustedCertificates | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.endpoint


def read_access(
    login: OpcUaLogin,
    endpoint: str,
    *,
    station: str,
    pki: Path,
    section: str = "opcua.client",
    request_timeout_s: float = 1.0,
    connect_timeout_s: float = 5.0,
) -> PlcAccess:
    """Return how to reach a server; where a certificate is needed and none is named, make one in `pki`.

    Args:
        login: who to be there.
        endpoint: where it is.
        station: id of the station.
        pki: where a certificate of our own is kept if none is named.
        section: of the settings that `login` is from, to name what is wrong.
        request_timeout_s: longest wait for an answer to a read or write.
        connect_timeout_s: longest wait for each step of connecting.

    Raises:
        UsageError: a setting or a file cannot be used; it is named.
    """
    _check_endpoint(endpoint, section)
    password = _password(login, section)
    if password is not None and not login.username:
        raise UsageError(f"{section}.password is set but {section}.username is empty")
    if login.security not in POLICIES:
        known = ", ".join(POLICIES)
        raise UsageError(f"{section}.security: unknown policy {login.security!r}; known are {known}")
    trusted = TrustedCertificates.load(login.trusted_certs, f"{section}.trusted_certs") if login.trusted_certs else None
    access = PlcAccess(
        endpoint=endpoint,
        security=login.security,
        application_name=f"cangate {station}",
        request_timeout_s=request_timeout_s,
        connect_timeout_s=connect_timeout_s,
        trusted=trusted,
        username=login.username or None,
        password=password,
    )
    return access if login.security == PLAIN else _secured(access, login, pki, section)


def _secured(access: PlcAccess, login: OpcUaLogin, pki: Path, section: str) -> PlcAccess:
    if access.trusted is None:
        log.warning("plc_not_authenticated", reason=f"{section}.trusted_certs is not set: any server is believed")
    certificate, private_key = _own_pair(login, pki, section)
    own = read_certificate(certificate, f"{section}.cert_file")
    _check_key(private_key, own, section)
    policy, mode = login.security.split("_")
    return replace(
        access,
        policy=getattr(security_policies, f"SecurityPolicy{policy}"),
        mode=ua.MessageSecurityMode[mode],
        application_uri=_application_uri(own),
        certificate=certificate,
        private_key=private_key,
    )


def _check_endpoint(endpoint: str, section: str) -> None:
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme == "opc.tcp" and bool(parts.hostname) and parts.port is not None
    except ValueError:
        usable = False
    if not usable or "@" in endpoint:  # a user in the URL would be logged with it
        raise UsageError(f"{section}.endpoint: {endpoint.rpartition('@')[2]!r} is no opc.tcp://host:port")


def _password(login: OpcUaLogin, section: str) -> str | None:
    if login.password is not None:
        return login.password.get_secret_value()
    if login.password_file is None:
        return None
    return read_password(f"{section}.password_file", login.password_file)


def _own_pair(login: OpcUaLogin, pki: Path, section: str) -> tuple[Path, Path]:
    if (login.cert_file is None) != (login.key_file is None):
        raise UsageError(f"{section}: cert_file and key_file belong together")
    if login.cert_file is not None and login.key_file is not None:
        warn_where_others_read(f"{section}.key_file", login.key_file)
        return login.cert_file, login.key_file
    certificate, private_key = pki / "opcua-client.der", pki / "opcua-client-key.pem"
    if not (certificate.is_file() and private_key.is_file()):
        try:
            make_pair(
                certificate,
                private_key,
                host="localhost",
                application_uri=APPLICATION_URI,
                usage=ExtendedKeyUsageOID.CLIENT_AUTH,
            )
        except OSError as exc:
            raise UsageError(f"{section}: cannot write a certificate to {pki}: {exc}") from exc
    return certificate, private_key


def _check_key(path: Path, certificate: x509.Certificate, section: str) -> None:
    try:
        content = path.read_bytes()
        load = load_pem_private_key if content.lstrip().startswith(b"-----BEGIN") else load_der_private_key
        key = load(content, None)
    except (OSError, ValueError, TypeError) as exc:
        raise UsageError(f"{section}.key_file: cannot use {path}: {exc}") from exc
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != certificate.public_key().public_bytes(*spki):
        raise UsageError(f"{section}.key_file: {path} does not belong to the certificate")


def _application_uri(certificate: x509.Certificate) -> str:
    """Return the URI that the certificate names: a server compares it with ours (OPC 10000-4, 6.1.3)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return APPLICATION_URI
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if uris else APPLICATION_URI
