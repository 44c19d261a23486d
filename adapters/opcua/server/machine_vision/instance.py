"""The VisionSystem object of one station, in our own namespace, and what is written into it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, cast

from asyncua import ua
from asyncua.server.address_space import AddressSpace

from adapters.opcua.server.machine_vision.address_space import NodeSpace
from adapters.opcua.server.machine_vision.data_types import (
    ConfigurationDataType,
    ResultDataType,
    SystemState,
    SystemStateDescriptionDataType,
)
from adapters.opcua.server.machine_vision.declarations import (
    NAMESPACE_URI,
    PUBLISHED,
    VERSION,
    Base,
    Declaration,
    Id,
    NodeClass,
    Rule,
)
from adapters.opcua.server.machine_vision.object_types import BY_ID, RESULT, VISION_SYSTEM
from adapters.opcua.server.machine_vision.state_machines import State, Transition
from adapters.opcua.server.machine_vision.values import variant
from adapters.opcua.server.tags import complete

ROOT: Final = "VisionSystem"
METADATA: Final = f"{ROOT}.Namespace"
SHOWN: Final = 8
"""How many results the folder Results shows."""

_NO_VALUE: Final = ua.StatusCode(ua.UInt32(ua.StatusCodes.BadWaitingForInitialData))
_NOT_ACTIVE: Final = ua.StatusCode(ua.UInt32(ua.StatusCodes.BadStateNotActive))

_SYSTEM_STATES: Final = {
    State.PREOPERATIONAL: SystemState.ENG_3,
    State.HALTED: SystemState.SDT_4,
    State.ERROR: SystemState.UDT_5,
    State.INITIALIZED: SystemState.SBY_2,
    State.READY: SystemState.SBY_2,
    State.SINGLE_EXECUTION: SystemState.PRD_1,
    State.CONTINUOUS_EXECUTION: SystemState.PRD_1,
}


class VisionSystemNodes:
    """The nodes `{station}.VisionSystem...`; writes are synchronous, so no client reads half of one."""

    def __init__(self, space: NodeSpace, aspace: AddressSpace, station: str) -> None:
        self._space = space
        self._aspace = aspace
        self._station = station
        self._path = f"{station}.{ROOT}"
        self._results = 0
        self.root = space.own(self._path)
        self.owners: dict[ua.NodeId, ua.NodeId] = {}

    @classmethod
    def create(cls, space: NodeSpace, aspace: AddressSpace, station: str, at: datetime) -> VisionSystemNodes:
        """Add the object and all below it; it starts Preoperational, without results."""
        nodes = cls(space, aspace, station)
        space.add(
            nodes.root,
            space.own_name(ROOT),
            NodeClass.OBJECT,
            parent=space.of(Base.OBJECTS_FOLDER),
            by=Base.ORGANIZES,
            type_=space.of(VISION_SYSTEM.id),
            EventNotifier=1,  # SubscribeToEvents
        )
        space.link(space.of(Base.SERVER), Base.HAS_NOTIFIER, nodes.root)
        nodes._add_members(VISION_SYSTEM, nodes._path)
        results = f"{nodes._path}.ResultManagement.Results"
        for slot in range(1, SHOWN + 1):
            nodes._add_result(f"{results}.Result{slot}", results)
        nodes._describe_namespace()
        nodes.show_state(State.PREOPERATIONAL, None, None, at)
        return nodes

    def machine(self, state: State) -> ua.NodeId:
        """Return the state machine that `state` belongs to."""
        return self._space.own(self._machine(automatic=state.is_automatic))

    def show_state(self, main: State, mode: State | None, last: Transition | None, at: datetime) -> None:
        """Write CurrentState of both machines, and LastTransition of the one that `last` changed."""
        for state, automatic in ((main, False), (mode, True)):
            path = f"{self._machine(automatic=automatic)}.CurrentState"
            if state is None:
                self._clear(path, at, _NOT_ACTIVE, members=("Id", "Number"))
            else:
                row = state.value
                self._write_variable(path, state.title, row.id, row.number, at)
        if last is not None:
            path = f"{self._machine(automatic=last.value.target.is_automatic)}.LastTransition"
            self._write_variable(path, last.title, last.value.id, last.value.number, at)

    def show_system_state(self, state: State, text: str, at: datetime) -> None:
        """Write SystemState."""
        described = SystemStateDescriptionDataType(State=_SYSTEM_STATES[state], StateDescription=ua.String(text))
        self._write(f"{self._path}.SystemState", variant(3024, described), at)

    def show_configuration(self, configuration: ConfigurationDataType, at: datetime) -> None:
        """Write ActiveConfiguration."""
        self._write(f"{self._path}.ConfigurationManagement.ActiveConfiguration", variant(3007, configuration), at)

    def show_result(self, result: ResultDataType, at: datetime) -> None:
        """Write `result` in place of the oldest in the folder, its parts first."""
        path = f"{self._path}.ResultManagement.Results.Result{self._results % SHOWN + 1}"
        self._results += 1
        for member in RESULT.members:
            value = getattr(result, member.name)
            if value is None:
                self._clear(f"{path}.{member.name}", at, ua.StatusCode(ua.UInt32(ua.StatusCodes.BadNoData)))
            else:
                self._write(f"{path}.{member.name}", _typed(member, value), at)
        self._write(path, variant(3006, result), at)

    def _machine(self, *, automatic: bool) -> str:
        path = f"{self._path}.VisionStateMachine"
        return f"{path}.AutomaticModeStateMachine" if automatic else path

    def _add_members(self, type_: Declaration, path: str) -> None:
        for member in _instantiated(type_):
            if member.node_class is NodeClass.METHOD:
                # the object shares the method of its type (OPC 10000-3, 6.4.3): a client may call it by that NodeId
                self._space.link(self._space.own(path), Base.HAS_COMPONENT, self._space.of(member.id), inverse=False)
                self.owners[self._space.of(member.id)] = self._space.own(path)
                continue
            self._add_member(member, path)
            if member.node_class is NodeClass.OBJECT and member.base is not None:
                self._add_members(BY_ID[member.base], f"{path}.{member.name}")
        if type_.base is Base.FINITE_STATE_MACHINE_TYPE:
            self._add_state_variables(path)

    def _add_member(self, member: Declaration, path: str) -> None:
        assert member.base is not None
        attributes = {}
        if member.data_type is not None:
            attributes = {"DataType": self._space.of(member.data_type), "ValueRank": member.rank}
        self._space.add(
            self._space.own(f"{path}.{member.name}"),
            self._space.standard_name(member),
            member.node_class,
            parent=self._space.own(path),
            by=Base.HAS_PROPERTY if member.is_property else Base.HAS_COMPONENT,
            type_=self._space.of(member.base),
            **attributes,
        )

    def _add_state_variables(self, path: str) -> None:
        for name, type_ in (
            ("CurrentState", Base.FINITE_STATE_VARIABLE_TYPE),
            ("LastTransition", Base.FINITE_TRANSITION_VARIABLE_TYPE),
        ):
            self._add_variable(f"{path}.{name}", path, name, type_, Base.LOCALIZED_TEXT)
            self._add_variable(f"{path}.{name}.Id", f"{path}.{name}", "Id", Base.PROPERTY_TYPE, Base.NODE_ID)
            self._add_variable(f"{path}.{name}.Number", f"{path}.{name}", "Number", Base.PROPERTY_TYPE, Base.UINT32)
            self._clear(f"{path}.{name}", datetime.now(UTC), _NO_VALUE, members=("Id", "Number"))

    def _add_variable(self, path: str, parent: str, name: str, type_: Base, data_type: Base, rank: int = -1) -> None:
        self._space.add(
            self._space.own(path),
            ua.QualifiedName(name, ua.Int16(0)),
            NodeClass.VARIABLE,
            parent=self._space.own(parent),
            by=Base.HAS_PROPERTY if type_ is Base.PROPERTY_TYPE else Base.HAS_COMPONENT,
            type_=self._space.of(type_),
            DataType=self._space.of(data_type),
            ValueRank=rank,
        )

    def _add_result(self, path: str, parent: str) -> None:
        self._space.add(
            self._space.own(path),
            self._space.own_name(path.rsplit(".", 1)[-1]),
            NodeClass.VARIABLE,
            parent=self._space.own(parent),
            by=Base.HAS_COMPONENT,
            type_=self._space.of(RESULT.id),
            DataType=self._space.of(3006),
            ValueRank=-1,
        )
        for member in RESULT.members:
            self._add_member(member, path)
        names = tuple(member.name for member in RESULT.members)
        self._clear(path, datetime.now(UTC), _NO_VALUE, members=names)

    def _describe_namespace(self) -> None:
        """Say which version of the standard this is, and that it is a subset (OPC 10000-5, 6.3.14)."""
        path = f"{self._station}.{METADATA}"
        self._space.add(
            self._space.own(path),
            ua.QualifiedName(NAMESPACE_URI, self._space.of(VISION_SYSTEM.id).NamespaceIndex),
            NodeClass.OBJECT,
            parent=self._space.of(Base.SERVER_NAMESPACES),
            by=Base.HAS_COMPONENT,
            type_=self._space.of(Base.NAMESPACE_METADATA_TYPE),
        )
        properties: tuple[tuple[str, Base, int, object], ...] = (
            ("NamespaceUri", Base.STRING, -1, NAMESPACE_URI),
            ("NamespaceVersion", Base.STRING, -1, VERSION),
            ("NamespacePublicationDate", Base.DATE_TIME, -1, PUBLISHED),
            ("IsNamespaceSubset", Base.BOOLEAN, -1, True),
            ("StaticNodeIdTypes", Base.ID_TYPE, 1, [0]),  # numeric
            ("StaticNumericNodeIdRange", Base.NUMERIC_RANGE, 1, ["1000:9999"]),
            ("StaticStringNodeIdPattern", Base.STRING, -1, ""),
        )
        for name, data_type, rank, value in properties:
            self._add_variable(f"{path}.{name}", path, name, Base.PROPERTY_TYPE, data_type, rank)
            self._write(f"{path}.{name}", variant(data_type, value, rank=rank), PUBLISHED)

    def _write_variable(self, path: str, title: str, id_: Id, number: int, at: datetime) -> None:
        self._write(f"{path}.Id", variant(Base.NODE_ID, self._space.of(id_)), at)
        self._write(f"{path}.Number", variant(Base.UINT32, number), at)
        self._write(path, variant(Base.LOCALIZED_TEXT, ua.LocalizedText(title)), at)

    def _clear(self, path: str, at: datetime, status: ua.StatusCode, *, members: tuple[str, ...] = ()) -> None:
        for name in members:
            self._write(f"{path}.{name}", ua.Variant(), at, status)
        self._write(path, ua.Variant(), at, status)

    def _write(self, path: str, value: ua.Variant, at: datetime, status: ua.StatusCode | None = None) -> None:
        moment = cast("ua.DateTime", at)
        content = ua.DataValue(value, status or ua.StatusCode(), moment, moment)
        complete(self._aspace.write_attribute_value(self._space.own(path), ua.AttributeIds.Value, content)).check()


def _instantiated(type_: Declaration) -> Iterator[Declaration]:
    """Yield the members that an instance has: states and transitions stay with the type (OPC 10000-16, 4.4)."""
    return (one for one in type_.members if one.rule in {Rule.MANDATORY, Rule.OPTIONAL})


def _typed(member: Declaration, value: object) -> ua.Variant:
    assert member.data_type is not None
    return variant(member.data_type, value, rank=member.rank or -1)
