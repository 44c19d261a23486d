"""Events on the vision system and on the Server object, with typed fields."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from asyncua import Server, ua
from asyncua.common.events import Event

from adapters.opcua.server.machine_vision.address_space import NodeSpace
from adapters.opcua.server.machine_vision.data_types import ResultDataType
from adapters.opcua.server.machine_vision.declarations import Base, Declaration
from adapters.opcua.server.machine_vision.event_types import RESULT_READY, STATE_CHANGED
from adapters.opcua.server.machine_vision.instance import ROOT, VisionSystemNodes
from adapters.opcua.server.machine_vision.state_machines import Transition
from adapters.opcua.server.machine_vision.values import variant

NORMAL: Final = 100
ALARMING: Final = 800
"""Severities, of 1 to 1000 (OPC 10000-5, 6.4.2)."""


class _TypedEvent(Event):
    """An event whose fields are variants already and do not change: asyncua would copy each for each subscriber."""

    def __init__(self, notifier: ua.NodeId, fields: Mapping[str, ua.Variant]) -> None:
        super().__init__(notifier)
        self._variants = fields
        for name, value in fields.items():  # where asyncua looks for the operands of a filter
            self.add_property(name, value.Value, value.VariantType)

    def to_event_fields(self, select_clauses: list[ua.SimpleAttributeOperand]) -> list[ua.Variant]:
        """Return what a subscriber selects; null where the event has no such field."""
        nothing = ua.Variant()
        return [
            self._variants.get(self.browse_path_to_attribute_name(clause.BrowsePath), nothing)
            if clause.BrowsePath
            else nothing
            for clause in select_clauses
        ]


class EventSender:
    """Raises the standard's events where clients subscribe: at the vision system and at the Server object."""

    def __init__(self, server: Server, space: NodeSpace, nodes: VisionSystemNodes) -> None:
        self._server = server
        self._space = space
        self._nodes = nodes

    async def send(
        self,
        declared: Declaration,
        message: str,
        at: datetime,
        fields: Mapping[str, ua.Variant],
        *,
        source: tuple[ua.NodeId, str] | None = None,
        severity: int = NORMAL,
    ) -> None:
        """Raise one event; both notifiers tell it with the same EventId."""
        node, name = source or (self._nodes.root, ROOT)
        moment = variant(Base.UTC_TIME, at)
        typed = {
            "EventId": ua.Variant(secrets.token_bytes(16), ua.VariantType.ByteString),
            "EventType": variant(Base.NODE_ID, self._space.of(declared.id)),
            "SourceNode": variant(Base.NODE_ID, node),
            "SourceName": variant(Base.STRING, name),
            "Time": moment,
            "ReceiveTime": moment,
            "Message": variant(Base.LOCALIZED_TEXT, ua.LocalizedText(message)),
            "Severity": ua.Variant(severity, ua.VariantType.UInt16),
            **fields,
        }
        # asyncua hands an event to the subscribers of one node only
        for notifier in (self._nodes.root, self._space.of(Base.SERVER)):
            await self._server.iserver.subscription_service.trigger_event(_TypedEvent(notifier, typed))

    async def result_ready(self, result: ResultDataType, at: datetime) -> None:
        """Raise ResultReadyEvent; optional fields that the result does not have are null."""
        fields = {}
        for member in RESULT_READY.members:
            value = getattr(result, member.name)
            assert member.data_type is not None
            if value is not None:
                fields[member.name] = variant(member.data_type, value, rank=member.rank or -1)
        await self.send(RESULT_READY, f"result {result.ResultId.Id}", at, fields)

    async def moved(
        self, made: Transition, at: datetime, *, declared: Declaration = STATE_CHANGED, severity: int = NORMAL
    ) -> None:
        """Raise StateChangedEvent, or another that speaks of a transition."""
        row = made.value
        fields = {}
        for field, title, id_ in (
            ("Transition", made.title, row.id),
            ("FromState", row.source.title, row.source.value.id),
            ("ToState", row.target.title, row.target.value.id),
        ):
            fields[field] = variant(Base.LOCALIZED_TEXT, ua.LocalizedText(title))
            fields[f"{field}/Id"] = variant(Base.NODE_ID, self._space.of(id_))
        machine = self._nodes.machine(row.target)
        source = (machine, "AutomaticModeStateMachine" if row.target.is_automatic else "VisionStateMachine")
        message = f"{row.source.title} to {row.target.title}"
        await self.send(declared, message, at, fields, source=source, severity=severity)
