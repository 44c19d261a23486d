"""A plant's own authority: what it issues holds, what it revokes does not, and its keys are nobody else's."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.pki import PlantAuthority, alternative_names
from service.errors import UsageError


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    authority = PlantAuthority.create(folder, name="plant CA", days=100)
    authority.issue("broker", hosts=["broker.plant", "10.0.7.5", "::1"], uri="urn:cangate:broker", days=10)
    return folder


def test_issued_certificate_fits_tls_and_opcua(pki: Path) -> None:
    """Names, application URI and usages of OPC 10000-6, 6.2.2; signed by the authority."""
    certificate = x509.load_pem_x509_certificate((pki / "broker.pem").read_bytes())
    certificate.verify_directly_issued_by(PlantAuthority.load(pki).certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.plant"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.7.5", "::1"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:cangate:broker"]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.content_commitment
    assert usage.key_encipherment
    assert usage.data_encipherment
    assert not usage.key_cert_sign
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_keys_are_for_their_owner_only(pki: Path) -> None:
    """Whatever the umask says."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in pki.glob("*.key")}
    assert modes == {"ca.key": 0o600, "broker.key": 0o600}


def test_revoked_certificate_is_on_the_list_and_its_name_is_free(tmp_path: Path) -> None:
    """Two revocations: the list keeps the first; the name can be issued again."""
    authority = PlantAuthority.create(tmp_path, name="plant CA", days=100)
    serials = []
    for _ in range(2):
        path = authority.issue("camera", hosts=[], uri="urn:cangate:camera", days=10)
        serials.append(x509.load_pem_x509_certificate(path.read_bytes()).serial_number)
        authority.revoke("camera")
        assert not (tmp_path / "camera.key").exists()
    crl = x509.load_pem_x509_crl((tmp_path / "crl.pem").read_bytes())
    assert sorted(serials) == sorted(entry.serial_number for entry in crl)
    assert crl.is_signature_valid(authority.certificate.public_key())  # type: ignore[arg-type] # an RSA key
    assert crl.next_update_utc == authority.certificate.not_valid_after_utc
    assert {issued.name.partition("-")[0]: issued.revoked for issued in authority.issued()[0]} == {
        "ca": False,
        "camera": True,
    }


@pytest.mark.parametrize(
    ("attempt", "named"),
    [
        (lambda pki: PlantAuthority.create(pki, name="again", days=1), r"ca\.pem is there already"),
        (lambda pki: PlantAuthority.load(pki / "nowhere"), "no certificate authority in .*nowhere"),
        (
            lambda pki: PlantAuthority.load(pki).issue("broker", hosts=[], uri="urn:x", days=1),
            r"broker\.pem is there already",
        ),
        (
            lambda pki: PlantAuthority.load(pki).issue("x", hosts=["bröker"], uri="urn:x", days=1),
            "neither a host name nor an address",
        ),
        (lambda pki: PlantAuthority.load(pki).revoke("nobody"), r"no such certificate: .*nobody\.pem"),
    ],
)
def test_authority_names_what_it_cannot_do(pki: Path, attempt: Callable[[Path], object], named: str) -> None:
    """One line each."""
    with pytest.raises(UsageError, match=named) as refusal:
        attempt(pki)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["ca", "crl", "../outside", "", "a b", "x" * 65])
def test_only_an_application_is_issued_or_revoked(tmp_path: Path, name: str) -> None:
    """Not the authority itself, whose key could not be had again, nor a file outside its folder."""
    authority = PlantAuthority.create(tmp_path / "pki", name="plant CA", days=100)
    PlantAuthority.create(tmp_path / "outside", name="another", days=100)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="certificate name"):
        authority.revoke(name)
    with pytest.raises(UsageError, match="certificate name"):
        authority.issue(name, hosts=[], uri="urn:x", days=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_file_that_is_no_certificate_does_not_hide_the_others(tmp_path: Path) -> None:
    """It is named."""
    authority = PlantAuthority.create(tmp_path, name="plant CA", days=100)
    (tmp_path / "junk.pem").write_text("no certificate")
    found, unreadable = authority.issued()
    assert [issued.name for issued in found] == ["ca"]
    assert unreadable == [f"{tmp_path / 'junk.pem'} is no certificate"]


@pytest.mark.parametrize("host", ["bad host", "", "-x", "a..b", "x" * 64, "http://broker", "a,b"])
def test_host_that_nobody_can_have_is_refused(pki: Path, host: str) -> None:
    """A certificate for it would fit nothing."""
    with pytest.raises(UsageError, match="neither a host name nor an address"):
        PlantAuthority.load(pki).issue("x", hosts=[host], uri="urn:x", days=1)


@pytest.mark.parametrize("host", ["broker.plant", "10.0.7.5", "fe80::1", "*.plant", "cam_1", "broker."])
def test_host_that_there_may_be_is_taken(host: str) -> None:
    """Names, addresses, wildcards."""
    assert len(list(alternative_names([host], "urn:x"))) == 2
