"""`cangate config`, and `cangate certs`: what the two write for a plant."""

from __future__ import annotations

from pathlib import Path

import argon2
import pytest

from tests.support.cli import CommandLine

ROOT = Path(__file__).parents[2]
GUESS = "guess-Tr0ub4dor"


@pytest.fixture(autouse=True)
def _in_a_plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that has what the defaults name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "frames").mkdir(parents=True)


def test_config_show_masks_secrets(cangate: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The effective configuration is TOML again, without the password."""
    monkeypatch.setenv("CANGATE_MQTT__USERNAME", "cangate")
    monkeypatch.setenv("CANGATE_MQTT__PASSWORD", GUESS)
    shown = cangate("config", "show", "-c", ROOT / "config.toml")
    assert (shown.status, GUESS in shown.stdout + shown.stderr) == (0, False)
    Path("shown.toml").write_text(shown.stdout)
    monkeypatch.delenv("CANGATE_MQTT__PASSWORD")
    monkeypatch.delenv("CANGATE_MQTT__USERNAME")
    assert cangate("config", "check", "-c", "shown.toml").status == 0


def test_config_show_masks_the_password_of_a_database(cangate: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the URL stays to be read."""
    monkeypatch.setenv("CANGATE_JOURNAL__URL", f"postgresql://u:{GUESS}@db:5432/x")
    shown = cangate("config", "show")
    assert (shown.status, 'url = "postgresql://u:**********@db:5432/x"' in shown.stdout) == (0, True)


@pytest.mark.parametrize("command", ["show", "check"])
@pytest.mark.parametrize("section", ["client", "replay"])
def test_endpoint_with_a_password_is_shown_nowhere(cangate: CommandLine, command: str, section: str) -> None:
    """Looking at the settings refuses it as running with them does: one line with the key, not the secret."""
    Path("config.toml").write_text(f'[opcua.{section}]\nendpoint = "opc.tcp://u:{GUESS}@plc:4840"\n')
    refused = cangate("config", command, "-c", "config.toml")
    assert f"opcua.{section}.endpoint: " in refused.one_line_error()
    assert (refused.stdout, GUESS in refused.stderr) == ("", False)


def test_config_add_user_writes_a_hash(cangate: CommandLine) -> None:
    """One line `name:role:argon2-hash`; the same name again is replaced and keeps its role."""
    users = Path("users")
    for password in ("first", "second"):
        assert cangate("config", "add-user", users, "plc1", "--role", "plc", "--password", password).status == 0
    (line,) = users.read_text().splitlines()
    name, role, hashed = line.split(":")
    assert (name, role) == ("plc1", "plc")
    assert argon2.PasswordHasher().verify(hashed, "second")
    Path("password").write_text("third\n")
    assert cangate("config", "add-user", users, "plc1", "--password-file", "password").status == 0
    (line,) = users.read_text().splitlines()
    name, role, hashed = line.split(":")
    assert argon2.PasswordHasher().verify(hashed, "third")
    assert (role, users.stat().st_mode & 0o777) == ("plc", 0o600)


def test_certs_are_made_listed_and_revoked(cangate: CommandLine) -> None:
    """An authority, two certificates, one of them revoked; what cannot be done is one line and exit status 2."""
    assert cangate("certs", "init", "pki").status == 0
    issued = cangate("certs", "issue", "pki", "broker", "cangate", "--host", "broker.plant")
    assert issued.stdout.split() == ["pki/broker.pem", "pki/cangate.pem"]
    assert cangate("certs", "revoke", "pki", "broker").status == 0
    listed = cangate("certs", "list", "pki").stdout.splitlines()
    assert [line.split()[-1] for line in listed if line.split()[0].startswith(("broker", "cangate"))] == [
        "revoked",
        "valid",
    ]
    for arguments in (["init", "pki"], ["issue", "pki", "cangate"], ["issue", "pki", "a/b"], ["list", "nowhere"]):
        assert cangate("certs", *arguments).one_line_error().startswith("cangate: ")
