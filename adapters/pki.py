"""A plant's own certificate authority in a folder: enough to start from, plain enough to be replaced.

`ca.pem` signs, `ca.key` stays on one machine, `crl.pem` names what was revoked; `NAME.pem` and `NAME.key` belong to one
application each. The certificates serve MQTT over TLS and OPC UA alike (OPC 10000-6, 6.2.2).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from adapters.secret_files import write_private
from service.errors import UsageError
from service.files import unwritable

_KEY_BITS = 2048  # what every OPC UA policy takes
_NAME = re.compile(r"(?!(ca|crl)\Z)[A-Za-z0-9_.-]{1,64}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?")
_SKEW = timedelta(days=1)
"""A certificate is valid from a day ago: the clocks of PLCs are wrong."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate of the folder, as `cangate certs list` shows it."""

    name: str
    certificate: x509.Certificate
    revoked: bool


class PlantAuthority:
    """The authority in `folder`. Make one with `create`, open one with `load`."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> None:
        self.folder = folder
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, folder: Path, *, name: str, days: int) -> Self:
        """Make an authority and its empty revocation list. Raises UsageError where there is one already."""
        if (folder / "ca.pem").exists():
            raise UsageError(f"{folder / 'ca.pem'} is there already: what it issued would no longer be trusted")
        key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = _key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True)
        certificate = (
            _builder(subject, subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        authority = cls(folder, certificate, key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_private(folder / "ca.key", _pem(key))
            (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
            authority._write_revoked(())
        except OSError as exc:
            raise unwritable(folder, exc) from exc
        return authority

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open the authority in `folder`. Raises UsageError where there is none that can be used."""
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        except OSError as exc:
            raise UsageError(f"no certificate authority in {folder}: {exc.strerror}: {exc.filename}") from exc
        except (ValueError, TypeError) as exc:
            raise UsageError(f"the certificate authority in {folder} cannot be used: {exc}") from exc
        if not isinstance(key, rsa.RSAPrivateKey):
            raise UsageError(f"{folder / 'ca.key'} is no RSA key")
        return cls(folder, certificate, key)

    def issue(self, name: str, *, hosts: Sequence[str], uri: str, days: int) -> Path:
        """Issue `NAME.pem` with `NAME.key` and return the former.

        Args:
            name: of the application; its common name, too.
            hosts: names and addresses under which it is reached; TLS checks them.
            uri: its application URI; OPC UA checks it.
            days: how long it is valid.

        Raises:
            UsageError: the name cannot be one or is taken, or the files cannot be written.
        """
        path = self._certificate(name)
        if path.exists():
            raise UsageError(f"{path} is there already: revoke it first, or choose another name")
        key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = _key_usage(
            digital_signature=True, content_commitment=True, key_encipherment=True, data_encipherment=True
        )
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _builder(subject, self.certificate.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(purposes, critical=False)
            .add_extension(alternative_names(hosts, uri), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        try:
            write_private(self.folder / f"{name}.key", _pem(key))
            path.write_bytes(certificate.public_bytes(Encoding.PEM))
        except OSError as exc:
            raise unwritable(path, exc) from exc
        return path

    def revoke(self, name: str) -> Path:
        """Put `NAME.pem` on the revocation list, out of the way of a new one; return the list. Raises UsageError."""
        path = self._certificate(name)
        if not path.exists():
            raise UsageError(f"no such certificate: {path}")
        serial = _read(path).serial_number
        known = [(entry.serial_number, entry.revocation_date_utc) for entry in self._revoked()]
        revoked_list = self._write_revoked([*known, (serial, datetime.now(UTC))])
        path.rename(self.folder / f"{name}-revoked-{serial:x}.pem")
        (self.folder / f"{name}.key").unlink(missing_ok=True)
        return revoked_list

    def issued(self) -> tuple[list[Issued], list[str]]:
        """Return every certificate of the folder, and what is wrong with the files that are none."""
        revoked = {entry.serial_number for entry in self._revoked()}
        found: list[Issued] = []
        unreadable: list[str] = []
        for path in sorted(self.folder.glob("*.pem")):
            if path.stem != "crl":
                try:
                    certificate = _read(path)
                    found.append(Issued(path.stem, certificate, certificate.serial_number in revoked))
                except UsageError as exc:
                    unreadable.append(str(exc))
        return found, unreadable

    def _certificate(self, name: str) -> Path:
        """Return where the certificate of an application lies: never the authority's own, nor outside its folder."""
        if not _NAME.fullmatch(name):
            raise UsageError(f"certificate name {name!r} must be 1 to 64 letters, digits or _.-, and not ca or crl")
        return self.folder / f"{name}.pem"

    def _revoked(self) -> Sequence[x509.RevokedCertificate]:
        path = self.folder / "crl.pem"
        try:
            return list(x509.load_pem_x509_crl(path.read_bytes()))
        except (OSError, ValueError) as exc:
            raise UsageError(f"the revocation list {path} cannot be read: {exc}") from exc

    def _write_revoked(self, entries: Sequence[tuple[int, datetime]]) -> Path:
        path = self.folder / "crl.pem"
        # it runs out with the authority, not before: that would shut the whole plant out
        until = self.certificate.not_valid_after_utc
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(min(datetime.now(UTC), until) - _SKEW)
            .next_update(until)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.CRLNumber(len(entries)), critical=False)
        )
        for serial, at in entries:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            )
        new = path.with_suffix(".new")
        new.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        new.replace(path)
        return path


def alternative_names(hosts: Sequence[str], uri: str) -> x509.SubjectAlternativeName:
    """Return the names that a peer compares with what it meant to reach. Raises UsageError for one that cannot be."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError as exc:
            if not _HOST.fullmatch(host):
                raise UsageError(f"{host!r} is neither a host name nor an address") from exc
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(
    *,
    digital_signature: bool = False,
    content_commitment: bool = False,
    key_encipherment: bool = False,
    data_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content_commitment,
        key_encipherment=key_encipherment,
        data_encipherment=data_encipherment,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise UsageError(f"{path} is no certificate") from exc
