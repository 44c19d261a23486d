"""Nodes from the tables, in the address space of a server that is not started yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from asyncua import Server, ua
from asyncua.server.address_space import AttributeValue

from adapters.opcua.server.machine_vision.data_types import (
    ENUMERATIONS,
    SIMPLE_TYPES,
    STRUCTURES,
    definition,
    register,
    row,
)
from adapters.opcua.server.machine_vision.declarations import NAMESPACE_URI, Base, Declaration, Id, NodeClass
from adapters.opcua.server.machine_vision.object_types import TYPES
from adapters.opcua.server.machine_vision.values import variant

_NODE_CLASSES: Final = {
    NodeClass.OBJECT: (ua.NodeClass.Object, ua.ObjectAttributes),
    NodeClass.VARIABLE: (ua.NodeClass.Variable, ua.VariableAttributes),
    NodeClass.METHOD: (ua.NodeClass.Method, ua.MethodAttributes),
    NodeClass.OBJECT_TYPE: (ua.NodeClass.ObjectType, ua.ObjectTypeAttributes),
    NodeClass.VARIABLE_TYPE: (ua.NodeClass.VariableType, ua.VariableTypeAttributes),
    NodeClass.DATA_TYPE: (ua.NodeClass.DataType, ua.DataTypeAttributes),
    NodeClass.REFERENCE_TYPE: (ua.NodeClass.ReferenceType, ua.ReferenceTypeAttributes),
}


_TYPES: Final = (NodeClass.OBJECT_TYPE, NodeClass.VARIABLE_TYPE, NodeClass.REFERENCE_TYPE)


class NodeSpace:
    """Adds nodes of the standard's namespace and of our own to one server."""

    def __init__(self, server: Server, *, standard: int, own: int) -> None:
        self._server = server
        self._standard = ua.Int16(standard)
        self._own = ua.Int16(own)

    @classmethod
    async def create(cls, server: Server, *, own: int) -> NodeSpace:
        """Register the standard's namespace and add its types to `server`."""
        space = cls(server, standard=await server.register_namespace(NAMESPACE_URI), own=own)
        register(space._standard)
        space._add_data_types()
        for declared in TYPES:
            space._add_type(declared)
        for declared in TYPES:
            for node, _ in declared.walk():
                space._refer(node)
        return space

    def of(self, id_: Id) -> ua.NodeId:
        """Return the NodeId of a node in the tables."""
        return ua.NodeId(ua.Int32(id_), ua.Int16(0) if isinstance(id_, Base) else self._standard)

    def own(self, text: str) -> ua.NodeId:
        """Return a NodeId of our namespace."""
        return ua.NodeId(ua.String(text), self._own)

    def own_name(self, text: str) -> ua.QualifiedName:
        """Return a browse name of our namespace."""
        return ua.QualifiedName(text, self._own)

    def standard_name(self, declared: Declaration) -> ua.QualifiedName:
        """Return the browse name of a declaration."""
        return ua.QualifiedName(declared.name, ua.Int16(0) if declared.core else self._standard)

    def add(
        self,
        node_id: ua.NodeId,
        name: ua.QualifiedName,
        node_class: NodeClass,
        *,
        parent: ua.NodeId,
        by: Id,
        type_: ua.NodeId | None = None,
        **attributes: Any,  # noqa: ANN401 - the attributes of any node class, by their names in OPC 10000-4
    ) -> ua.NodeId:
        """Add one node below `parent`; return its NodeId. Raises UaError where that cannot be."""
        their_class, make_attributes = _NODE_CLASSES[node_class]
        given = make_attributes()
        given.DisplayName = ua.LocalizedText(name.Name)
        for attribute, value in attributes.items():
            setattr(given, attribute, value)
        item = ua.AddNodesItem(
            ParentNodeId=parent,
            ReferenceTypeId=self.of(by),
            RequestedNewNodeId=node_id,
            BrowseName=name,
            NodeClass=their_class,
            NodeAttributes=given,
            TypeDefinition=type_ or ua.NodeId(),
        )
        (result,) = self._server.iserver.node_mgt_service.add_nodes([item])
        result.StatusCode.check()
        return node_id

    def link(self, source: ua.NodeId, kind: Id, target: ua.NodeId, *, inverse: bool = True) -> None:
        """Add a reference, by default in both directions. Raises UaError where an end is missing."""
        ends = [(source, target, True), (target, source, False)]
        items = [
            ua.AddReferencesItem(
                SourceNodeId=start,
                ReferenceTypeId=self.of(kind),
                IsForward=forward,
                TargetNodeId=end,
                TargetNodeClass=ua.NodeClass.Unspecified,
            )
            for start, end, forward in (ends if inverse else ends[:1])
        ]
        for status in self._server.iserver.node_mgt_service.add_references(items):
            status.check()

    def arguments(self, declared: Declaration) -> ua.Variant:
        """Return the value of InputArguments or OutputArguments."""
        assert isinstance(declared.value, tuple)
        texts = [
            ua.Argument(
                Name=ua.String(one.name),
                DataType=self.of(one.data_type),
                ValueRank=ua.Int32(one.rank),
                ArrayDimensions=[],
            )
            for one in declared.value
        ]
        return variant(Base.ARGUMENT, texts, rank=1)

    def _add_type(self, declared: Declaration) -> None:
        for node, parent in declared.walk():
            by = Base.HAS_PROPERTY if node.is_property else Base.HAS_COMPONENT
            if parent is None:
                by = Base.HAS_SUBTYPE
            above = node.base if parent is None else parent.id
            assert above is not None
            has_type = node.node_class in {NodeClass.OBJECT, NodeClass.VARIABLE} and node.base is not None
            attributes: dict[str, Any] = {"IsAbstract": node.abstract} if node.node_class in _TYPES else {}
            if node.node_class is NodeClass.REFERENCE_TYPE:
                attributes["Symmetric"] = False
            if node.data_type is not None:
                attributes |= {"DataType": self.of(node.data_type), "ValueRank": -1 if node.rank is None else node.rank}
            if isinstance(node.value, int):
                attributes["Value"] = variant(Base.UINT32, node.value)
            elif node.value is not None:
                attributes["Value"] = self.arguments(node)
            self.add(
                self.of(node.id),
                self.standard_name(node),
                node.node_class,
                parent=self.of(above),
                by=by,
                type_=self.of(node.base) if has_type and node.base is not None else None,
                **attributes,
            )

    def _refer(self, node: Declaration) -> None:
        for reference in node.references:
            self.link(self.of(node.id), reference.kind, self.of(reference.target))
        if node.rule is not None:
            rule = ua.NodeId(ua.Int32(node.rule))
            self.link(self.of(node.id), Base.HAS_MODELLING_RULE, rule, inverse=False)

    def _add_data_types(self) -> None:
        for id_, name, base in SIMPLE_TYPES:
            self._add_data_type(id_, name, base, None)
        for id_, name, values_id, members in ENUMERATIONS:
            named = [
                ua.EnumField(ua.Int64(one), ua.LocalizedText(one.name), Name=ua.String(one.name)) for one in members
            ]
            self._add_data_type(id_, name, Base.ENUMERATION, ua.EnumDefinition(named))
            values = [ua.EnumValueType(ua.Int64(one), ua.LocalizedText(one.name)) for one in members]
            self.add(
                self.of(values_id),
                ua.QualifiedName("EnumValues", ua.Int16(0)),
                NodeClass.VARIABLE,
                parent=self.of(id_),
                by=Base.HAS_PROPERTY,
                type_=self.of(Base.PROPERTY_TYPE),
                DataType=self.of(Base.ENUM_VALUE),
                ValueRank=1,
                Value=variant(Base.ENUM_VALUE, values, rank=1),
            )
        for structure in STRUCTURES:
            id_, encoding, above = row(structure)
            self._add_data_type(id_, structure.__name__, above, self._definition(structure))
            self.add(
                self.of(encoding),
                ua.QualifiedName("Default Binary", ua.Int16(0)),
                NodeClass.OBJECT,
                parent=self.of(id_),
                by=Base.HAS_ENCODING,
                type_=self.of(Base.DATA_TYPE_ENCODING_TYPE),
            )

    def _add_data_type(self, id_: int, name: str, base: Id, content: ua.DataTypeDefinition | None) -> None:
        qualified = ua.QualifiedName(name, self._standard)
        node_id = self.add(
            self.of(id_),
            qualified,
            NodeClass.DATA_TYPE,
            parent=self.of(base),
            by=Base.HAS_SUBTYPE,
            IsAbstract=name == "BinaryIdBaseDataType",
        )
        if content is not None:
            value = ua.DataValue(ua.Variant(content, ua.VariantType.ExtensionObject))
            attributes = self._server.iserver.aspace[node_id].attributes
            attributes[ua.AttributeIds.DataTypeDefinition] = AttributeValue(value)

    def _definition(self, structure: type) -> ua.StructureDefinition:
        """Return what a client needs to decode the structure; inherited fields come first (OPC 10000-3, 8.49)."""
        _, encoding, base = row(structure)
        layers: Iterable[type] = (one for one in reversed(structure.__mro__) if one in STRUCTURES)
        described = [
            ua.StructureField(
                Name=ua.String(name),
                DataType=self.of(data_type),
                ValueRank=ua.Int32(rank),
                ArrayDimensions=[],
                IsOptional=optional,
            )
            for layer in layers
            for name, data_type, rank, optional in definition(layer)
        ]
        has_optional = any(one.IsOptional for one in described)
        return ua.StructureDefinition(
            DefaultEncodingId=self.of(encoding),
            BaseDataType=self.of(base),
            StructureType=ua.StructureType.StructureWithOptionalFields if has_optional else ua.StructureType.Structure,
            Fields=described,
        )
