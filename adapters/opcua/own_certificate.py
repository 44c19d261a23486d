"""A certificate of our own, where the integrator brings none."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Final

from asyncua.crypto import cert_gen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.secret_files import write_private
from schemas.tags import NAMESPACE_URI

PKI: Final = Path("data/pki")
"""Where our certificates are kept, unless told otherwise."""

_CERTIFICATE_DAYS = 3650  # nobody renews a certificate on a line by himself; the integrator brings his own


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
    write_private(private_key, cert_gen.dump_private_key_as_pem(key))
    certificate.write_bytes(made.public_bytes(Encoding.DER))
