"""The tables of the OPC 40100-1 subset against the standard's own NodeSet, where that lies beside the project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest

from adapters.opcua.server.machine_vision.data_types import ENUMERATIONS, SIMPLE_TYPES, STRUCTURES, definition, row
from adapters.opcua.server.machine_vision.declarations import (
    NAMESPACE_URI,
    VERSION,
    Base,
    Declaration,
    Id,
    NodeClass,
)
from adapters.opcua.server.machine_vision.object_types import TYPES

NODESET = Path(__file__).parents[3] / "shared" / "data" / "nodesets" / "Opc.Ua.MachineVision.NodeSet2.xml"
SCHEMA = "{http://opcfoundation.org/UA/2011/03/UANodeSet.xsd}"
VALUES = "{http://opcfoundation.org/UA/2008/02/Types.xsd}"


class Standard(NamedTuple):
    """The NodeSet: its nodes, its references (source, type, target), its aliases."""

    nodes: dict[str, ET.Element]
    references: set[tuple[str, str, str]]
    aliases: dict[str, str]


@pytest.fixture(scope="module")
def standard() -> Standard:
    """Read the NodeSet once; every reference forward."""
    if not NODESET.is_file():
        pytest.skip(f"the standard's NodeSet is not at {NODESET}")
    root = ET.parse(NODESET).getroot()
    aliases = {alias.get("Alias", ""): alias.text or "" for alias in root.iter(f"{SCHEMA}Alias")}
    nodes = {element.get("NodeId", ""): element for element in root if element.tag.startswith(f"{SCHEMA}UA")}
    references = set()
    for node_id, element in nodes.items():
        for reference in element.iter(f"{SCHEMA}Reference"):
            kind = reference.get("ReferenceType", "")
            ends = (node_id, reference.text or "")
            source, target = ends if reference.get("IsForward", "true") == "true" else ends[::-1]
            references.add((source, aliases.get(kind, kind), target))
    model = next(root.iter(f"{SCHEMA}Model"))
    assert (model.get("ModelUri"), model.get("Version")) == (NAMESPACE_URI, VERSION)
    return Standard(nodes, references, aliases)


def written(node_id: Id) -> str:
    """Return a NodeId as the NodeSet writes it."""
    return f"i={node_id.value}" if isinstance(node_id, Base) else f"ns=1;i={node_id}"


def declared() -> Iterator[tuple[Declaration, Declaration | None]]:
    for one in TYPES:
        yield from one.walk()


def every_id() -> list[int]:
    ids = [node.id for node, _ in declared()] + [id_ for id_, _, _ in SIMPLE_TYPES]
    ids += [one for id_, _, values, _ in ENUMERATIONS for one in (id_, values)]
    return ids + [one for structure in STRUCTURES for one in row(structure)[:2]]


def test_every_id_is_declared_once_and_every_base_node_is_what_it_is_called() -> None:
    """A slip in a table shows here, not as a node that hides another; the names are those of the library's own list."""
    from asyncua import ua  # noqa: PLC0415 - nothing else here needs it

    assert len(every_id()) == len(set(every_id()))
    for base in Base:
        known = ua.ObjectIdNames[base.value].replace("_", "").lower()
        assert known in (base.name.replace("_", "").lower(), f"{base.name.replace('_', '').lower()}type")


def test_every_node_has_class_name_type_rank_and_rule_of_the_standard(standard: Standard) -> None:
    """Each row against its element."""
    for node, _ in declared():
        element = standard.nodes[written(node.id)]
        assert element.tag == f"{SCHEMA}{node.node_class.value}", node
        assert element.get("BrowseName") == (node.name if node.core else f"1:{node.name}"), node
        assert (element.get("IsAbstract") == "true") is node.abstract, node
        if node.data_type is not None:
            data_type = element.get("DataType", "i=24")
            assert standard.aliases.get(data_type, data_type) == written(node.data_type), node
        if node.rank is not None:
            assert int(element.get("ValueRank", "-1")) == node.rank, node


def test_every_reference_is_one_of_the_standard(standard: Standard) -> None:
    """Those that follow from the trees and those that are written down."""
    for node, parent in declared():
        mine = written(node.id)
        expected = {(mine, written(reference.kind), written(reference.target)) for reference in node.references}
        if node.rule is not None:
            expected.add((mine, written(Base.HAS_MODELLING_RULE), f"i={node.rule.value}"))
        if parent is not None:
            kind = Base.HAS_PROPERTY if node.is_property else Base.HAS_COMPONENT
            expected.add((written(parent.id), written(kind), mine))
        if node.base is not None and node.node_class in {NodeClass.OBJECT, NodeClass.VARIABLE}:
            expected.add((mine, written(Base.HAS_TYPE_DEFINITION), written(node.base)))
        elif node.base is not None:
            expected.add((written(node.base), written(Base.HAS_SUBTYPE), mine))
        assert expected <= standard.references, (node.name, expected - standard.references)


def test_every_transition_has_all_causes_and_effects_of_the_standard(standard: Standard) -> None:
    """A subset of the transitions, but each of them whole."""
    kinds = (Base.FROM_STATE, Base.TO_STATE, Base.HAS_CAUSE, Base.HAS_EFFECT)
    for node, _ in declared():
        if node.base is Base.TRANSITION_TYPE:
            mine = {(written(one.kind), written(one.target)) for one in node.references}
            theirs = {
                (kind, target)
                for source, kind, target in standard.references
                if source == written(node.id) and kind in {written(one) for one in kinds}
            }
            assert mine == theirs, node.name


def test_every_value_and_argument_list_is_that_of_the_standard(standard: Standard) -> None:
    """State and transition numbers; name, type and rank of each argument, in order."""
    for node, _ in declared():
        element = standard.nodes[written(node.id)]
        if isinstance(node.value, int):
            assert element.findtext(f"{SCHEMA}Value/{VALUES}UInt32") == str(node.value), node
        elif node.value is not None:
            arguments = [
                (
                    argument.findtext(f"{VALUES}Name"),
                    argument.findtext(f"{VALUES}DataType/{VALUES}Identifier"),
                    int(argument.findtext(f"{VALUES}ValueRank") or -1),
                )
                for argument in element.iter(f"{VALUES}Argument")
            ]
            assert [(one.name, written(one.data_type), one.rank) for one in node.value] == arguments, node


def test_every_method_has_the_argument_lists_of_the_standard(standard: Standard) -> None:
    """No list is left out, and none added."""
    for node, _ in declared():
        if node.node_class is NodeClass.METHOD:
            theirs = {
                target
                for source, kind, target in standard.references
                if source == written(node.id) and kind == written(Base.HAS_PROPERTY)
            }
            assert {written(member.id) for member in node.members} == theirs, node.name


def test_every_mandatory_member_of_a_used_type_is_there(standard: Standard) -> None:
    """A subset leaves out what is optional, nothing else; states and transitions have no rule."""
    members = {written(Base.HAS_COMPONENT), written(Base.HAS_PROPERTY)}
    mandatory = {
        source
        for source, kind, target in standard.references
        if kind == written(Base.HAS_MODELLING_RULE) and target == "i=78"
    }
    for one in TYPES:
        theirs = {
            target
            for source, kind, target in standard.references
            if source == written(one.id) and kind in members and target in mandatory
        }
        assert theirs <= {written(member.id) for member in one.members}, one.name


def test_every_data_type_is_that_of_the_standard(standard: Standard) -> None:
    """Names, supertypes, encodings, fields in order, which of them are optional; members of enumerations."""
    subtype, encoding, values = (written(kind) for kind in (Base.HAS_SUBTYPE, Base.HAS_ENCODING, Base.HAS_PROPERTY))
    for id_, name, base in SIMPLE_TYPES:
        assert standard.nodes[written(id_)].get("BrowseName") == f"1:{name}"
        assert (written(base), subtype, written(id_)) in standard.references
    for id_, name, values_id, members in ENUMERATIONS:
        element = standard.nodes[written(id_)]
        assert element.get("BrowseName") == f"1:{name}"
        shown = [(field.get("Name"), int(field.get("Value", ""))) for field in element.iter(f"{SCHEMA}Field")]
        assert [(member.name, member.value) for member in members] == shown
        assert (written(id_), values, written(values_id)) in standard.references
    for structure in STRUCTURES:
        id_, encoding_id, above = row(structure)
        element = standard.nodes[written(id_)]
        assert element.get("BrowseName") == f"1:{structure.__name__}"
        assert (written(above), subtype, written(id_)) in standard.references
        assert (written(id_), encoding, written(encoding_id)) in standard.references
        assert standard.nodes[written(encoding_id)].get("BrowseName") == "Default Binary"
        fields = [
            (
                field.get("Name"),
                standard.aliases.get(field.get("DataType", "i=24"), field.get("DataType", "i=24")),
                int(field.get("ValueRank", "-1")),
                field.get("IsOptional") == "true",
            )
            for field in element.iter(f"{SCHEMA}Field")
        ]
        mine = [(name, written(kind), rank, optional) for name, kind, rank, optional in definition(structure)]
        assert mine == fields, structure
