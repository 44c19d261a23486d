"""The data types of OPC 40100-1 that a station exchanges, as the classes that asyncua encodes (clause 12).

Each class is its row of the table: NodeIds, fields in order, which of them are optional. `register` tells asyncua of
the binary encoding under the index that the namespace got.
"""

# ruff: noqa: RUF009 - _of, _optional and _mask are dataclasses.field under other names

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, Final, TypeVar

from asyncua import ua

from adapters.opcua.server.machine_vision.declarations import Base, Id

TRIMMED_STRING: Final = 3017
HANDLE: Final = 3018
RESULT_STATE: Final = 3009
BINARY_ID_BASE: Final = 3019

SIMPLE_TYPES: Final = (
    (TRIMMED_STRING, "TrimmedString", Base.STRING),
    (HANDLE, "Handle", Base.UINT32),
    (RESULT_STATE, "ResultStateDataType", Base.INT32),
)
"""Subtypes of built-in types: NodeId, name, supertype."""

_T = TypeVar("_T")
STRUCTURES: list[type] = []
"""Every structure, supertypes first."""


class ResultState(IntEnum):
    """Values of ResultStateDataType (OPC 40100-1, table 153)."""

    UNDEFINED = 0
    COMPLETED = 1
    PROCESSING = 2
    ABORTED = 3
    FAILED = 4


class TriState(IntEnum):
    """TriStateBooleanDataType."""

    FALSE_0 = 0
    TRUE_1 = 1
    DONTCARE_2 = 2


class SystemState(IntEnum):
    """SystemStateDataType, after SEMI E10: production, stand-by, engineering, scheduled and other downtime."""

    PRD_1 = 1
    SBY_2 = 2
    ENG_3 = 3
    SDT_4 = 4
    UDT_5 = 5
    NST_6 = 6


ENUMERATIONS: Final[tuple[tuple[int, str, int, type[IntEnum]], ...]] = (
    (3014, "TriStateBooleanDataType", 6367, TriState),
    (3023, "SystemStateDataType", 6032, SystemState),
)
"""NodeId, name, NodeId of EnumValues, members."""


def _structure(id_: int, encoding: int, *, base: Id = Base.STRUCTURE) -> Callable[[type[_T]], type[_T]]:
    def declare(made: type[_T]) -> type[_T]:
        made.ROW = (id_, encoding, base)  # type: ignore[attr-defined] # the class is its row
        STRUCTURES.append(made)
        return made

    return declare


def row(structure: type) -> tuple[int, int, Id]:
    """Return NodeId, NodeId of Default Binary, and supertype of a structure."""
    ids: tuple[int, int, Id] = structure.ROW  # type: ignore[attr-defined] # as above
    return ids


def _of(data_type: Id, *, rank: int = -1) -> Any:  # noqa: ANN401 - typed like dataclasses.field: as the field it stands for
    return field(metadata={"data_type": data_type, "rank": rank})


def _optional(data_type: Id, *, rank: int = -1) -> Any:  # noqa: ANN401 - as above
    return field(default=None, metadata={"data_type": data_type, "rank": rank, "optional": True})


def _mask() -> Any:  # noqa: ANN401 - as above
    return field(default=ua.UInt32(0), init=False, repr=False, compare=False, kw_only=True)


# Fields are named as in the standard; Encoding is asyncua's name for the mask of the optional fields that are there.


@_structure(BINARY_ID_BASE, 5027)
@dataclass(kw_only=True)
class BinaryIdBaseDataType:
    """An id with version, hash and description; abstract."""

    Encoding: ua.UInt32 = _mask()
    Id: ua.String = _of(TRIMMED_STRING)
    Version: ua.String | None = _optional(TRIMMED_STRING)
    Hash: ua.ByteString | None = _optional(Base.BYTE_STRING)
    HashAlgorithm: ua.String | None = _optional(Base.STRING)
    Description: ua.LocalizedText | None = _optional(Base.LOCALIZED_TEXT)


@_structure(3008, 5090, base=BINARY_ID_BASE)
@dataclass(kw_only=True)
class ConfigurationIdDataType(BinaryIdBaseDataType):
    """What the station runs: its software and settings."""


@_structure(3002, 5002, base=BINARY_ID_BASE)
@dataclass(kw_only=True)
class RecipeIdExternalDataType(BinaryIdBaseDataType):
    """A model as the plant names it: name and version."""


@_structure(3013, 5268, base=BINARY_ID_BASE)
@dataclass(kw_only=True)
class RecipeIdInternalDataType(BinaryIdBaseDataType):
    """A model as the station names it: `name@version` and the digest of the package."""


@_structure(3007, 5088)
@dataclass(kw_only=True)
class ConfigurationDataType:
    """A configuration and when it was last changed."""

    Encoding: ua.UInt32 = _mask()
    HasTransferableDataOnFile: ua.Boolean | None = _optional(Base.BOOLEAN)
    ExternalId: ConfigurationIdDataType | None = _optional(3008)
    InternalId: ConfigurationIdDataType = _of(3008)
    LastModified: ua.DateTime = _of(Base.UTC_TIME)


@_structure(3016, 5008)
@dataclass(kw_only=True)
class JobIdDataType:
    """Id of a job, given by the station."""

    Id: ua.String = _of(TRIMMED_STRING)


@_structure(3015, 5006)
@dataclass(kw_only=True)
class MeasIdDataType:
    """Id of a measurement, given by the client."""

    Encoding: ua.UInt32 = _mask()
    Id: ua.String = _of(TRIMMED_STRING)
    Description: ua.LocalizedText | None = _optional(Base.LOCALIZED_TEXT)


@_structure(3004, 5013)
@dataclass(kw_only=True)
class PartIdDataType:
    """Id of a part, given by the client."""

    Encoding: ua.UInt32 = _mask()
    Id: ua.String = _of(TRIMMED_STRING)
    Description: ua.LocalizedText | None = _optional(Base.LOCALIZED_TEXT)


@_structure(3003, 5224)
@dataclass(kw_only=True)
class ProductIdDataType:
    """Id of a product, given by the client."""

    Encoding: ua.UInt32 = _mask()
    Id: ua.String = _of(TRIMMED_STRING)
    Description: ua.LocalizedText | None = _optional(Base.LOCALIZED_TEXT)


@_structure(3005, 5016)
@dataclass(kw_only=True)
class ProcessingTimesDataType:
    """When a result was made and what that took, ms."""

    Encoding: ua.UInt32 = _mask()
    StartTime: ua.DateTime = _of(Base.UTC_TIME)
    EndTime: ua.DateTime = _of(Base.UTC_TIME)
    AcquisitionDuration: ua.Double | None = _optional(Base.DURATION)
    ProcessingDuration: ua.Double | None = _optional(Base.DURATION)


@_structure(3021, 5274)
@dataclass(kw_only=True)
class ResultIdDataType:
    """Id of a result."""

    Id: ua.String = _of(TRIMMED_STRING)


@_structure(3006, 5018)
@dataclass(kw_only=True)
class ResultDataType:
    """A result; ResultContent is the application's."""

    Encoding: ua.UInt32 = _mask()
    ResultId: ResultIdDataType = _of(3021)
    HasTransferableDataOnFile: ua.Boolean | None = _optional(Base.BOOLEAN)
    IsPartial: ua.Boolean = _of(Base.BOOLEAN)
    IsSimulated: ua.Boolean | None = _optional(Base.BOOLEAN)
    ResultState: ua.Int32 = _of(RESULT_STATE)
    MeasId: MeasIdDataType | None = _optional(3015)
    PartId: PartIdDataType | None = _optional(3004)
    ExternalRecipeId: RecipeIdExternalDataType | None = _optional(3002)
    InternalRecipeId: RecipeIdInternalDataType = _of(3013)
    ProductId: ProductIdDataType | None = _optional(3003)
    ExternalConfigurationId: ConfigurationIdDataType | None = _optional(3008)
    InternalConfigurationId: ConfigurationIdDataType = _of(3008)
    JobId: JobIdDataType = _of(3016)
    CreationTime: ua.DateTime = _of(Base.UTC_TIME)
    ProcessingTimes: ProcessingTimesDataType | None = _optional(3005)
    ResultContent: list[ua.Variant] | None = _optional(Base.BASE_DATA_TYPE, rank=1)


@_structure(3024, 5278)
@dataclass(kw_only=True)
class SystemStateDescriptionDataType:
    """State of the system after SEMI E10, with a text."""

    Encoding: ua.UInt32 = _mask()
    State: SystemState = _of(3023)
    StateDescription: ua.String | None = _optional(TRIMMED_STRING)


def definition(structure: type) -> list[tuple[str, Id, int, bool]]:
    """Return name, data type, rank and "is optional" of each field of its own."""
    inherited = {name for parent in structure.__mro__[1:-1] for name in getattr(parent, "__annotations__", {})}
    return [
        (one.name, one.metadata["data_type"], one.metadata["rank"], one.metadata.get("optional", False))
        for one in fields(structure)
        if one.metadata and one.name not in inherited
    ]


def register(namespace: int) -> None:
    """Tell asyncua how each structure is encoded, for as long as the process lives."""
    for id_, name, _, members in ENUMERATIONS:
        ua.register_enum(name, ua.NodeId(ua.Int32(id_), ua.Int16(namespace)), members)
    for structure in STRUCTURES:
        id_, encoding, _ = row(structure)
        data_type = ua.NodeId(ua.Int32(id_), ua.Int16(namespace))
        binary = ua.NodeId(ua.Int32(encoding), ua.Int16(namespace))
        ua.register_extension_object(structure.__name__, binary, structure, data_type)
