"""What must be there at start, and is refused by name where it is not."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from adapters.simulation.broker import free_port
from schemas.settings import Settings
from service.bootstrap import serve, serve_all
from service.errors import UsageError


def settings(folder: Path, **changes: dict[str, Any]) -> Settings:
    """Return settings that could start in `folder`, but for `changes`."""
    (folder / "frames").mkdir(exist_ok=True)
    sections: dict[str, dict[str, Any]] = {
        "mqtt": {"port": free_port()},
        "opcua": {"server": {"port": free_port()}},
        "http": {"port": free_port()},
        "images": {"roots": [folder / "frames"], "store": folder / "images"},
        "journal": {"url": f"sqlite:///{folder / 'journal.sqlite'}"},
        "model": {"store": folder / "models"},
    }
    for section, values in changes.items():
        sections[section] = sections.get(section, {}) | values
    return Settings.model_validate(sections)


PLC: dict[str, Any] = {"endpoint": "opc.tcp://127.0.0.1:1", "trigger": "i=1", "result_seq": "i=2"}


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("images", {"roots": ["nowhere"]}, "nowhere"),
        ("mqtt", {"password_file": "no-secret"}, "no-secret"),
        ("mqtt", {"tls": True, "ca_file": "no-ca.pem"}, "no-ca.pem"),
        ("opcua", {"server": {"users_file": "no-users"}}, "no-users"),
        ("opcua", {"server": {"security": ["Secret"]}}, "Secret"),
        ("opcua", {"server": {"host": "0.0.0.0"}}, "opcua.server.host"),
        ("opcua", {"server": {"host": "0.0.0.0", "anonymous": False, "users_file": "u"}}, "passwords in the clear"),
        ("opcua", {"client": {"endpoint": "opc.tcp://plc:4840"}}, "opcua.client.trigger"),
        ("opcua", {"client": PLC | {"trigger": "Trigger"}}, "opcua.client.trigger: 'Trigger' is no NodeId"),
        ("opcua", {"client": PLC | {"endpoint": "plc"}}, "opcua.client.endpoint"),
        ("opcua", {"client": PLC | {"security": "Basic256"}}, "opcua.client.security"),
        ("opcua", {"client": PLC | {"password": "x"}}, "opcua.client.username"),
        ("opcua", {"client": PLC | {"username": "x", "password_file": "no-secret"}}, "no-secret"),
        ("opcua", {"client": PLC | {"trusted_certs": "no-folder"}}, "no-folder"),
        ("opcua", {"client": PLC | {"security": "Basic256Sha256_Sign", "cert_file": "a.der"}}, "belong together"),
        ("http", {"host": "0.0.0.0"}, "http.host"),
        ("http", {"host": "0.0.0.0", "anonymous": False}, "nobody could log in"),
        ("journal", {"url": "nonsense"}, "journal.url"),
        ("compute", {"device": "cuda:77"}, "cuda:77"),
    ],
    ids=str,
)
async def test_serve_refuses_what_it_cannot_use_by_name(
    tmp_path: Path, section: str, values: dict[str, Any], named: str
) -> None:
    """A file that cannot be read, a root that does not exist, an open door."""
    with pytest.raises(UsageError, match=named) as caught:
        await serve(settings(tmp_path, **{section: values}), asyncio.Event())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["opcua", "http"])
async def test_serve_refuses_a_port_in_use_by_name(tmp_path: Path, section: str) -> None:
    """A port that somebody else has is named, and what was opened before it is let go."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        values = {"server": {"port": port}} if section == "opcua" else {"port": port}
        with pytest.raises(UsageError, match=str(port)):
            await serve(settings(tmp_path, **{section: values}), asyncio.Event())


async def test_serve_starts_without_broker_and_model_and_ends_when_told(tmp_path: Path) -> None:
    """A broker that is away and a model that is not there are states, not errors; stopping is prompt."""
    stop = asyncio.Event()
    reasons: list[str] = []

    def look(service: Any) -> None:
        reasons.extend(service.runner._station.not_ready())
        stop.set()

    with capture_logs() as logged:
        async with asyncio.timeout(30):
            await serve(settings(tmp_path), stop, on_started=look)
    assert logged[-1]["event"] == "station_stopped"
    assert any(reason.startswith("mqtt: ") for reason in reasons)
    assert any(reason.startswith("model: ") for reason in reasons)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"station": {"id": "line1"}}, "station.id: line1 is given"),
        ({"mqtt": {"client_id": "inspection", "port": 1}}, "mqtt.client_id: inspection at .* is given"),
        ({"images": {"store": "pictures"}}, "images.store: .*/pictures is given"),
        ({"http": {"port": 8123}}, "http.port: 127.0.0.1:8123 is given"),
        ({"opcua": {"server": {"port": 4899}}}, "opcua.server.port: 127.0.0.1:4899 is given"),
        ({"opcua": {"client": PLC}}, "opcua.client: i=2 at opc.tcp://127.0.0.1:1 is given"),
        ({"journal": {"url": "sqlite:///journal.sqlite"}}, "journal.url: sqlite:///.*/journal.sqlite is given"),
        ({"record": {"enabled": True, "folder": "records"}}, "record.folder: .*/records is given"),
    ],
    ids=str,
)
async def test_stations_that_want_the_same_for_themselves_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    """Two stations of one process take neither each other's events nor each other's results or pictures."""
    with pytest.raises(UsageError, match=f"{named} to two stations"):
        await serve_all(two_stations(tmp_path, changes, changes), asyncio.Event())


async def test_one_journal_is_refused_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a dot, or through a link."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").symlink_to(tmp_path)
    for number, url in enumerate(
        (
            "sqlite:///./journal.sqlite",
            "sqlite+pysqlite:///there/journal.sqlite",
            f"sqlite:///{tmp_path}/journal.sqlite",
        )
    ):
        first, second = ({"journal": {"url": each}} for each in ("sqlite:///journal.sqlite", url))
        (folder := tmp_path / str(number)).mkdir()
        with pytest.raises(UsageError, match=f"journal.url: sqlite:///{tmp_path}/journal.sqlite is given to two"):
            await serve_all(two_stations(folder, first, second), asyncio.Event())


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"log": {"level": "debug"}}, "log"), ({"compute": {"threads": 7}}, "compute.threads")],
    ids=str,
)
async def test_stations_that_want_different_processes_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    """What holds for the process is not taken from whoever comes first."""
    with pytest.raises(UsageError, match=f"{named}: holds for the whole process"):
        await serve_all(two_stations(tmp_path, {}, changes), asyncio.Event())


def two_stations(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> list[Settings]:
    """Return the settings of two stations that could start, but for the changes."""
    stations = []
    for name, changes in (("line1", first), ("line2", second)):
        (folder / name).mkdir()
        stations.append(settings(folder / name, **{"station": {"id": name}, **changes}))
    return stations


async def test_station_that_cannot_start_ends_the_others(tmp_path: Path) -> None:
    """The process says what is missing and leaves nothing behind: the port of the other station is free again."""
    port = free_port()
    stations = two_stations(tmp_path, {"http": {"port": port}}, {"images": {"roots": ["nowhere"]}})
    with pytest.raises(UsageError, match="nowhere"):
        await serve_all(stations, asyncio.Event())
    with socket.create_server(("127.0.0.1", port)):
        pass


_LOGGING = """
import sys, structlog
from schemas.settings import LogSettings
from service.logs import configure_logging

configure_logging(LogSettings.model_validate({"format": sys.argv[1]}))
log = structlog.get_logger("test")
log.info("part", event_id="\\x1b[2J\\nforged" + "x" * 60_000)
log.info("part", event_id="\\x1b[2J\\r")
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_log_obeys_no_name_of_an_event(log_format: str) -> None:
    """A refused event may have a name of any length and of any characters: its line is one, short and plain."""
    # a process of its own: logging is set up once for all that comes after
    run = subprocess.run([sys.executable, "-c", _LOGGING, log_format], capture_output=True, text=True, check=True)
    said = run.stderr
    assert len(said.splitlines()) == 2
    assert len(said) < 2000
    assert all(character == "\n" or character.isprintable() for character in said)
    assert "60011 characters" in said
