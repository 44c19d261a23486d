"""The words in which the tables of this package declare nodes of OPC 40100-1.

A table is a tree: a type, its members, their members. An `int` is a numeric NodeId of the standard's own namespace, a
`Base` one of the OPC UA namespace. References that follow from the tree (component, property, subtype, type
definition, modelling rule) are not written down; the others are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import Final, TypeAlias

NAMESPACE_URI: Final = "http://opcfoundation.org/UA/MachineVision"
VERSION: Final = "1.0.0"
PUBLISHED: Final = datetime(2019, 7, 11, 10, 18, 27, tzinfo=UTC)


class Base(IntEnum):
    """Nodes of the OPC UA namespace that the tables refer to (OPC 10000-3, -5, -6)."""

    BOOLEAN = 1
    INT32 = 6
    UINT32 = 7
    STRING = 12
    DATE_TIME = 13
    BYTE_STRING = 15
    NODE_ID = 17
    LOCALIZED_TEXT = 21
    STRUCTURE = 22
    BASE_DATA_TYPE = 24
    ENUMERATION = 29
    ID_TYPE = 256
    DURATION = 290
    NUMERIC_RANGE = 291
    UTC_TIME = 294
    ARGUMENT = 296
    ENUM_VALUE = 7594
    BASE_OBJECT_TYPE = 58
    FOLDER_TYPE = 61
    BASE_DATA_VARIABLE_TYPE = 63
    PROPERTY_TYPE = 68
    DATA_TYPE_ENCODING_TYPE = 76
    BASE_EVENT_TYPE = 2041
    STATE_TYPE = 2307
    TRANSITION_TYPE = 2310
    TRANSITION_EVENT_TYPE = 2311
    FINITE_STATE_VARIABLE_TYPE = 2760
    FINITE_TRANSITION_VARIABLE_TYPE = 2767
    FINITE_STATE_MACHINE_TYPE = 2771
    SERVER = 2253
    OBJECTS_FOLDER = 85
    SERVER_NAMESPACES = 11715
    NAMESPACE_METADATA_TYPE = 11616
    NON_HIERARCHICAL_REFERENCES = 32
    ORGANIZES = 35
    HAS_MODELLING_RULE = 37
    HAS_ENCODING = 38
    HAS_TYPE_DEFINITION = 40
    HAS_SUBTYPE = 45
    HAS_PROPERTY = 46
    HAS_COMPONENT = 47
    HAS_NOTIFIER = 48
    FROM_STATE = 51
    TO_STATE = 52
    HAS_CAUSE = 53
    HAS_EFFECT = 54
    HAS_SUB_STATE_MACHINE = 117


Id: TypeAlias = int
"""A NodeId: of the OPC UA namespace where it is a `Base`, else of the standard's."""


class NodeClass(Enum):
    """Node classes that the tables use; the value is the element's name in a NodeSet."""

    OBJECT = "UAObject"
    VARIABLE = "UAVariable"
    METHOD = "UAMethod"
    OBJECT_TYPE = "UAObjectType"
    VARIABLE_TYPE = "UAVariableType"
    DATA_TYPE = "UADataType"
    REFERENCE_TYPE = "UAReferenceType"


class Rule(IntEnum):
    """Modelling rules, by their NodeId (OPC 10000-3, 6.4.4)."""

    MANDATORY = 78
    OPTIONAL = 80
    OPTIONAL_PLACEHOLDER = 11508


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a method; `rank` 1 is an array."""

    name: str
    data_type: Id
    rank: int = -1


@dataclass(frozen=True, slots=True)
class Reference:
    """A forward reference that does not follow from the tree."""

    kind: Id
    target: int


@dataclass(frozen=True, slots=True)
class Declaration:
    """One node. `base`: supertype of a type, type definition of an object or variable. `core`: name in namespace 0."""

    id: int
    name: str
    node_class: NodeClass
    base: Id | None = None
    rule: Rule | None = None
    data_type: Id | None = None
    rank: int | None = None
    value: int | tuple[Argument, ...] | None = None
    members: tuple[Declaration, ...] = ()
    references: tuple[Reference, ...] = ()
    abstract: bool = False
    core: bool = False

    @property
    def is_property(self) -> bool:
        """Tell whether its parent holds it by HasProperty."""
        return self.base is Base.PROPERTY_TYPE

    def walk(self, parent: Declaration | None = None) -> Iterator[tuple[Declaration, Declaration | None]]:
        """Yield this node and all below it, each with its parent; parents first."""
        yield self, parent
        for member in self.members:
            yield from member.walk(self)

    def member(self, name: str) -> Declaration:
        """Return the member of that name. Raises KeyError."""
        for member in self.members:
            if member.name == name:
                return member
        raise KeyError(name)


def object_type(id_: int, name: str, base: Id, *members: Declaration) -> Declaration:
    """Declare an object type."""
    return Declaration(id_, name, NodeClass.OBJECT_TYPE, base, members=members)


def instance(id_: int, name: str, type_: Id, rule: Rule | None = Rule.MANDATORY) -> Declaration:
    """Declare an object below a type."""
    return Declaration(id_, name, NodeClass.OBJECT, type_, rule)


def variable(
    id_: int,
    name: str,
    data_type: Id,
    rule: Rule = Rule.MANDATORY,
    *,
    type_: Id = Base.BASE_DATA_VARIABLE_TYPE,
    rank: int = -1,
) -> Declaration:
    """Declare a variable below a type."""
    return Declaration(id_, name, NodeClass.VARIABLE, type_, rule, data_type, rank)


def event_field(id_: int, name: str, data_type: Id, rule: Rule = Rule.MANDATORY, *, rank: int = -1) -> Declaration:
    """Declare a field of an event type."""
    return variable(id_, name, data_type, rule, type_=Base.PROPERTY_TYPE, rank=rank)


def method(
    id_: int,
    name: str,
    *,
    inputs: tuple[int, tuple[Argument, ...]] | None = None,
    outputs: tuple[int, tuple[Argument, ...]],
    rule: Rule = Rule.MANDATORY,
) -> Declaration:
    """Declare a method with its argument lists, each with the NodeId of its property."""
    lists = [("InputArguments", inputs), ("OutputArguments", outputs)]
    arguments = tuple(
        Declaration(
            of_list[0],
            list_name,
            NodeClass.VARIABLE,
            Base.PROPERTY_TYPE,
            Rule.MANDATORY,
            Base.ARGUMENT,
            1,
            of_list[1],
            core=True,
        )
        for list_name, of_list in lists
        if of_list is not None
    )
    return Declaration(id_, name, NodeClass.METHOD, rule=rule, members=arguments)


def number(id_: int, name: str, value: int) -> Declaration:
    """Declare StateNumber or TransitionNumber."""
    return Declaration(
        id_, name, NodeClass.VARIABLE, Base.PROPERTY_TYPE, Rule.MANDATORY, Base.UINT32, -1, value, core=True
    )


def typed(declaration: Declaration, *references: Reference) -> Declaration:
    """Return `declaration` with further references."""
    return replace(declaration, references=(*declaration.references, *references))
