"""`cangate run` with settings that it cannot use."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.cli import CommandLine

GUESS = "guess-Tr0ub4dor"
_NO_SERVER = "[opcua.server]\nenabled = false\n"


@pytest.fixture
def cangate(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    """The command line in a folder that has what the defaults name; what is logged counts as written, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "frames").mkdir(parents=True)
    return CommandLine(monkeypatch, capfd)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[mqtt]\nprotokoll = '5'\n", "mqtt.protokoll"),
        ("[images]\nroots = ['nowhere']\n", "nowhere"),
        (f"{_NO_SERVER}[http]\nusers_file = 'nope.txt'\n", "nope.txt"),
        (f"{_NO_SERVER}[http]\nenabled = false\n[mqtt]\nca_file = 'nope.pem'\n", "nope.pem"),
        (f"{_NO_SERVER}[http]\nenabled = false\n[mqtt]\nkey_file = 'nope.key'\n", "nope.key"),
    ],
)
def test_run_refuses_what_it_cannot_use_by_name(cangate: CommandLine, text: str, named: str) -> None:
    """An unknown key, a folder or file that is not there, needed or not: exit status 2 and one line with the name."""
    Path("config.toml").write_text(text)
    assert named in cangate("run", "-c", "config.toml").one_line_error()


def test_run_refuses_a_port_in_use_by_name(cangate: CommandLine) -> None:
    """A port that somebody else has is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        Path("config.toml").write_text(f"[opcua.server]\nport = {port}\n[http]\nenabled = false\n")
        assert str(port) in cangate("run", "-c", "config.toml").one_line_error()


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("CANGATE_MQTT", GUESS, "CANGATE_MQTT must be JSON"),
        ("CANGATE_MQTT", f'{{"password": "{GUESS}"', "CANGATE_MQTT must be JSON"),
        ("CANGATE_MQTT__PASSWORDS", GUESS, "unknown key mqtt.passwords"),
        ("CANGATE_MQTT__PORT", GUESS, "mqtt.port"),
        ("CANGATE_MQTT__PASSWORD", GUESS, "mqtt.username is empty"),
        ("CANGATE_JOURNAL__URL", f"postgresql+psycopg://u:{GUESS}@127.0.0.1:1/x", "journal.url"),
        ("CANGATE_JOURNAL__URL", f"postgresql+psycopg://u:pass:{GUESS}/x", "journal.url"),
        ("CANGATE_JOURNAL__URL", f"nonsense://u:{GUESS}@h/x", "journal.url"),
        ("CANGATE_OPCUA__CLIENT__ENDPOINT", f"opc.tcp://u:{GUESS}@plc:4840", "opcua.client.endpoint"),
    ],
)
def test_complaint_about_a_setting_does_not_quote_it(
    cangate: CommandLine, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    """Exit status 2 and one line with the key, without what may be a password."""
    monkeypatch.setenv("CANGATE_OPCUA__SERVER__ENABLED", "false")
    monkeypatch.setenv("CANGATE_OPCUA__CLIENT__TRIGGER", "ns=2;s=Trigger")
    monkeypatch.setenv("CANGATE_OPCUA__CLIENT__RESULT_SEQ", "ns=2;s=ResultSeq")
    monkeypatch.setenv(variable, value)
    outcome = cangate("run")
    assert named in outcome.one_line_error()
    assert GUESS not in outcome.stdout + outcome.stderr
