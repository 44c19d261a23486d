"""The command line as a shell sees it: output, one line of complaint, exit status."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import argon2
import pytest

from adapters.hmi.api import build_api
from adapters.telemetry import Metrics
from service.cli.reference import HTTP, render_reference

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def cangate(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def one_line(text: str) -> str:
    """Return the only line of `text`."""
    (line,) = text.splitlines()
    return line


def test_help_lists_every_command(tmp_path: Path) -> None:
    """`--help` names the commands and asks for nothing heavy."""
    done = cangate("--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in ("run", "demo", "train", "inspect", "models", "config", "export"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["explode"],
        ["run", "--bogus"],
        ["config", "check", "-c", "nowhere.toml"],
        ["run", "-c", "nowhere.toml"],
        ["train", "no-such-folder", "--name", "m"],
    ],
    ids=" ".join,
)
def test_unusable_arguments_are_one_line_and_exit_2(tmp_path: Path, arguments: list[str]) -> None:
    """Exactly one clear line on standard error, no traceback."""
    done = cangate(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert one_line(done.stderr).startswith("cangate: ")


def settings(tmp_path: Path, text: str) -> Path:
    (tmp_path / "data" / "frames").mkdir(parents=True, exist_ok=True)
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "named"),
    [("[mqtt]\nprotokoll = '5'\n", "mqtt.protokoll"), ("[images]\nroots = ['nowhere']\n", "nowhere")],
)
def test_run_refuses_what_it_cannot_use_by_name(tmp_path: Path, text: str, named: str) -> None:
    """An unknown key, a root that does not exist: exit status 2 and one line with the name."""
    done = cangate("run", "-c", settings(tmp_path, text), cwd=tmp_path)
    assert (done.returncode, named in one_line(done.stderr)) == (2, True), done.stderr


def test_run_refuses_a_port_in_use_by_name(tmp_path: Path) -> None:
    """A port that somebody else has is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = f"[opcua.server]\nport = {port}\n[http]\nenabled = false\n"
        done = cangate("run", "-c", settings(tmp_path, text), cwd=tmp_path)
    assert (done.returncode, str(port) in one_line(done.stderr)) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[http]\nusers_file = 'nope.txt'\n", "nope.txt"),
        ("[http]\nenabled = false\n[mqtt]\nca_file = 'nope.pem'\n", "nope.pem"),
        ("[http]\nenabled = false\n[mqtt]\nkey_file = 'nope.key'\n", "nope.key"),
    ],
)
def test_run_refuses_a_file_that_it_would_not_need_by_name(tmp_path: Path, text: str, named: str) -> None:
    """What is named and cannot be read is a mistake, whatever else the settings say."""
    text += "[opcua.server]\nenabled = false\n"
    done = cangate("run", "-c", settings(tmp_path, text), cwd=tmp_path)
    assert (done.returncode, named in one_line(done.stderr)) == (2, True), done.stderr


def test_run_says_one_line_although_there_is_more_to_warn_of(tmp_path: Path) -> None:
    """A password that others may read, or hear, is news of a service that runs, not of one that cannot."""
    (tmp_path / "password").write_text("s3cret")
    (tmp_path / "password").chmod(0o644)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mqtt = "host = '192.0.2.1'\nusername = 'cangate'\npassword_file = 'password'\n"
        text = f"[mqtt]\n{mqtt}[opcua.server]\nenabled = false\n[http]\nport = {port}\n"
        done = cangate("run", "-c", settings(tmp_path, text), cwd=tmp_path)
    assert (done.returncode, str(port) in one_line(done.stderr)) == (2, True), done.stderr


def test_config_show_masks_secrets(tmp_path: Path) -> None:
    """The effective configuration is TOML again, without the password."""
    login = {"CANGATE_MQTT__USERNAME": "cangate", "CANGATE_MQTT__PASSWORD": "hunter2"}
    done = cangate("config", "show", "-c", ROOT / "config.toml", cwd=tmp_path, **login)
    assert done.returncode == 0
    assert "hunter2" not in done.stdout + done.stderr
    shown = tmp_path / "shown.toml"
    shown.write_text(done.stdout)
    (tmp_path / "data" / "frames").mkdir(parents=True)
    assert cangate("config", "check", "-c", shown, cwd=tmp_path).returncode == 0


def test_config_add_user_writes_a_hash(tmp_path: Path) -> None:
    """One line `name:role:argon2-hash`; the same name again is replaced."""
    for password in ("first", "second"):
        done = cangate("config", "add-user", "users", "plc1", "--role", "plc", "--password", password, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    name, role, hashed = one_line((tmp_path / "users").read_text()).split(":")
    assert (name, role) == ("plc1", "plc")
    assert argon2.PasswordHasher().verify(hashed, "second")
    (tmp_path / "password").write_text("third\n")
    done = cangate("config", "add-user", "users", "plc1", "--password-file", "password", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    name, role, hashed = one_line((tmp_path / "users").read_text()).split(":")
    assert argon2.PasswordHasher().verify(hashed, "third")
    assert (role, (tmp_path / "users").stat().st_mode & 0o777) == ("operator", 0o600)


def test_certs_are_made_listed_and_revoked(tmp_path: Path) -> None:
    """An authority, two certificates, one of them revoked; what cannot be done is one line and exit status 2."""
    assert cangate("certs", "init", "pki", cwd=tmp_path).returncode == 0
    done = cangate("certs", "issue", "pki", "broker", "cangate", "--host", "broker.plant", cwd=tmp_path)
    assert done.stdout.split() == ["pki/broker.pem", "pki/cangate.pem"]
    assert cangate("certs", "revoke", "pki", "broker", cwd=tmp_path).returncode == 0
    listed = cangate("certs", "list", "pki", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[-1] for line in listed if line.split()[0].startswith(("broker", "cangate"))] == [
        "revoked",
        "valid",
    ]
    for arguments in (["init", "pki"], ["issue", "pki", "cangate"], ["issue", "pki", "a/b"], ["list", "nowhere"]):
        done = cangate("certs", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert one_line(done.stderr).startswith("cangate: ")


def test_export_json_schema_writes_every_message(tmp_path: Path) -> None:
    """One schema a message, each naming itself."""
    assert cangate("export", "json-schema", "-o", "out", cwd=tmp_path).returncode == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{name}.schema.json" for name in ("image-ready", "verdict", "gate", "status", "command", "reply")}
    schema = json.loads((tmp_path / "out" / "verdict.schema.json").read_text())
    assert schema["properties"]["schema"]["const"] == "cangate/verdict/1"


def test_interface_reference_is_up_to_date() -> None:
    """docs/interface.md is what `cangate export reference` writes."""
    assert (ROOT / "docs" / "interface.md").read_text() == render_reference()


def test_interface_reference_has_every_address() -> None:
    """What the API answers is what integrators read of."""
    nothing: Any = None
    api = build_api(bridge=nothing, pictures=nothing, metrics=Metrics(), version="0")
    assert set(api.openapi()["paths"]) == {address.partition("?")[0] for address in HTTP} - {"/", "/history"}


def test_demo_ends_by_itself(tmp_path: Path) -> None:
    """The whole line: one line a part, the last line of the contract, exit status 0; a narrow terminal wraps none."""
    done = cangate("demo", "--parts", 6, "--rate", 3, cwd=tmp_path, COLUMNS="50")
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.splitlines()
    assert last.startswith("demo: 6 parts, ")
    assert last.endswith(" 0 error, 0 gate mismatches")
    parts = [line for line in done.stdout.splitlines() if line.startswith("C-")]
    assert len(parts) == 6
    assert "Traceback" not in done.stderr
