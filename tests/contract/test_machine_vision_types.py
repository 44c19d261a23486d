"""The types of the companion model as a client reads them, against the tables that they are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua

from adapters.opcua.server.machine_vision.data_types import STRUCTURES, row
from adapters.opcua.server.machine_vision.declarations import Base, Declaration, Id, NodeClass
from adapters.opcua.server.machine_vision.object_types import TYPES
from adapters.simulation.broker import free_port
from schemas.settings import OpcUaServerSettings
from tests.support.opcua import plain_client
from tests.support.vision import served_vision

STANDARD = 2
CLASSES = {
    NodeClass.OBJECT: ua.NodeClass.Object,
    NodeClass.VARIABLE: ua.NodeClass.Variable,
    NodeClass.METHOD: ua.NodeClass.Method,
    NodeClass.OBJECT_TYPE: ua.NodeClass.ObjectType,
    NodeClass.VARIABLE_TYPE: ua.NodeClass.VariableType,
    NodeClass.REFERENCE_TYPE: ua.NodeClass.ReferenceType,
}
TYPE_CLASSES = (NodeClass.OBJECT_TYPE, NodeClass.VARIABLE_TYPE, NodeClass.REFERENCE_TYPE)
ATTRIBUTES = ("NodeClass", "BrowseName", "DisplayName", "IsAbstract", "Symmetric", "DataType", "ValueRank")


def node_id(id_: Id) -> ua.NodeId:
    return ua.NodeId(ua.Int32(id_), ua.Int16(0 if isinstance(id_, Base) else STANDARD))


def is_good(value: ua.DataValue) -> bool:
    return value.StatusCode is not None and value.StatusCode.is_good()


async def read(client: Client, nodes: list[ua.NodeId], attributes: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Return the attributes of each node; None for one that it does not have."""
    wanted = [ua.ReadValueId(node, getattr(ua.AttributeIds, name)) for node in nodes for name in attributes]
    values = await client.uaclient.read(ua.ReadParameters(NodesToRead=wanted))
    held = [value.Value.Value if is_good(value) and value.Value else None for value in values]
    return [tuple(held[start : start + len(attributes)]) for start in range(0, len(held), len(attributes))]


def expected(node: Declaration) -> tuple[Any, ...]:
    has_value = node.data_type is not None
    return (
        CLASSES[node.node_class],
        ua.QualifiedName(node.name, ua.Int16(0 if node.core else STANDARD)),
        ua.LocalizedText(node.name),
        node.abstract if node.node_class in TYPE_CLASSES else None,
        False if node.node_class is NodeClass.REFERENCE_TYPE else None,
        node_id(node.data_type) if node.data_type is not None else None,
        (-1 if node.rank is None else node.rank) if has_value else None,
    )


async def test_types_are_served_as_they_are_declared(tmp_path: Path) -> None:
    """A type that says that it is abstract cannot be had: a client would not show, or make, one of its kind."""
    nodes = [node for declared in TYPES for node, _ in declared.walk()]
    assert any(node.node_class is kind for kind in TYPE_CLASSES for node in nodes)
    structures = [node_id(row(structure)[0]) for structure in STRUCTURES]
    async with served_vision(OpcUaServerSettings(port=free_port()), tmp_path) as station:
        assert station.adapter is not None
        async with plain_client(station.adapter.endpoint) as client:
            served: list[tuple[Any, ...]] = []
            for start in range(0, len(nodes), 100):
                part = [node_id(node.id) for node in nodes[start : start + 100]]
                served += await read(client, part, ATTRIBUTES)
            abstract = await read(client, structures, ("IsAbstract",))
    wrong = [(node.name, one) for node, one in zip(nodes, served, strict=True) if one != expected(node)]
    assert wrong == []
    assert abstract == [(structure.__name__ == "BinaryIdBaseDataType",) for structure in STRUCTURES]


def test_every_kind_of_type_is_looked_at() -> None:
    """Object types, event types among them, the variable type and the reference types."""
    kinds = {declared.node_class for declared in TYPES}
    assert kinds == set(TYPE_CLASSES)


pytestmark = pytest.mark.timeout(60)
