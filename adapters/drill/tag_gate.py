"""A reject gate on the tags of a station: what the service tells it, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from asyncua import Client, Node, ua
from asyncua.common.subscription import DataChangeEvent

from adapters.drill.service import STATION
from schemas.messages import Gate
from schemas.tags import NAMESPACE_URI, Tag

_PUBLISHING_MS: Final = 10.0
_RETRY_S: Final = 0.3
_READ: Final = (Tag.ResultSeq, Tag.Reject, Tag.ResultEventId)


class TagGate:
    """Follows ResultSeq and notes what the tags say of each part, and when.

    The time is that of the write, its source timestamp: how long a PLC takes to hear of it is for the timer that every
    gate keeps.

    Args:
        endpoint: of the service.
        on_result: told event id, gate and time (`time.monotonic`) of each result that it sees; what is overwritten
            within a few milliseconds it does not.
    """

    def __init__(self, endpoint: str, on_result: Callable[[str, Gate, float], None]) -> None:
        self._endpoint = endpoint
        self._on_result = on_result
        self._last = 0
        self.watching = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled; a server that is gone is tried again and again."""
        while True:
            try:
                await self._follow()
            except (OSError, TimeoutError, ua.UaError):
                await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        async with Client(self._endpoint, timeout=10.0) as client:
            namespace = await client.get_namespace_index(NAMESPACE_URI)
            nodes = [client.get_node(f"ns={namespace};s={tag.node_id(STATION)}") for tag in _READ]
            subscription = await client.create_subscription(_PUBLISHING_MS, queue_maxsize=1000)
            await subscription.subscribe_data_change([nodes[0]], sampling_interval=ua.Duration(_PUBLISHING_MS))
            self.watching.set()
            async for event in subscription:
                if not isinstance(event, DataChangeEvent):
                    # asyncua says so where the server is gone, and nothing after that
                    raise ConnectionResetError(f"the subscription ended: {event}")
                await self._look(client, nodes)

    async def _look(self, client: Client, nodes: list[Node]) -> None:
        # one request, so that all three belong to one result
        read = await client.uaclient.read_attributes([node.nodeid for node in nodes], ua.AttributeIds.Value)
        seq, reject, event_id = (None if value.Value is None else value.Value.Value for value in read)
        written = read[1].SourceTimestamp
        if not isinstance(seq, int) or seq == self._last or written is None:
            return
        self._last = seq
        ago_s = (datetime.now(UTC) - written.replace(tzinfo=UTC)).total_seconds()
        gate = Gate.PASS if reject is False else Gate.REJECT
        self._on_result(str(event_id), gate, time.monotonic() - ago_s)
