"""Who a client is at a server, and how the two are sure of each other."""

from __future__ import annotations

import asyncio

from asyncua import Client, ua
from asyncua.crypto.uacrypto import CertProperties
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from cryptography import x509

from adapters.opcua.client.access import PlcAccess
from adapters.opcua.client.diagnosis import Diagnosis, PlcFault, PlcUnusable
from adapters.opcua.trust import encoding_of


async def secure(client: Client, access: PlcAccess) -> None:
    """Give `client` its user and, where a policy is named, its certificate; the server is asked for what it offers.

    Raises:
        PlcUnusable: the server does not offer the policy, or its certificate is not trusted.
        OSError, TimeoutError, ua.UaError, ValueError: it does not answer, or a certificate cannot be used.
    """
    if access.username:
        client.set_user(access.username)
        client.set_password(access.password or "")
    if access.policy is None:
        return
    assert access.certificate is not None
    assert access.private_key is not None
    try:
        certificate, key = (
            CertProperties(path, encoding_of(path)) for path in (access.certificate, access.private_key)
        )
        await client.set_security(access.policy, certificate, key, mode=access.mode)
    except ua.UaStatusCodeError:
        raise
    except ua.UaError as exc:  # it found no endpoint that fits
        raise PlcUnusable(Diagnosis(PlcFault.SECURITY_REFUSED, f"the server does not offer {access.security}")) from exc
    if access.trusted is not None:
        await asyncio.to_thread(access.trusted.refresh)  # renewed or revoked since
        offered = client.security_policy.peer_certificate
        if offered is None or not access.trusted.covers(x509.load_der_x509_certificate(offered)):
            raise PlcUnusable(
                Diagnosis(PlcFault.CERTIFICATE_REFUSED, "the server's certificate is not in trusted_certs")
            )
        options = CertificateValidatorOptions.BASIC_VALIDATION | CertificateValidatorOptions.PEER_SERVER
        client.certificate_validator = CertificateValidator(options)
