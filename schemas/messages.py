"""Every message of the wire contract, version 1, as a pydantic model."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, StringConstraints, model_validator

from schemas.base import Message, UtcDatetime

MAX_DEADLINE_MS = 3_600_000

REPLAY_PREFIX = "replay/"
"""Begins the event id of every replayed event: the one mark that travels through OPC UA tags, and no mark over MQTT."""

StationId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$")]
EventId = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
EventName = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00]+$")]
"""The event id of an event that may be refused: any text that every journal and every wire can carry, of any length.

NUL is no character of a text in PostgreSQL (nor of an MQTT string), and half a surrogate pair none of UTF-8.
"""

PartId = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
ImageUri = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]


def _whole(value: object) -> object:
    """Return 500 for 500.0: to JSON, and to JSON Schema's "integer", they are the same number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _unless_null(value: object) -> object:
    """Return False for null: some libraries write it for what is not set."""
    return False if value is None else value


UInt32 = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=0xFFFF_FFFF)]
NonNegative = Annotated[int, Field(ge=0)]


class Decision(StrEnum):
    """What was seen; `ERROR` where no judgement was possible."""

    OK = "OK"
    DAMAGED = "DAMAGED"
    ERROR = "ERROR"


class Gate(StrEnum):
    """What the reject gate must do."""

    PASS = "PASS"  # noqa: S105 - a gate position, not a password
    REJECT = "REJECT"


class Reason(StrEnum):
    """Why a decision was taken."""

    SCORE_BELOW_THRESHOLD = "score_below_threshold"
    SCORE_AT_OR_ABOVE_THRESHOLD = "score_at_or_above_threshold"
    DEADLINE_MISSED = "deadline_missed"
    FRAME_MISSING = "frame_missing"
    FRAME_CORRUPT = "frame_corrupt"
    FRAME_REFUSED = "frame_refused"
    ROI_NOT_FOUND = "roi_not_found"
    MODEL_UNAVAILABLE = "model_unavailable"
    OVERLOAD = "overload"
    INTERNAL_ERROR = "internal_error"


class StationState(StrEnum):
    """State of a station: `degraded` still decides, `fault` cannot judge anything."""

    READY = "ready"
    BUSY = "busy"
    DEGRADED = "degraded"
    FAULT = "fault"
    OFFLINE = "offline"


class FaultCode(IntEnum):
    """What is wrong with a station: below 100 nothing can be judged, from 100 on decisions still flow."""

    NONE = 0
    MODEL_UNAVAILABLE = 1
    COMPUTE_STUCK = 2
    PAUSED = 3
    COMPUTE_FAILING = 4
    SINK_DOWN = 100
    JOURNAL_FAILING = 101
    PICTURES_FAILING = 102
    RECORDING_FAILING = 103


FAULT_MEANINGS = {
    FaultCode.NONE: ("all is well", ""),
    FaultCode.MODEL_UNAVAILABLE: ("no model could be loaded; looked for again within a minute", "loads it at once"),
    FaultCode.COMPUTE_STUCK: (
        "an inspection hangs; the heartbeat stands still",
        "nothing: threads are replaced anyway",
    ),
    FaultCode.PAUSED: ("paused by command", "nothing: `resume` ends it"),
    FaultCode.COMPUTE_FAILING: (
        "the model fails on its own golden frames: memory ran out, the device is lost; tried again on and on",
        "tries at once",
    ),
    FaultCode.SINK_DOWN: ("a transport is down; the others go on", "nothing: it reconnects by itself"),
    FaultCode.JOURNAL_FAILING: (
        "the journal cannot be written, or a corrupt one was set aside",
        "takes note of a journal that was set aside",
    ),
    FaultCode.PICTURES_FAILING: ("pictures for people cannot be kept", "nothing: it ends with the next picture kept"),
    FaultCode.RECORDING_FAILING: ("parts cannot be recorded", "nothing: it ends with the next part recorded"),
}
"""For each fault code what it means, and what the command `reset_fault` does about it."""


class ImageEvent(Message):
    """What is known about one image-ready event apart from the image itself; a refused one may have any name.

    `replayed` is a word of ours that the contract has not: whatever else a plant means by it is ignored.
    """

    event_id: EventName
    part_id: PartId | None = None
    trigger_id: UInt32 | None = None
    captured_at: UtcDatetime | None = None
    deadline_ms: Annotated[int, BeforeValidator(_whole), Field(gt=0, le=MAX_DEADLINE_MS)] | None = None
    simulated: Annotated[bool, BeforeValidator(_unless_null)] = False
    replayed: Annotated[bool, BeforeValidator(lambda value: value is True)] = False


class ImageRef(Message):
    """Where a frame lies, and optionally the SHA-256 of its file."""

    uri: ImageUri
    sha256: Sha256 | None = None


class ImageReady(ImageEvent):
    """The camera side says that a frame can be fetched; what is no valid one is refused by the `event_id` it names.

    A longer id, one with control characters or a whole number (taken by its text) names its event too, and is echoed
    exactly. NUL, half a surrogate pair, an empty text or anything else names none.
    """

    event_id: EventId
    schema_: Literal["cangate/image-ready/1"] = Field(default="cangate/image-ready/1", alias="schema")
    image: ImageRef


class RawImageReady(ImageEvent):
    """The MQTT 5 user properties that go with raw image bytes."""

    event_id: EventId


class Box(Message):
    """A damage box in pixels of the full source frame; `x2` and `y2` are exclusive."""

    x1: NonNegative
    y1: NonNegative
    x2: NonNegative
    y2: NonNegative
    score: float

    @model_validator(mode="after")
    def _has_area(self) -> Self:
        if self.x2 <= self.x1 or self.y2 <= self.y1:
            raise ValueError(f"box is empty: x {self.x1}..{self.x2}, y {self.y1}..{self.y2}")
        return self

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """Return the corners."""
        return self.x1, self.y1, self.x2, self.y2


class JudgedImage(Message):
    """The frame a verdict speaks about, in pixels."""

    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    uri: str | None = None


class ModelRef(Message):
    """Which model package judged: `sha256` is the package id."""

    name: str
    version: str
    sha256: str

    @property
    def reference(self) -> str:
        """Return NAME@VERSION."""
        return f"{self.name}@{self.version}"


class StagesMs(Message):
    """Time spent in each stage of the pipeline, in milliseconds; a stage that did not run is absent."""

    load: float | None = None
    roi: float | None = None
    normalize: float | None = None
    embed: float | None = None
    score: float | None = None
    boxes: float | None = None

    def total(self) -> float:
        """Return the sum of all stages that ran, in milliseconds."""
        return float(sum(value for _, value in self if value is not None))


class Verdict(Message):
    """The one answer to an image-ready event."""

    schema_: Literal["cangate/verdict/1"] = Field(default="cangate/verdict/1", alias="schema")
    station: StationId
    event_id: EventName
    part_id: PartId | None
    trigger_id: UInt32 | None
    seq: Annotated[int, Field(gt=0)]
    decision: Decision
    gate: Gate
    reason: Reason
    uncertain: bool
    score: float | None
    threshold: float | None
    boxes: tuple[Box, ...] = ()
    image: JudgedImage | None
    model: ModelRef | None
    captured_at: UtcDatetime | None
    received_at: UtcDatetime
    decided_at: UtcDatetime
    latency_ms: Annotated[float, Field(ge=0)]
    stages_ms: StagesMs
    simulated: bool = False
    replayed: bool = False
    late: bool = False

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.decision is not Decision.ERROR:
            missing = [name for name in ("score", "threshold", "image", "model") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"a verdict {self.decision} needs {', '.join(missing)}")
        return self

    def to_json(self) -> bytes:
        """Return the exact bytes of this verdict: stages that did not run are left out, null stays null elsewhere."""
        document = self.model_dump_json(
            by_alias=True, exclude={"stages_ms": {name for name, value in self.stages_ms if value is None}}
        )
        return document.encode()


class GateCommand(Message):
    """The short form of a verdict, for a gate without OPC UA."""

    schema_: Literal["cangate/gate/1"] = Field(default="cangate/gate/1", alias="schema")
    station: StationId
    event_id: EventName
    part_id: PartId | None
    trigger_id: UInt32 | None
    seq: Annotated[int, Field(gt=0)]
    gate: Gate
    decision: Decision

    @classmethod
    def of(cls, verdict: Verdict) -> Self:
        """Return the gate command that belongs to `verdict`."""
        return cls(
            station=verdict.station,
            event_id=verdict.event_id,
            part_id=verdict.part_id,
            trigger_id=verdict.trigger_id,
            seq=verdict.seq,
            gate=verdict.gate,
            decision=verdict.decision,
        )


class Counts(Message):
    """Verdicts since start, by decision."""

    ok: NonNegative = 0
    damaged: NonNegative = 0
    error: NonNegative = 0


class Fault(Message):
    """Why a station is degraded or in fault; `code` is the OPC UA tag FaultCode."""

    code: Annotated[int, Field(ge=0, le=0xFFFF)]
    text: str


class Status(Message):
    """State of a station; retained on its status topic."""

    schema_: Literal["cangate/status/1"] = Field(default="cangate/status/1", alias="schema")
    station: StationId
    state: StationState
    since: UtcDatetime
    version: str
    model: ModelRef | None = None
    heartbeat: NonNegative = 0
    queue: NonNegative = 0
    counts: Counts = Counts()
    fault: Fault | None = None


class CommandName(StrEnum):
    """What a station can be told."""

    ACTIVATE_MODEL = "activate_model"
    ROLLBACK_MODEL = "rollback_model"
    SET_THRESHOLD = "set_threshold"
    PAUSE = "pause"
    RESUME = "resume"
    RESET_FAULT = "reset_fault"
    PING = "ping"


COMMAND_MEANINGS = {
    CommandName.ACTIVATE_MODEL: (
        '{"name": "canister", "version": "2"}',
        "judges by that version once its golden frames prove it",
    ),
    CommandName.ROLLBACK_MODEL: ('{} or {"name": "canister"}', "judges by the version that was active before"),
    CommandName.SET_THRESHOLD: (
        '{"threshold": 0.31}',
        "makes a new version with that tau of the model that judges, and activates it",
    ),
    CommandName.PAUSE: (
        "{}",
        "every event is answered `ERROR/model_unavailable` until `resume`; a restart ends it, too",
    ),
    CommandName.RESUME: ("{}", "judges again"),
    CommandName.RESET_FAULT: ("{}", "see the fault codes; loads the model where none is loaded"),
    CommandName.PING: ("{}", "nothing; the reply says the state"),
}
"""For each command its `args`, by example, and its effect."""


class Command(Message):
    """An order to a station."""

    schema_: Literal["cangate/command/1"] = Field(default="cangate/command/1", alias="schema")
    command: CommandName
    args: dict[str, JsonValue] = Field(default_factory=dict)


class CommandReply(Message):
    """The answer to a command: `ok` with a result, or an error in one line."""

    schema_: Literal["cangate/reply/1"] = Field(default="cangate/reply/1", alias="schema")
    station: StationId
    command: str | None
    ok: bool
    error: str | None = None
    result: dict[str, JsonValue] = Field(default_factory=dict)


MESSAGES: tuple[type[Message], ...] = (ImageReady, Verdict, GateCommand, Status, Command, CommandReply)
"""Every message that has a topic of its own."""
