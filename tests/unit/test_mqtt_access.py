"""From settings to the way to the broker; what cannot be used is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from adapters.mqtt.access import BrokerAccess, read_access
from adapters.pki import PlantAuthority
from schemas.settings import MqttSettings
from service.errors import UsageError


def _access(**settings: Any) -> BrokerAccess:
    return read_access(MqttSettings.model_validate(settings), station="line1")


def test_defaults_give_a_stable_identity_and_a_kept_session() -> None:
    """The broker knows the station again after a restart, and keeps for it what it has not acknowledged."""
    access = _access()
    assert (access.client_id, access.session_expiry_s, access.protocol) == ("cangate-line1", 3600, "5")
    assert (access.username, access.password, access.tls) == (None, None, None)


def test_share_group_shortens_the_session_and_tells_the_workers_apart() -> None:
    """A dead worker must not be given a share of the events for long."""
    access = _access(share_group="inspectors")
    assert access.session_expiry_s == 5
    assert access.client_id.startswith("cangate-line1-")
    assert _access(share_group="inspectors").client_id == access.client_id
    shared = MqttSettings(share_group="inspectors")
    assert len({read_access(shared, station="line1", worker=worker).client_id for worker in ("a", "b", "a")}) == 2
    assert read_access(MqttSettings(), station="line1", worker="a").client_id == _access().client_id
    assert _access(share_group="inspectors", client_id="worker-2").client_id == "worker-2"
    assert _access(share_group="inspectors", protocol="3.1.1").session_expiry_s == 0


def test_password_comes_from_its_file_and_is_never_shown(tmp_path: Path) -> None:
    """The line end that editors add is no part of it."""
    secret = tmp_path / "password"
    secret.write_text("s3cret \n")
    access = _access(username="cangate", password_file=secret)
    assert access.password == "s3cret "
    assert "s3cret" not in repr(access)
    assert _access(username="cangate", password="given", password_file=secret).password == "given"


@pytest.mark.parametrize("key", ["password_file", "ca_file", "cert_file"])
def test_missing_file_is_named(key: str, tmp_path: Path) -> None:
    """One line, with the key and the path."""
    missing = tmp_path / "missing"
    with pytest.raises(UsageError, match=f"mqtt.{key} {missing}: No such file or directory"):
        _access(username="cangate", tls=True, **{key: missing})


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
def test_missing_file_is_named_though_it_is_not_used(key: str, tmp_path: Path) -> None:
    """Without TLS no certificate is needed; a name that leads nowhere is a mistake all the same."""
    missing = tmp_path / "missing"
    with pytest.raises(UsageError, match=f"mqtt.{key} {missing}: No such file or directory"):
        _access(tls=False, **{key: missing})


@pytest.mark.parametrize("host", ["", "a b", "a\0"])
def test_host_that_can_be_none_is_refused(host: str) -> None:
    """Where a broker is wanted: what a container leaves empty must not hinder a station without one."""
    with pytest.raises(UsageError, match=r"^mqtt\.host .* is no name or address of a broker$"):
        _access(host=host)


@pytest.mark.parametrize("key", ["password_file", "ca_file", "cert_file", "key_file"])
def test_pipe_is_no_file(key: str, tmp_path: Path) -> None:
    """To read one would wait until somebody writes to it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match=f"^mqtt.{key} {pipe}: is no file$"):
        _access(username="cangate", **{key: pipe})


def test_certificate_without_its_key_is_told(tmp_path: Path) -> None:
    """OpenSSL's own word for it is "PEM lib"."""
    PlantAuthority.create(tmp_path, name="plant", days=10).issue("ours", hosts=["127.0.0.1"], uri="urn:cangate", days=5)
    certificate = tmp_path / "ours.pem"
    with pytest.raises(UsageError, match=f"^mqtt.cert_file {certificate}: no certificate, or no key that needs no"):
        _access(tls=True, ca_file=tmp_path / "ca.pem", cert_file=certificate)


@pytest.mark.parametrize(("expiry_s", "group", "keeps"), [(3600, "", True), (30, "", False), (3600, "workers", False)])
def test_session_that_may_end_before_the_service_is_back_is_known(*, expiry_s: int, group: str, keeps: bool) -> None:
    """What is not acknowledged there when the service stops comes again to nobody."""
    assert _access(session_expiry_s=expiry_s, share_group=group).outlives_a_restart is keeps


def test_what_is_unwise_is_said_when_the_access_is_used(tmp_path: Path) -> None:
    """Reading it says nothing: where a start fails its one line stands alone."""
    secret, key = tmp_path / "password", tmp_path / "client.key"
    for path in (secret, key):
        path.write_text("s3cret")
        path.chmod(0o644)
    with capture_logs() as logged:
        access = _access(host="broker.plant", username="cangate", password_file=secret, key_file=key)
    assert logged == []
    with capture_logs() as logged:
        for warn in access.warnings:
            warn()
    assert [(line["event"], line.get("setting")) for line in logged] == [
        ("secret_open_to_others", "mqtt.password_file"),
        ("secret_open_to_others", "mqtt.key_file"),
        ("mqtt_certificates_unused", None),
        ("mqtt_password_in_the_clear", None),
    ]


def test_nothing_is_unwise_about_the_defaults(tmp_path: Path) -> None:
    """On this machine, and with a file that is its owner's alone, there is nothing to say."""
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    with capture_logs() as logged:
        for warn in (*_access().warnings, *_access(username="cangate", password_file=secret).warnings):
            warn()
    assert logged == []


def test_broker_that_lets_anybody_in_is_warned_of() -> None:
    """A broker beyond this machine, and nothing to tell it who we are."""
    with capture_logs() as logged:
        for warn in _access(host="broker.plant").warnings:
            warn()
    assert [line["event"] for line in logged] == ["mqtt_without_login"]


@pytest.mark.parametrize("key", ["ca_file", "cert_file"])
def test_file_that_is_no_certificate_is_named(key: str, tmp_path: Path) -> None:
    """OpenSSL's complaint alone would not tell which file it means."""
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    with pytest.raises(UsageError, match=f"mqtt.{key} {rubbish}: ") as refusal:
        _access(tls=True, **{key: rubbish})
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"password": "x"}, "mqtt.username is empty"),
        ({"tls": True, "key_file": "client.key"}, "mqtt.cert_file is not"),
    ],
)
def test_half_a_setting_is_refused(settings: dict[str, object], complaint: str) -> None:
    """A password without a user and a key without a certificate would be ignored in silence."""
    with pytest.raises(UsageError, match=complaint):
        _access(**settings)
