"""A client of the machine vision companion model, as a SCADA screen is one."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncua import Client, ua

from adapters.opcua.server.machine_vision.data_types import (
    MeasIdDataType,
    PartIdDataType,
    ProductIdDataType,
    RecipeIdExternalDataType,
    ResultDataType,
)
from adapters.opcua.server.machine_vision.values import variant

OWN, STANDARD = 1, 2
MACHINE = "VisionStateMachine"
AUTOMATIC = f"{MACHINE}.AutomaticModeStateMachine"
RESULTS = "ResultManagement"


class Scada:
    """A client of the companion model."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.events: asyncio.Queue[Any] = asyncio.Queue()

    def event_notification(self, event: Any) -> None:
        self.events.put_nowait(event)

    async def listen(self) -> None:
        """Subscribe at the Server object, where every event must arrive."""
        types = [self.client.get_node(f"ns={STANDARD};i={one}") for one in (1018, 1019, 1020, 1013, 1022, 1023, 1024)]
        subscription = await self.client.create_subscription(10, self)
        await subscription.subscribe_events(self.client.nodes.server, types)

    async def call(self, owner: str, method: str, *arguments: ua.Variant) -> list[Any]:
        """Call a method; return its outputs, the Error last."""
        node = self.client.get_node(f"ns={OWN};s=line1.VisionSystem.{owner}")
        returned = await node.call_method(f"{STANDARD}:{method}", *arguments)
        return returned if isinstance(returned, list) else [returned]

    async def start(
        self, method: str = "StartSingleJob", part: str = "P", uri: str = "", recipe: str = ""
    ) -> list[Any]:
        parameters = [ua.Variant(uri)] if uri else []
        return await self.call(
            AUTOMATIC,
            method,
            variant(3015, MeasIdDataType(Id=ua.String("m"))),
            variant(3004, PartIdDataType(Id=ua.String(part))),
            variant(3002, RecipeIdExternalDataType(Id=ua.String(recipe))),
            variant(3003, ProductIdDataType(Id=ua.String(""))),
            ua.Variant(parameters, ua.VariantType.Variant, is_array=True),
        )

    async def state(self) -> str:
        """Return the innermost state."""
        for path in (AUTOMATIC, MACHINE):
            node = self.client.get_node(f"ns={OWN};s=line1.VisionSystem.{path}.CurrentState")
            value = await node.read_data_value(raise_on_bad_status=False)
            if value.StatusCode and value.StatusCode.is_good() and value.Value:
                return str(value.Value.Value.Text)
        raise AssertionError("no state")

    async def event(self, type_id: int) -> Any:
        """Return the next event of that type."""
        async with asyncio.timeout(10):
            while True:
                event = await self.events.get()
                if event.EventType == ua.NodeId(ua.Int32(type_id), ua.Int16(STANDARD)):
                    return event

    async def result(self) -> ResultDataType:
        """Return what is to be had of the next result."""
        event = await self.event(1024)
        _, result, error = await self.call(
            RESULTS, "GetResultById", variant(3021, event.ResultId), ua.Variant(0, ua.VariantType.Int32)
        )
        assert error == 0
        assert isinstance(result, ResultDataType)
        return result
