"""From the values of this package to typed variants: what a data type looks like on the wire, and its empty value."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

from asyncua import ua

from adapters.opcua.server.machine_vision.data_types import (
    ENUMERATIONS,
    HANDLE,
    RESULT_STATE,
    STRUCTURES,
    TRIMMED_STRING,
    row,
)
from adapters.opcua.server.machine_vision.declarations import Argument, Base, Id

_MEMBERS: Final = {id_: members for id_, _, _, members in ENUMERATIONS}
STRUCTURE_OF: Final = {row(structure)[0]: structure for structure in STRUCTURES}

_VARIANT_TYPES: Final[dict[Id, ua.VariantType]] = {
    Base.BOOLEAN: ua.VariantType.Boolean,
    Base.INT32: ua.VariantType.Int32,
    RESULT_STATE: ua.VariantType.Int32,
    Base.UINT32: ua.VariantType.UInt32,
    HANDLE: ua.VariantType.UInt32,
    Base.STRING: ua.VariantType.String,
    TRIMMED_STRING: ua.VariantType.String,
    Base.LOCALIZED_TEXT: ua.VariantType.LocalizedText,
    Base.NODE_ID: ua.VariantType.NodeId,
    Base.UTC_TIME: ua.VariantType.DateTime,
    Base.DATE_TIME: ua.VariantType.DateTime,
    Base.BYTE_STRING: ua.VariantType.ByteString,
    Base.ID_TYPE: ua.VariantType.Int32,
    Base.NUMERIC_RANGE: ua.VariantType.String,
    Base.ARGUMENT: ua.VariantType.ExtensionObject,
    Base.ENUM_VALUE: ua.VariantType.ExtensionObject,
    Base.BASE_DATA_TYPE: ua.VariantType.Variant,
    **dict.fromkeys(STRUCTURE_OF, ua.VariantType.ExtensionObject),
    **dict.fromkeys(_MEMBERS, ua.VariantType.Int32),
}
_EMPTY: Final[dict[ua.VariantType, object]] = {
    ua.VariantType.Boolean: False,
    ua.VariantType.Int32: 0,
    ua.VariantType.UInt32: 0,
    ua.VariantType.String: "",
    ua.VariantType.DateTime: datetime(1601, 1, 1, tzinfo=UTC),  # the first moment that a DateTime can tell
}


# Any below: what a variant holds is as wide as OPC UA.
def variant(data_type: Id, value: Any, *, rank: int = -1) -> ua.Variant:  # noqa: ANN401 - as above
    """Return `value` as a variant of the type that `data_type` is encoded as."""
    return ua.Variant(value, _VARIANT_TYPES[data_type], is_array=rank > 0)


def empty(data_type: Id, *, rank: int = -1) -> Any:  # noqa: ANN401 - as above
    """Return the value that says nothing: what a method returns beside an error."""
    if rank > 0:
        return []
    if data_type in _MEMBERS:
        return next(iter(_MEMBERS[data_type]))
    structure = STRUCTURE_OF.get(data_type)
    if structure is None:
        return _EMPTY[_VARIANT_TYPES[data_type]]
    needed = [one for one in fields(structure) if one.metadata and not one.metadata.get("optional", False)]
    return structure(**{one.name: empty(one.metadata["data_type"], rank=one.metadata["rank"]) for one in needed})


def accepts(argument: Argument, given: ua.Variant) -> bool:
    """Tell whether `given` can be that input argument; a null is an empty text, structure or array."""
    if given.Value is None:
        return argument.rank > 0 or argument.data_type in STRUCTURE_OF or argument.data_type == Base.STRING
    if given.is_array is not (argument.rank > 0):
        return False
    if argument.data_type == Base.BASE_DATA_TYPE:
        return True
    structure = STRUCTURE_OF.get(argument.data_type)
    if structure is not None:
        return type(given.Value) is structure or _is_no_structure(given)
    return given.VariantType is _VARIANT_TYPES[argument.data_type]


def received(argument: Argument, given: ua.Variant) -> Any:  # noqa: ANN401 - as above
    """Return the value of an accepted argument; of an array its elements as they came."""
    if given.Value is None or _is_no_structure(given):
        return empty(argument.data_type, rank=argument.rank)
    if argument.rank > 0:
        return [one.Value if isinstance(one, ua.Variant) else one for one in given.Value]
    return given.Value


def _is_no_structure(given: ua.Variant) -> bool:
    """Tell whether it is an ExtensionObject of no type and without a body: a null one (OPC 10000-6, 5.2.2.15)."""
    return not given.is_array and bool(given.Value == ua.ExtensionObject())
