"""`cangate config check`: what a start would refuse is known before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.settings import Settings
from service.cli.common import load_settings
from service.cli.preflight import look_at
from service.errors import UsageError
from service.model.registry import ModelRegistry
from tests.support.cli import CommandLine
from tests.support.parts import train_parts, write_parts


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of defaults in a folder that has what they name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "frames").mkdir(parents=True)
    path = tmp_path / "config.toml"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("images.roots = ['nope']", "images.roots: nope"),
        ("http.host = '0.0.0.0'", "http.anonymous = true"),
        ("http.users_file = 'nope'", "http.users_file"),
        ("http.cert_file = 'nope'", "key_file"),
        ("opcua.server.security = ['Foo']", "opcua.server.security"),
        ("opcua.server.trusted_certs = 'nope'", "opcua.server.trusted_certs"),
        ("opcua.client.endpoint = 'opc.tcp://plc:4840'", "opcua.client.trigger"),
        ("journal.url = 'mysql://x'", "journal.url"),
        ("journal.url = 'sqlite:///config.toml/j.sqlite'", "journal: cannot write"),
        ("record.enabled = true\nrecord.folder = 'config.toml'", "record.folder: cannot write"),
        ("images.roots = ['circle']", "images.roots: circle"),
        ("images.store = 'circle/images'", "images.store: cannot write"),
        ("journal.url = 'sqlite:///circle/j.sqlite'", "journal: cannot write"),
        ("mqtt.password_file = 'nope'", "mqtt.password_file"),
        ("mqtt.tls = true\nmqtt.ca_file = 'nope'", "mqtt.ca_file"),
    ],
)
def test_what_a_start_would_refuse_is_refused_by_name(config: Path, text: str, named: str) -> None:
    """Files, folders and combinations, not only the syntax; and nothing is made on the way."""
    config.write_text(text)
    (config.parent / "circle").symlink_to("circle")
    before = sorted(config.parent.rglob("*"))
    with pytest.raises(UsageError, match=named):
        list(look_at(Settings.load(config)))
    assert sorted(config.parent.rglob("*")) == before


def test_what_a_start_would_make_is_not_made(config: Path) -> None:
    """Whoever checks may not be whom the service runs as."""
    config.write_text(
        "opcua.server.security = ['Basic256Sha256_SignAndEncrypt']\njournal.url = 'sqlite:///var/j.sqlite'"
    )
    assert len(list(look_at(Settings.load(config)))) == 1  # no model
    assert {path.name for path in config.parent.rglob("*")} == {"config.toml", "data", "frames"}


def test_station_that_would_judge_nothing_is_told_so(config: Path) -> None:
    """No model, one that is not there, no transport: it starts, and that is all."""
    assert "model.name is empty" in next(look_at(Settings.load(config)))
    config.write_text("model.name = 'bars'\nmqtt.enabled = false\nopcua.server.enabled = false")
    notes = list(look_at(Settings.load(config)))
    assert ["no event can come" in notes[0], "no model 'bars'" in notes[1], len(notes)] == [True, True, 2]


def test_station_with_a_model_has_nothing_to_note(config: Path) -> None:
    """A package that reads is enough."""
    registry = ModelRegistry(Path("models"))
    train_parts(write_parts(config.parent / "parts", 4)).publish(registry)
    registry.activate("bars", "1")
    config.write_text("model.name = 'bars'")
    assert not list(look_at(Settings.load(config)))


def test_stations_of_one_process_are_checked_together(cangate: CommandLine, config: Path) -> None:
    """As `cangate run -c A -c B` takes them: every file is looked at, and what two of them want."""
    first, second = config, config.with_name("second.toml")
    ports = "http.port = 8123\nopcua.server.port = 4899\njournal.url = 'sqlite:///second.sqlite'"
    second.write_text(f"station.id = 'line2'\n{ports}")
    both = ("config", "check", "-c", first, "-c", second)
    assert "images.store: " in (clash := cangate(*both).one_line_error())
    assert "is given to two stations" in clash
    second.write_text(f"station.id = 'line2'\nimages.store = 'pictures'\n{ports}")
    outcome = cangate(*both)
    assert outcome.status == 0
    assert [line.partition(" is empty")[0] for line in outcome.stderr.splitlines()] == [
        "cangate: line1: model.name",
        "cangate: line2: model.name",
    ]
    first.write_text("images.roots = ['nope']")
    assert "cangate: line1: images.roots: nope" in cangate(*both).one_line_error()


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("CANGATE_STATION__ID", "Line 1", r"station.id \(from CANGATE_STATION__ID\)"),
        ("CANGATE_MQTT__PORT", "abc", r"mqtt.port \(from CANGATE_MQTT__PORT\)"),
    ],
)
def test_variable_is_blamed_for_what_it_sets(
    config: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    """The file may be as right as can be."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=named):
        load_settings(config)


def test_embedder_that_is_none_is_told_which_there_are(config: Path) -> None:
    """In words, presets included, and not as a pattern."""
    config.write_text("recipe.embed.embedder = 'resnet'")
    with pytest.raises(UsageError, match="must be starter, filters, timm:BACKBONE, dinov2-vitb14 or dinov2-vits14"):
        load_settings(config)


def test_station_that_may_read_no_frame_is_told_so(config: Path) -> None:
    """Cameras that send their frames inside messages want neither roots nor hosts, all others do."""
    config.write_text("images.roots = []")
    assert "only frames that come inside messages are judged" in next(look_at(Settings.load(config)))
    config.write_text("images.roots = []\nimages.http_hosts = ['cam1.plant']")
    assert "model.name is empty" in next(look_at(Settings.load(config)))
