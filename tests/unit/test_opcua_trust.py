"""Whose certificate is believed: listed ones, issued ones, not revoked ones, not expired ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
from asyncua import ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from adapters.opcua.client.access import PlcAccess
from adapters.opcua.client.diagnosis import PlcUnusable
from adapters.opcua.client.secure import secure
from adapters.opcua.trust import REJECTED, TrustedCertificates
from adapters.pki import PlantAuthority
from service.errors import UsageError

Codes = ua.StatusCodes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities with certificates: plant/plc.pem, plant/old.pem (expired), other/plc.pem."""
    folder = tmp_path_factory.mktemp("made")
    plant = PlantAuthority.create(folder / "plant", name="plant", days=50)
    plant.issue("plc", hosts=[], uri="urn:plc", days=5)
    plant.issue("old", hosts=[], uri="urn:old", days=-1)
    other = PlantAuthority.create(folder / "other", name="plant", days=50)  # the same name, another key
    other.issue("plc", hosts=[], uri="urn:plc", days=5)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trusted").mkdir()
    return tmp_path / "trusted"


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_certificates_are_trusted_by_themselves_or_by_their_issuer(made: Path, folder: Path) -> None:
    """And not by an issuer that merely bears the same name."""
    empty = TrustedCertificates.load(folder)
    assert empty.objection(read(made / "plant" / "plc.pem")) == Codes.BadCertificateUntrusted
    shutil.copy(made / "plant" / "ca.pem", folder)
    trusted = TrustedCertificates.load(folder)
    assert trusted.objection(read(made / "plant" / "plc.pem")) is None
    assert trusted.objection(read(made / "plant" / "old.pem")) == Codes.BadCertificateTimeInvalid
    assert trusted.objection(read(made / "other" / "plc.pem")) == Codes.BadCertificateUntrusted
    shutil.copy(made / "other" / "plc.pem", folder)
    assert TrustedCertificates.load(folder).objection(read(made / "other" / "plc.pem")) is None


def test_authority_that_has_expired_vouches_for_nobody(folder: Path, tmp_path: Path) -> None:
    """However long its certificates claim to live."""
    authority = PlantAuthority.create(tmp_path / "gone", name="gone", days=-1)
    path = authority.issue("plc", hosts=[], uri="urn:plc", days=5)
    shutil.copy(tmp_path / "gone" / "ca.pem", folder)
    assert TrustedCertificates.load(folder).objection(read(path)) == Codes.BadCertificateUntrusted


@pytest.mark.parametrize("ending", ["crl.pem", "list.crl"])
def test_revoked_certificate_is_refused(made: Path, folder: Path, tmp_path: Path, ending: str) -> None:
    """Also one that lies in the folder itself; a list by somebody else counts for nothing."""
    authority = PlantAuthority.create(tmp_path / "pki", name="plant", days=50)
    path = authority.issue("plc", hosts=[], uri="urn:plc", days=5)
    certificate = read(path)
    shutil.copy(tmp_path / "pki" / "ca.pem", folder)
    shutil.copy(path, folder)
    shutil.copy(authority.revoke("plc"), folder / ending)
    assert TrustedCertificates.load(folder).objection(certificate) == Codes.BadCertificateRevoked
    # the same authority's name on a list that another key has signed
    shutil.copy(made / "other" / "crl.pem", folder / ending)
    assert TrustedCertificates.load(folder).objection(certificate) is None


def test_folder_is_read_again_when_it_changes(made: Path, folder: Path) -> None:
    """Without a restart; what cannot be read leaves all as it was."""
    trusted = TrustedCertificates.load(folder)
    certificate = read(made / "plant" / "plc.pem")
    shutil.copy(made / "plant" / "plc.pem", folder)
    trusted.refresh()
    assert trusted.covers(certificate)
    (folder / "rubbish.der").write_bytes(b"rubbish")
    (folder / "plc.pem").unlink()
    trusted.refresh()
    assert trusted.covers(certificate)
    (folder / "rubbish.der").unlink()
    trusted.refresh()
    assert not trusted.covers(certificate)


def test_rejected_certificates_are_kept_in_a_bounded_place(made: Path, folder: Path) -> None:
    """Under a name that no certificate chooses; they are not trusted there."""
    trusted = TrustedCertificates.load(folder)
    certificate = read(made / "plant" / "plc.pem")
    for _ in range(3):
        trusted.keep_rejected(certificate)
    (kept,) = (folder / REJECTED).iterdir()
    assert kept.name.startswith("plc-")
    trusted.refresh()
    assert not trusted.covers(certificate)
    for number in range(60):
        (folder / REJECTED / f"{number}.der").touch()
    trusted.keep_rejected(read(made / "other" / "plc.pem"))
    assert len(list((folder / REJECTED).iterdir())) == 61


def test_rejected_certificate_cannot_choose_where_it_is_kept(folder: Path, tmp_path: Path) -> None:
    """A common name is a stranger's text."""
    authority = PlantAuthority.create(tmp_path / "pki", name="../../../tmp/evil\n", days=5)
    TrustedCertificates.load(folder).keep_rejected(authority.certificate)
    (kept,) = (folder / REJECTED).iterdir()
    assert kept.name.startswith("tmp-evil-")


@pytest.mark.parametrize(
    ("name", "content"), [("a.der", b"rubbish"), ("a.pem", b"-----BEGIN X509 CRL-----\nx"), ("a.crl", b"")]
)
def test_unusable_file_is_named_at_start(folder: Path, name: str, content: bytes) -> None:
    """One line with the setting and the path."""
    (folder / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"opcua\.server\.trusted_certs: cannot use .*{name}") as refusal:
        TrustedCertificates.load(folder)
    assert "\n" not in str(refusal.value)


async def test_plc_s_certificate_is_looked_up_anew_at_each_connect(made: Path, folder: Path, tmp_path: Path) -> None:
    """A renewed one is believed without a restart of the service, and a revoked one no longer."""
    authority = PlantAuthority.create(tmp_path / "pki", name="plant", days=50)
    path = authority.issue("plc", hosts=[], uri="urn:plc", days=5)
    own = made / "plant"
    access = PlcAccess(
        endpoint="opc.tcp://127.0.0.1:4840",
        security="Basic256Sha256_Sign",
        application_name="cangate",
        request_timeout_s=1.0,
        connect_timeout_s=1.0,
        policy=SecurityPolicyBasic256Sha256,
        certificate=own / "plc.pem",
        private_key=own / "plc.key",
        trusted=TrustedCertificates.load(folder),
    )
    client = Mock(set_security=AsyncMock())
    client.security_policy.peer_certificate = read(path).public_bytes(Encoding.DER)
    with pytest.raises(PlcUnusable, match="certificate_refused"):
        await secure(client, access)
    shutil.copy(path, folder)
    await secure(client, access)
    shutil.copy(tmp_path / "pki" / "ca.pem", folder)
    shutil.copy(authority.revoke("plc"), folder / "list.crl")
    with pytest.raises(PlcUnusable, match="certificate_refused"):
        await secure(client, access)
