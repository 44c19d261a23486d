"""Settings: file, environment, defaults, and one clear line for what is wrong."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from schemas.settings import DeadlineStart, Settings, is_loopback, without_password
from schemas.topics import Leaf, Prefix, StationTopics
from service.cli.common import load_settings
from service.errors import UsageError

ROOT = Path(__file__).parents[2]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_settings_have_the_contracts_defaults() -> None:
    """Without a file the defaults of contract section 7 hold."""
    settings = load_settings(None)
    assert settings.station.id == "line1"
    assert settings.gate.on_error == "REJECT"
    assert (settings.deadline.default_ms, settings.deadline.start) == (500, DeadlineStart.CAPTURED_AT)
    assert (settings.mqtt.protocol, settings.mqtt.prefix, settings.mqtt.tls) == ("5", "cangate", False)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8080)
    assert settings.images.roots == (Path("data/frames"),)
    assert (settings.journal.url, settings.journal.sync) == ("sqlite:///data/journal.sqlite", "normal")
    assert (settings.model.version, settings.model.store) == ("active", Path("models"))


def keys_of(model: type[BaseModel], path: str = "") -> list[str]:
    """Return the path of every key below `model`."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += keys_of(inner, f"{path}{name}.")
        else:
            keys.append(path + name)
    return keys


def keys_in(text: str) -> list[str]:
    """Return the path of every key that a TOML text sets, also in a comment."""
    keys, section = [], ""
    for line in text.splitlines():
        if header := re.match(r"\[([\w.]+)\]", line):
            section = header[1]
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            keys.append(f"{section}.{key[1]}")
    return keys


def test_config_toml_names_every_key_with_its_default() -> None:
    """The shipped config.toml is complete, in the order of the settings, and changes nothing."""
    assert load_settings(ROOT / "config.toml") == load_settings(None)
    assert keys_in((ROOT / "config.toml").read_text()) == keys_of(Settings)


def test_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret comes from the environment and is not shown."""
    path = written(tmp_path, '[station]\nid = "line7"\n[mqtt]\nhost = "broker"\n')
    monkeypatch.setenv("CANGATE_MQTT__HOST", "other")
    monkeypatch.setenv("CANGATE_MQTT__PASSWORD", "hunter2")
    settings = load_settings(path)
    assert (settings.station.id, settings.mqtt.host) == ("line7", "other")
    assert settings.mqtt.password is not None
    assert settings.mqtt.password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[mqtt]\nprot = 1\n", "unknown key mqtt.prot"),
        ("[mqqt]\nport = 1\n", "unknown key mqqt"),
        ("[opcua.server]\nporto = 1\n", "unknown key opcua.server.porto"),
        ("[mqtt]\nport = 70000\n", "mqtt.port"),
        ("[mqtt]\nprotocol = '4'\n", "mqtt.protocol"),
        ("[mqtt]\nprefix = 'a/#'\n", "mqtt.prefix"),
        ("[mqtt]\nsession_expiry_s = 4294967296\n", "mqtt.session_expiry_s"),
        (f"[mqtt]\nclient_id = '{'x' * 65_536}'\n", "mqtt.client_id"),
        ('[mqtt]\nusername = "a\\u0000"\n', "mqtt.username"),
        ("[station]\nid = 'Line 1'\n", "station.id"),
        ("[gate]\non_error = 'OPEN'\n", "gate.on_error"),
        ("[deadline]\ndefault_ms = 0\n", "deadline.default_ms"),
        ("[opcua.client]\nendpoint = 'opc.tcp://u:s3cret@plc:4840'\n", "opcua.client.endpoint"),
        ("[opcua.client]\nendpoint = 'opc.tcp://s3cret@plc:4840'\n", "opcua.client.endpoint"),
        ("[opcua.client]\nendpoint = 's3cret@plc'\n", "opcua.client.endpoint"),
        ("[opcua.replay]\nendpoint = 'opc.tcp://u:s3cret@127.0.0.1:4840'\n", "opcua.replay.endpoint"),
        ("this is no TOML", "not TOML"),
    ],
)
def test_unusable_settings_are_named_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    """What is wrong is said with file and key, in one line."""
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_settings(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CANGATE_OPCUA__SERVER__SECURITY", "None"),
        ("CANGATE_IMAGES__ROOTS", "data/frames"),
        ("cangate_mqtt", "s3cret"),
        ("CANGATE_GATE", ""),
    ],
)
def test_variable_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """A list or a section in the environment is JSON; what stands there may be a secret and is not said."""
    monkeypatch.setenv(name, text)
    monkeypatch.setenv("CANGATE_MODEL__NAME", text)
    with pytest.raises(UsageError) as caught:
        load_settings(None)
    assert str(caught.value).startswith(f"environment: {name} must be JSON: a list is written [")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_missing_file_is_named() -> None:
    """A configuration file that is not there is an error with its name."""
    with pytest.raises(UsageError, match=r"nowhere\.toml"):
        load_settings(Path("nowhere.toml"))


def test_config_toml_is_toml() -> None:
    """Any reader of TOML 1.0 can read the shipped file."""
    assert tomllib.loads((ROOT / "config.toml").read_text())["station"] == {"id": "line1"}


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("", False), ("plc", False)],
)
def test_is_loopback_tells_this_machine(host: str, expected: bool) -> None:
    """Only addresses that stay on this machine count as loopback."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize("text", ["", "/", "a//b", "a/", "/a", "a/+", "#", "a\0", "$SYS/x", "a" * 40_000])
def test_prefix_refuses_what_is_no_topic(text: str) -> None:
    """Empty levels, wildcards, NUL and broker topics are refused."""
    with pytest.raises(ValueError, match="prefix"):
        Prefix(text)


@given(st.lists(st.from_regex(r"\A[a-z0-9 _-]{1,8}\Z"), min_size=1, max_size=6).map("/".join))
def test_topics_join_prefix_station_and_leaf(prefix: str) -> None:
    """A prefix of any depth gives topics of the contract's form."""
    topics = StationTopics(Prefix(prefix), "line1")
    assert topics.of(Leaf.IMAGE_READY_RAW) == f"{prefix}/line1/image-ready/raw"
    assert topics.subscription(Leaf.IMAGE_READY, "workers") == f"$share/workers/{prefix}/line1/image-ready"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///data/journal.sqlite", "sqlite:///data/journal.sqlite"),
        ("postgresql+psycopg://me:se%40cret@db/cangate", "postgresql+psycopg://me:**********@db/cangate"),
        (
            "postgresql+psycopg://db/x?user=me&password=secret&b=1",
            "postgresql+psycopg://db/x?user=me&password=**********&b=1",
        ),
        ("postgresql+psycopg://db/x?sslpassword=secret", "postgresql+psycopg://db/x?sslpassword=**********"),
    ],
)
def test_url_of_a_database_is_shown_without_its_password(url: str, shown: str) -> None:
    """Wherever in the URL it stands."""
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "name", ["CANGATE_MQT__PORT", "cangate_deadlin__default_ms", "CANGATE___PORT", "CANGATE_MQTT_PASSWORD"]
)
def test_a_section_that_there_is_not_is_refused_in_the_environment_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in a password's name would otherwise be a default on a running line."""
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(UsageError, match=f"^environment: unknown key {name}$"):
        load_settings(None)
