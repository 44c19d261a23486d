"""The OPC UA tags of a station: names, types, access and start values, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum

from schemas.messages import Decision

NAMESPACE_URI = "urn:cangate"


class TagType(StrEnum):
    """Built-in OPC UA type of a tag (OPC 10000-6, 5.1.2); `[]` marks a one-dimensional array."""

    BOOLEAN = "Boolean"
    UINT16 = "UInt16"
    UINT32 = "UInt32"
    DOUBLE = "Double"
    STRING = "String"
    INT32_ARRAY = "Int32[]"
    STRING_ARRAY = "String[]"


class Access(Enum):
    """Who writes a tag."""

    READ = "read"
    PLC_WRITES = "plc-writes"


class VerdictCode(IntEnum):
    """Values of the tag Verdict: 0 never means OK."""

    NONE = 0
    OK = 1
    DAMAGED = 2
    ERROR = 3

    @classmethod
    def of(cls, decision: Decision) -> VerdictCode:
        """Return the code of `decision`."""
        return cls[decision.name]


@dataclass(frozen=True, slots=True)
class TagSpec:
    """One tag: `start` is its value before the first result, None where it starts Bad without a value."""

    type: TagType
    access: Access
    start: bool | int | float | str | tuple[int, ...] | tuple[str, ...] | None
    meaning: str


RESULT_RING = 8
"""How many Verdict texts the tag Results holds."""


class Tag(Enum):
    """Every tag, in the order of the contract."""

    Trigger = TagSpec(TagType.UINT32, Access.PLC_WRITES, 0, "a change starts an inspection; 0 is never a trigger")
    TriggerPartId = TagSpec(TagType.STRING, Access.PLC_WRITES, "", "part id, written before Trigger")
    TriggerImageUri = TagSpec(TagType.STRING, Access.PLC_WRITES, "", "where the frame lies, written before Trigger")
    TriggerEventId = TagSpec(TagType.STRING, Access.PLC_WRITES, "", "event id, written before Trigger; may be empty")
    TriggerAck = TagSpec(TagType.UINT32, Access.READ, 0, "echo of the last accepted Trigger")
    Ready = TagSpec(TagType.BOOLEAN, Access.READ, False, "a trigger may be given")
    Busy = TagSpec(TagType.BOOLEAN, Access.READ, False, "an inspection is in work")
    Fault = TagSpec(TagType.BOOLEAN, Access.READ, False, "the station is unable to judge")
    FaultCode = TagSpec(TagType.UINT16, Access.READ, 0, "0 none; the rest documented")
    Heartbeat = TagSpec(TagType.UINT32, Access.READ, 0, "rises every 500 ms while the service can decide")
    ResultSeq = TagSpec(TagType.UINT32, Access.READ, 0, "written last of one result")
    ResultPartId = TagSpec(TagType.STRING, Access.READ, "", "part id of the result")
    ResultEventId = TagSpec(TagType.STRING, Access.READ, "", "event id of the result")
    ResultTriggerId = TagSpec(TagType.UINT32, Access.READ, 0, "trigger that this result answers; 0: none")
    Verdict = TagSpec(TagType.UINT16, Access.READ, 0, "0 none or invalid, 1 OK, 2 DAMAGED, 3 ERROR")
    Reject = TagSpec(TagType.BOOLEAN, Access.READ, True, "true unless the part may pass")
    ResultValid = TagSpec(TagType.BOOLEAN, Access.READ, False, "false from trigger until result")
    Score = TagSpec(TagType.DOUBLE, Access.READ, None, "image anomaly score; Bad while there is none")
    Threshold = TagSpec(TagType.DOUBLE, Access.READ, None, "tau; Bad while there is none")
    BoxCount = TagSpec(TagType.UINT16, Access.READ, 0, "number of damage boxes")
    Boxes = TagSpec(TagType.INT32_ARRAY, Access.READ, (), "x1,y1,x2,y2 of each box, flat, pixels of the frame")
    Reason = TagSpec(TagType.STRING, Access.READ, "", "why this decision was taken")
    ModelVersion = TagSpec(TagType.STRING, Access.READ, "", "name@version of the model that judged")
    DeadlineMissed = TagSpec(TagType.BOOLEAN, Access.READ, False, "this result missed its deadline")
    LatencyMs = TagSpec(TagType.DOUBLE, Access.READ, 0.0, "image-ready received to verdict written, ms")
    ResultAck = TagSpec(TagType.UINT32, Access.PLC_WRITES, 0, "the PLC echoes ResultSeq when it has taken the result")
    MissedTriggers = TagSpec(TagType.UINT32, Access.READ, 0, "triggers written while not Ready")
    Overruns = TagSpec(TagType.UINT32, Access.READ, 0, "events refused because the queue was full")
    UnackedResults = TagSpec(TagType.UINT32, Access.READ, 0, "results overwritten before their ack")
    CountOk = TagSpec(TagType.UINT32, Access.READ, 0, "OK verdicts since start")
    CountDamaged = TagSpec(TagType.UINT32, Access.READ, 0, "DAMAGED verdicts since start")
    CountError = TagSpec(TagType.UINT32, Access.READ, 0, "ERROR verdicts since start")
    Results = TagSpec(
        TagType.STRING_ARRAY,
        Access.READ,
        (),
        "the last eight Verdict JSON texts, newest first, those of earlier runs among them",
    )

    @property
    def spec(self) -> TagSpec:
        """Return the tag's row of the table."""
        return self.value

    def node_id(self, station: str) -> str:
        """Return the identifier part of the tag's string NodeId, `{station}.{Tag}`."""
        return f"{station}.{self.name}"


def result_seq(seq: int) -> int:
    """Return `seq` as the UInt32 of ResultSeq: modulo 2^32 with 0 skipped, since 0 means no result yet."""
    return (seq - 1) % 0xFFFF_FFFF + 1
