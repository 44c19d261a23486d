"""Settings of the service: defaults, then a TOML file, then the environment (`CANGATE_SECTION__KEY`)."""

from __future__ import annotations

import os
import re
import tomllib
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PlainSerializer, SecretStr, StringConstraints, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from schemas.base import Value
from schemas.messages import MAX_DEADLINE_MS, Gate, StationId
from schemas.recipe import Recipe
from schemas.topics import MAX_STRING_BYTES, Prefix

Port = Annotated[int, Field(ge=1, le=65_535)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
HttpHost = Annotated[str, StringConstraints(pattern=r"^[^/@\s]+$")]
Share = Annotated[float, Field(ge=0, le=1)]
ShareGroup = Annotated[str, StringConstraints(pattern=r"^[^/+#\x00]*$")]


def without_password(url: str) -> str:
    """Return a database URL as it may be shown."""
    shown = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:**********@", url)
    return re.sub(r"(?i)(?<=password=)[^&]*", "**********", shown)


def _without_a_login(endpoint: str) -> str:
    # it would be shown and logged with the endpoint, by us and by the server's own answers
    if "@" in endpoint:
        raise ValueError("must name no user and no password; username and password_file do")
    return endpoint


Endpoint = Annotated[str, AfterValidator(_without_a_login)]


def _as_an_mqtt_string(text: str) -> str:
    if "\0" in text or len(text.encode()) > MAX_STRING_BYTES:
        raise ValueError(f"must have at most {MAX_STRING_BYTES} bytes, none of them zero")
    return text


MqttString = Annotated[str, AfterValidator(_as_an_mqtt_string)]


class StationSettings(Value):
    """Which camera and gate this service belongs to."""

    id: StationId = "line1"


class OnReplayed(StrEnum):
    """What a replayed event may do."""

    IGNORE = "ignore"
    ACT = "act"


class GateSettings(Value):
    """What the gate does where no judgement was possible, and what it hears of replayed parts."""

    on_error: Gate = Gate.REJECT
    on_replayed: OnReplayed = Field(
        default=OnReplayed.IGNORE,
        description="ignore: a replayed part gets its verdict and moves no gate; act: it does",
    )


class DeadlineStart(StrEnum):
    """From when a deadline runs."""

    CAPTURED_AT = "captured_at"
    RECEIVED = "received"


class DeadlineSettings(Value):
    """How long a verdict may take."""

    default_ms: Annotated[int, Field(gt=0, le=MAX_DEADLINE_MS)] = 500
    start: DeadlineStart = DeadlineStart.CAPTURED_AT
    margin_ms: NonNegative | Literal["auto"] = Field(
        default="auto",
        description="a missed deadline is declared this much before it passes, at most a quarter of the time an event "
        "allows; auto: learned from publish times",
    )


class IntakeOrder(StrEnum):
    """Who is judged next where more events come than can be judged."""

    OLDEST = "oldest"
    NEWEST = "newest"


class IntakeSettings(Value):
    """What happens when more events come than can be judged: what cannot make it is answered ERROR/overload at once."""

    capacity: Positive = Field(default=16, description="accepted events in work or waiting")
    order: IntakeOrder = Field(
        default=IntakeOrder.OLDEST,
        description="oldest: one too many is turned away; newest: it goes first, and the oldest that waits is",
    )


class MqttSettings(Value):
    """Connection to the MQTT broker."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 1883
    prefix: str = "cangate"
    protocol: Literal["5", "3.1.1"] = "5"
    keepalive_s: Annotated[int, Field(ge=1, le=65_535)] = 15
    client_id: MqttString = Field(
        default="", description="empty: cangate-{station}, with share_group one for each journal"
    )
    share_group: ShareGroup = ""
    session_expiry_s: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = Field(
        default=3600, description="how long the broker keeps our session"
    )
    username: MqttString = ""
    password: SecretStr | None = None
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    commands: bool = Field(default=True, description="take commands; who may give them is up to the broker")
    max_json_bytes: Positive = 64 * 1024
    publish_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    reconnect_max_s: Annotated[float, Field(gt=0)] = 2.0

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_topic(cls, text: str) -> str:
        return str(Prefix(text))


class OpcUaServerSettings(Value):
    """The service's own OPC UA server."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 4840
    security: tuple[str, ...] = ("None",)
    anonymous: bool = True
    users_file: Path | None = None
    trusted_certs: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    machine_vision: bool = Field(default=True, description="offer OPC 40100-1 Machine Vision beside the tags")


class OpcUaLogin(Value):
    """An OPC UA server and who to be there."""

    endpoint: Endpoint = Field(default="", description="empty: the service's own server")
    security: str = Field(default="None", description="None, or policy and mode as in opcua.server.security")
    username: str = ""
    password: SecretStr | None = None
    password_file: Path | None = None
    trusted_certs: Path | None = Field(
        default=None, description="folder of server certificates that are trusted; none: any, with a warning"
    )
    cert_file: Path | None = Field(default=None, description="our certificate; made where a secure policy needs one")
    key_file: Path | None = None


class OpcUaClientSettings(OpcUaLogin):
    """The service as client of a PLC's server; an empty endpoint turns it off.

    The keys from `trigger` on map our words to the PLC's NodeIds.
    """

    endpoint: Endpoint = Field(default="", description="of the PLC's server, e.g. opc.tcp://plc:4840; empty: no client")
    sampling_ms: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="how often the PLC looks at its trigger; 0: at every change, or at its best"
    )
    publishing_ms: Annotated[float, Field(gt=0)] = Field(
        default=5.0, description="how often the PLC tells what it has seen"
    )
    request_timeout_ms: Positive = Field(
        default=250, description="longest wait for an answer to a read or write; keep it below the deadline"
    )
    connect_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=5.0, description="longest wait for each step of connecting; encryption takes slow PLCs seconds"
    )
    reconnect_max_s: Annotated[float, Field(gt=0)] = Field(
        default=2.0, description="longest pause between attempts to connect"
    )
    trigger: str = Field(
        default="", description="a change is an image-ready event; NodeIds are ns=2;s=... or nsu=URI;s=..."
    )
    part_id: str = Field(default="", description="written by the PLC before trigger, like the next two")
    image_uri: str = ""
    event_id: str = ""
    verdict: str = Field(default="", description="0 none, 1 OK, 2 DAMAGED, 3 ERROR")
    reject: str = Field(default="", description="true unless the part may pass")
    score: str = Field(default="", description="-1 where there is none")
    result_part_id: str = ""
    result_trigger_id: str = Field(default="", description="also tells a service that starts what was answered last")
    result_seq: str = Field(default="", description="written last of one result, when the rest is confirmed")
    heartbeat: str = Field(default="", description="rises, or flips, every 500 ms while the service can decide")


class OpcUaSettings(Value):
    """OPC UA in both roles."""

    server: OpcUaServerSettings = OpcUaServerSettings()
    client: OpcUaClientSettings = OpcUaClientSettings()
    replay: OpcUaLogin = Field(
        default=OpcUaLogin(), description="who cangate replay --via opcua-server is at the service's own server"
    )


class HttpSettings(Value):
    """The operators' page and the HTTP API."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8080
    anonymous: bool = Field(
        default=True, description="nobody is asked who he is; must be set to listen beyond this machine so"
    )
    users_file: Path | None = Field(default=None, description="who may log in where anonymous is false")
    cert_file: Path | None = Field(default=None, description="serve over TLS")
    key_file: Path | None = None
    hosts: tuple[HttpHost, ...] = Field(
        default=(), description="names under which browsers reach us, beside addresses and names without a dot"
    )


class ImageSettings(Value):
    """Where frames may come from, how large they may be, and where pictures for people are kept."""

    roots: tuple[Path, ...] = (Path("data/frames"),)
    http_hosts: tuple[HttpHost, ...] = ()
    http_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), description="private networks in which a name of http_hosts may stand"
    )
    http_ca_file: Path | None = None
    http_timeout_s: Annotated[float, Field(gt=0)] = Field(default=2.0, description="for the whole transfer")
    max_bytes: Positive = 16 * 1024 * 1024
    max_pixels: Positive = 64_000_000
    store: Path = Path("data/images")
    keep: NonNegative = Field(default=2000, description="how many pictures are kept; 0 keeps none")


class JournalSettings(Value):
    """Where events and verdicts are recorded."""

    url: Annotated[str, PlainSerializer(without_password, return_type=str, when_used="json")] = Field(
        default="sqlite:///data/journal.sqlite", repr=False
    )
    folder: Path = Field(
        default=Path("data"), description="PostgreSQL: where a small file says how far was numbered while it was away"
    )
    sync: Literal["normal", "full"] = Field(
        default="normal", description="normal: survives a crash of the process; full: also a loss of power"
    )
    keep_days: NonNegative = Field(default=90, description="answered events are deleted after that; 0: never")


class RecordSettings(Value):
    """Recording of events, frames and verdicts."""

    enabled: bool = Field(default=False, description="the service records what it judges")
    folder: Path = Field(default=Path("data/recordings"), description="each run is a session of its own below it")
    file_mb: Positive = Field(default=256, description="a file that has grown to this is closed and the next one begun")
    keep_gb: Annotated[float, Field(gt=0)] = Field(
        default=20.0, description="all sessions together; beyond it the oldest files are deleted"
    )
    queue_mb: Positive = Field(
        default=64, description="frames that may wait for the disk; beyond it a part is recorded without its frame"
    )


class AcceptanceSettings(Value):
    """What a replay must hold to be accepted: how much worse than the recording it may be."""

    parts_min: Positive = Field(default=1, description="fewer compared parts prove nothing")
    escapes_max: Share = Field(
        default=0.0, description="damaged parts called OK, share of the damaged ones, beyond those of the recording"
    )
    over_rejects_max: Share = Field(
        default=0.0, description="OK parts called damaged, share of the OK ones, beyond those of the recording"
    )
    errors_max: Share = Field(default=0.0, description="parts that had a judgement and end as ERROR, share of them all")
    score_shift_max: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="95% of the scores shift by at most this share of tau; none: not looked at"
    )
    box_iou_min: Share = Field(
        default=0.0, description="median overlap of the boxes with those of the recording; 0: not looked at"
    )
    slack_min_ms: float | None = Field(
        default=None, description="time left to the deadline in 99% of the parts, at recorded pace; none: not looked at"
    )


class ModelSettings(Value):
    """Which model package judges."""

    name: str = Field(default="", description="empty: none, and every event is answered ERROR/model_unavailable")
    version: str = Field(default="active", description="active, or the number of one")
    store: Path = Path("models")

    @property
    def reference(self) -> str:
        """Return NAME, or NAME@VERSION where one is pinned."""
        return self.name if self.version == "active" else f"{self.name}@{self.version}"


class ComputeSettings(Value):
    """Where and how wide the pipeline runs."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: NonNegative = Field(default=0, description="of torch, OpenCV and BLAS; 0: all cores but one")
    prepare_workers: Positive = Field(default=2, description="threads that load, cut out and normalise frames")
    max_batch: Positive = Field(default=8, description="largest micro-batch of the compute thread")
    stuck_s: Annotated[float, Field(gt=0)] = Field(
        default=5.0, description="a thread that works longer on one frame or batch hangs and is replaced"
    )


class LogSettings(Value):
    """Logging to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


ENVIRONMENT_PREFIX = "CANGATE_"
"""Of each setting in the environment."""


class Settings(BaseSettings):
    """All settings. Unknown keys are refused by name.

    Use `Settings.load`; building one directly reads neither a file nor the environment.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, allow_inf_nan=False
    )

    station: StationSettings = StationSettings()
    gate: GateSettings = GateSettings()
    deadline: DeadlineSettings = DeadlineSettings()
    intake: IntakeSettings = IntakeSettings()
    mqtt: MqttSettings = MqttSettings()
    opcua: OpcUaSettings = OpcUaSettings()
    http: HttpSettings = HttpSettings()
    images: ImageSettings = ImageSettings()
    journal: JournalSettings = JournalSettings()
    record: RecordSettings = RecordSettings()
    acceptance: AcceptanceSettings = AcceptanceSettings()
    model: ModelSettings = ModelSettings()
    compute: ComputeSettings = ComputeSettings()
    log: LogSettings = LogSettings()
    recipe: Recipe = Field(default=Recipe(), description="what `cangate train` uses; a package carries its own")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is given, and only that: a line of our own making must not be the plant's."""
        return (init_settings,)

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read settings from the TOML file at `path` (None: no file) and the environment.

        Raises:
            OSError: the file cannot be read.
            UnicodeDecodeError, tomllib.TOMLDecodeError: the file is no TOML.
            pydantic.ValidationError: a key is unknown or a value unusable.
            pydantic_settings.SettingsError: a section in the environment is no JSON.
        """
        in_file = {} if path is None else tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(**(_merged(in_file, EnvSettingsSource(cls)()) | cls._strangers()))

    @classmethod
    def _strangers(cls) -> dict[str, Any]:
        """Return what the environment says of sections that there are not, which pydantic would pass over.

        That of one underscore too few as well: `CANGATE_MQTT_PASSWORD` is no password.
        """
        prefix, between = cls.model_config["env_prefix"], cls.model_config["env_nested_delimiter"] or ""

        def is_strange(name: str) -> bool:
            section, nested, _ = name[len(prefix) :].lower().partition(between)
            if nested:
                return section not in cls.model_fields
            return any(section.startswith(f"{known}_") for known in cls.model_fields)

        return {
            name: value for name, value in os.environ.items() if name.upper().startswith(prefix) and is_strange(name)
        }


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Return `low` with what `high` says, table by table."""
    tables = {key for key, value in high.items() if isinstance(value, dict) and isinstance(low.get(key), dict)}
    return low | {key: _merged(low[key], value) if key in tables else value for key, value in high.items()}


def is_loopback(host: str) -> bool:
    """Tell whether binding to `host` keeps a server on this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
