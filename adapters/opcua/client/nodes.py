"""From the NodeIds of `[opcua.client]` to nodes of the connected server, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from asyncua import ua

from adapters.opcua.client.connection import PlcConnection
from adapters.opcua.client.diagnosis import Diagnosis, PlcFault, PlcUnusable, status_name
from schemas.settings import OpcUaClientSettings
from service.errors import UsageError

SOURCES: Final = ("trigger", "part_id", "image_uri", "event_id")
SINKS: Final = ("verdict", "reject", "score", "result_part_id", "result_trigger_id", "result_seq", "heartbeat")
_REQUIRED: Final = ("trigger", "result_seq")
_STATION: Final = "{station}"

_ATTRIBUTES: Final = (
    ua.AttributeIds.NodeClass,
    ua.AttributeIds.DataType,
    ua.AttributeIds.ValueRank,
    ua.AttributeIds.UserAccessLevel,
    ua.AttributeIds.Value,
)
_ENUMERATION: Final = 29  # DataType Enumeration of namespace 0: Int32 on the wire (OPC 10000-6, 5.2.4)
_LAST_BUILT_IN: Final = 25  # identifiers up to here are built-in types (OPC 10000-6, 5.1.2)
_ABSTRACT: Final = {int(ua.VariantType.Variant), 26, 27, 28}  # BaseDataType, Number, Integer, UInteger
_DEEPEST_TYPE: Final = 10
_LARGEST_ID: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Address:
    """A NodeId as the settings name it: by namespace index, or by namespace URI, which survives renumbering."""

    word: str
    text: str
    node_id: ua.NodeId
    namespace_uri: str | None

    @classmethod
    def parse(cls, word: str, text: str) -> Address:
        """Read `ns=2;s=...` or `nsu=URI;s=...`. Raises UsageError where the text is neither."""
        try:
            parsed = ua.NodeId.from_string(text.strip())
        except (ua.UaError, ValueError) as exc:
            raise UsageError(f"opcua.client.{word}: {text!r} is no NodeId like ns=2;s=Trigger") from exc
        uri = parsed.NamespaceUri if isinstance(parsed, ua.ExpandedNodeId) else None
        if uri == "" or not 0 <= parsed.NamespaceIndex <= 0xFFFF:
            raise UsageError(f"opcua.client.{word}: {text!r} names no namespace")
        if isinstance(parsed.Identifier, int) and not 0 <= parsed.Identifier <= _LARGEST_ID:
            raise UsageError(f"opcua.client.{word}: {text!r}: i is no number from 0 to {_LARGEST_ID}")
        return cls(word, text, parsed, uri)

    def in_namespace(self, index: int) -> ua.NodeId:
        """Return the NodeId with the namespace that it has on this server, in this session."""
        return ua.NodeId(self.node_id.Identifier, ua.Int16(index), self.node_id.NodeIdType)


def read_mapping(settings: OpcUaClientSettings, *, station: str) -> Mapping[str, Address]:
    """Return the address of every word that is mapped; `{station}` in one stands for the station's id.

    Raises:
        UsageError: one that must be there is not, or one is no NodeId.
    """
    texts = {word: getattr(settings, word).replace(_STATION, station) for word in (*SOURCES, *SINKS)}
    missing = [word for word in _REQUIRED if not texts[word]]
    if missing:
        raise UsageError(f"opcua.client.{missing[0]}: must be mapped where an endpoint is named")
    mapping = {word: Address.parse(word, text) for word, text in texts.items() if text}
    twice = {address.text for address in mapping.values()}
    if len(twice) < len(mapping):
        raise UsageError("opcua.client: two words are mapped to the same node")
    return mapping


def written_nodes(settings: OpcUaClientSettings, station: str) -> list[str]:
    """Return the addresses of the nodes that a station writes. Raises UsageError, as `read_mapping`."""
    mapping = read_mapping(settings, station=station)
    return [mapping[word].text for word in SINKS if word in mapping]


@dataclass(frozen=True, slots=True)
class PlcNode:
    """A node of the connected server, fit for its use; `value` is what it held when it was looked at."""

    word: str
    node_id: ua.NodeId
    type: ua.VariantType
    value: object


async def resolve(connection: PlcConnection, mapping: Mapping[str, Address]) -> Mapping[str, PlcNode]:
    """Find every mapped node and check that it is a scalar variable that may be read or written.

    Raises:
        PlcUnusable: with a diagnosis for each node that cannot be used.
    """
    ((uris,),) = await connection.read([ua.NodeId(ua.Int32(ua.ObjectIds.Server_NamespaceArray))])
    namespaces: list[str] = list(uris.Value.Value or ()) if uris.Value is not None else []
    wrong: list[Diagnosis] = []
    found: dict[Address, ua.NodeId] = {}
    words: dict[ua.NodeId, str] = {}
    for address in mapping.values():
        index = _namespace(address, namespaces)
        if isinstance(index, Diagnosis):
            wrong.append(index)
            continue
        node_id = found[address] = address.in_namespace(index)
        other = words.setdefault(node_id, address.word)
        if other != address.word:
            wrong.append(Diagnosis(PlcFault.SAME_NODE, f"{address.text} is the node of {other}, too", address.word))
    rows = await connection.read(list(found.values()), _ATTRIBUTES) if found else []
    nodes: dict[str, PlcNode] = {}
    for (address, node_id), row in zip(found.items(), rows, strict=True):
        checked = _check(address, row) or await _type(connection, address, row)
        if isinstance(checked, Diagnosis):
            wrong.append(checked)
        else:
            value = row[-1].Value
            nodes[address.word] = PlcNode(address.word, node_id, checked, None if value is None else value.Value)
    if wrong:
        raise PlcUnusable(*wrong)
    return nodes


def _namespace(address: Address, namespaces: Sequence[str]) -> int | Diagnosis:
    if address.namespace_uri is not None:
        if address.namespace_uri in namespaces:
            return namespaces.index(address.namespace_uri)
        known = ", ".join(namespaces[1:]) or "none"
        text = f"{address.text}: the server has no namespace {address.namespace_uri}; it has {known}"
        return Diagnosis(PlcFault.NAMESPACE_UNKNOWN, text, address.word)
    index = int(address.node_id.NamespaceIndex)
    if index < len(namespaces):
        return index
    text = f"{address.text}: the server has namespaces 0 to {len(namespaces) - 1}"
    return Diagnosis(PlcFault.NAMESPACE_UNKNOWN, text, address.word)


def _check(address: Address, row: Sequence[ua.DataValue]) -> Diagnosis | None:
    node_class, _, value_rank, access, value = row
    word, text = address.word, address.text
    if node_class.StatusCode is not None and not node_class.StatusCode.is_good():
        status = status_name(node_class.StatusCode)
        fault = PlcFault.ACCESS_DENIED if "Denied" in status else PlcFault.NODE_UNKNOWN
        return Diagnosis(fault, f"{text}: {status}", word)
    if _held(node_class) != ua.NodeClass.Variable:
        return Diagnosis(PlcFault.NOT_A_VARIABLE, f"{text} is no variable", word)
    reads = word in SOURCES
    level = _held(access)  # not every server knows this attribute; then a write tells
    needed = ua.AccessLevel.CurrentRead if reads else ua.AccessLevel.CurrentWrite
    denied = value.StatusCode is not None and status_name(value.StatusCode) in {
        "BadUserAccessDenied",
        "BadNotReadable",
    }
    if (isinstance(level, int) and not level >> needed & 1) or (reads and denied):
        return Diagnosis(PlcFault.ACCESS_DENIED, f"{text} may not be {'read' if reads else 'written'} by us", word)
    rank = _held(value_rank)
    if isinstance(rank, int) and rank >= 0:
        return Diagnosis(PlcFault.TYPE_UNSUITABLE, f"{text} is an array", word)
    return None


async def _type(connection: PlcConnection, address: Address, row: Sequence[ua.DataValue]) -> ua.VariantType | Diagnosis:
    """Return the built-in type that the server declares for a variable, looked for among the supertypes."""
    declared, variant = _held(row[1]), row[-1].Value
    for _ in range(_DEEPEST_TYPE):
        if not isinstance(declared, ua.NodeId):
            break
        if declared.NamespaceIndex == 0 and isinstance(declared.Identifier, int):
            if declared.Identifier == _ENUMERATION:
                return ua.VariantType.Int32
            if declared.Identifier in _ABSTRACT:
                break
            if declared.Identifier <= _LAST_BUILT_IN:
                return ua.VariantType(declared.Identifier)
        declared = await _supertype(connection, declared)
    if variant is not None and variant.VariantType is not ua.VariantType.Null:  # an abstract type: what it holds now
        return variant.VariantType
    return Diagnosis(PlcFault.TYPE_UNSUITABLE, f"{address.text} has no type that says what it holds", address.word)


async def _supertype(connection: PlcConnection, data_type: ua.NodeId) -> ua.NodeId | None:
    description = ua.BrowseDescription(
        NodeId=data_type,
        BrowseDirection=ua.BrowseDirection.Inverse,
        ReferenceTypeId=ua.NodeId(ua.Int32(ua.ObjectIds.HasSubtype)),
        IncludeSubtypes=True,
        NodeClassMask=ua.UInt32(ua.NodeClass.DataType),
        ResultMask=ua.UInt32(ua.BrowseResultMask.None_),
    )
    references = await connection.browse(description)
    return references[0].NodeId if references else None


def _held(value: ua.DataValue) -> object:
    return None if value.Value is None else value.Value.Value
