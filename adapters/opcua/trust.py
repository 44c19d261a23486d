"""Whose certificate is believed: a folder of certificates and revocation lists, read again whenever it changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import structlog
from asyncua import ua
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from service.errors import UsageError

log = structlog.get_logger(__name__)

REJECTED: Final = "rejected"
_CERTIFICATES: Final = frozenset({".der", ".pem", ".crt", ".cer"})
_MAX_REJECTED: Final = 50


@dataclass(frozen=True, slots=True)
class _Folder:
    certificates: frozenset[x509.Certificate]
    issuers: Sequence[x509.Certificate]
    revoked: frozenset[tuple[bytes, int]]  # name of the issuer, serial number


class TrustedCertificates:
    """Who holds a certificate of the folder, or one that a CA among them issued and did not revoke, is trusted.

    A revocation list (PEM or DER, `.crl` or any of the certificates' endings) counts where an authority of the folder
    has signed it. What was refused is kept in the sub-folder `rejected`: to trust it, move it up. Both take effect at
    the next connection, without a restart.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key
        self._stamp = self._now()
        self._read = self._read_all()

    @classmethod
    def load(cls, folder: Path, key: str = "opcua.server.trusted_certs") -> TrustedCertificates:
        """Read every certificate and revocation list.

        Raises:
            UsageError: a missing folder or an unusable file, named after the setting `key`.
        """
        if not folder.is_dir():
            raise UsageError(f"{key}: no such folder: {folder}")
        return cls(folder, key)

    def refresh(self) -> None:
        """Read the folder again where it has changed; what cannot be read leaves all as it was, and is logged."""
        stamp = self._now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._read = self._read_all()
        except UsageError as exc:
            log.error("trust_unreadable", error=str(exc), instead="what was trusted before stays")
        else:
            log.info("trust_read", folder=str(self._folder), certificates=len(self._read.certificates))

    def covers(self, certificate: x509.Certificate) -> bool:
        """Tell whether `certificate` is trusted and valid now."""
        return self.objection(certificate) is None

    def holds(self, certificate: x509.Certificate) -> bool:
        """Tell whether `certificate` itself lies in the folder, not only who issued it."""
        return certificate in self._read.certificates

    def objection(self, certificate: x509.Certificate) -> int | None:
        """Return the status code that says why `certificate` is not accepted, None where it is."""
        now, found = datetime.now(UTC), self._read
        if not _valid_at(certificate, now):
            return ua.StatusCodes.BadCertificateTimeInvalid
        if (certificate.issuer.public_bytes(), certificate.serial_number) in found.revoked:
            return ua.StatusCodes.BadCertificateRevoked
        issuers = [issuer for issuer in found.issuers if _valid_at(issuer, now)]
        if certificate in found.certificates or any(_issued_by(certificate, issuer) for issuer in issuers):
            return None
        return ua.StatusCodes.BadCertificateUntrusted

    def keep_rejected(self, certificate: x509.Certificate) -> None:
        """Put `certificate` where an administrator finds it; no more than a few dozen are kept."""
        digest = certificate.fingerprint(hashes.SHA256()).hex()[:16]
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        name = re.sub(r"[^A-Za-z0-9-]+", "-", str(names[0].value))[:40].strip("-") if names else ""
        path = self._folder / REJECTED / f"{name or 'unnamed'}-{digest}.der"
        try:
            path.parent.mkdir(exist_ok=True)
            if path.exists() or len(list(path.parent.iterdir())) >= _MAX_REJECTED:
                return
            path.write_bytes(certificate.public_bytes(Encoding.DER))
        except OSError as exc:
            log.warning("rejected_certificate_not_kept", error=exc.strerror)
        else:
            log.warning("certificate_rejected", kept=str(path), to_trust=f"move it to {self._folder}")

    def _now(self) -> tuple[tuple[str, int], ...]:
        try:
            return tuple(sorted((path.name, path.stat().st_mtime_ns) for path in self._paths()))
        except OSError:
            return ()

    def _paths(self) -> list[Path]:
        return [path for path in sorted(self._folder.iterdir()) if path.suffix.lower() in {*_CERTIFICATES, ".crl"}]

    def _read_all(self) -> _Folder:
        certificates, lists = [], []
        try:
            contents = {path: path.read_bytes() for path in self._paths()}
        except OSError as exc:
            raise UsageError(f"{self._key}: cannot read {self._folder}: {exc.strerror}") from exc
        for path, content in contents.items():
            if path.suffix.lower() == ".crl" or b"-----BEGIN X509 CRL" in content:
                lists.append(_revocation_list(path, content, self._key))
            else:
                certificates.append(_certificate(path, content, self._key))
        issuers = [certificate for certificate in certificates if _is_ca(certificate)]
        revoked = {
            (issuer.subject.public_bytes(), entry.serial_number)
            for issuer in issuers
            for listed in lists
            if listed.issuer == issuer.subject and listed.is_signature_valid(issuer.public_key())  # type: ignore[arg-type] # the keys that sign
            for entry in listed
        }
        return _Folder(frozenset(certificates), issuers, frozenset(revoked))


def read_certificate(path: Path, key: str) -> x509.Certificate:
    """Read a certificate in DER or PEM. Raises UsageError, named after the setting `key`, where there is none."""
    try:
        return _certificate(path, path.read_bytes(), key)
    except OSError as exc:
        raise UsageError(f"{key}: cannot use {path}: {exc}") from exc


def encoding_of(path: Path) -> Literal["pem", "der"]:
    """Return how a certificate or key is written; asyncua goes by the ending, and takes a PEM called .key for DER."""
    return "pem" if _is_pem(path.read_bytes()) else "der"


def _is_pem(content: bytes) -> bool:
    return content.lstrip().startswith(b"-----BEGIN")


def _certificate(path: Path, content: bytes, key: str) -> x509.Certificate:
    try:
        pem = _is_pem(content)
        return x509.load_pem_x509_certificate(content) if pem else x509.load_der_x509_certificate(content)
    except ValueError as exc:
        raise UsageError(f"{key}: cannot use {path}: {exc}") from exc


def _revocation_list(path: Path, content: bytes, key: str) -> x509.CertificateRevocationList:
    try:
        pem = _is_pem(content)
        return x509.load_pem_x509_crl(content) if pem else x509.load_der_x509_crl(content)
    except ValueError as exc:
        raise UsageError(f"{key}: cannot use the revocation list {path}: {exc}") from exc


def _valid_at(certificate: x509.Certificate, moment: datetime) -> bool:
    return certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc


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
