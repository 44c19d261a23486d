"""A simulated PLC that has the OPC UA server itself, as most plants have it: contract section 4 from the PLC's side.

    python -m adapters.simulation.plc_server --port 4841 [--station line1 ...]

For each station it has one variable for each word of `[opcua.client]`, `ns=<urn:plc>;s={station}.{word}`, in types as a
PLC program declares them. Anybody may write all of them, so any OPC UA client can give triggers and look at verdicts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Final, Self

from asyncua import Node, Server, ua

from adapters.opcua.client.nodes import Address
from adapters.opcua.server.long_lived import long_lived
from adapters.simulation.broker import LOOPBACK
from schemas.tags import VerdictCode

NAMESPACE_URI: Final = "urn:plc"
TRIGGER_WORDS: Final = ("part_id", "image_uri", "event_id", "trigger")
RESULT_WORDS: Final = ("verdict", "reject", "score", "result_part_id", "result_trigger_id", "result_seq")
TYPES: Final[Mapping[str, ua.VariantType]] = MappingProxyType(
    {
        "trigger": ua.VariantType.UInt32,
        "part_id": ua.VariantType.String,
        "image_uri": ua.VariantType.String,
        "event_id": ua.VariantType.String,
        "verdict": ua.VariantType.Int16,
        "reject": ua.VariantType.Boolean,
        "score": ua.VariantType.Float,
        "result_part_id": ua.VariantType.String,
        "result_trigger_id": ua.VariantType.UInt32,
        "result_seq": ua.VariantType.UInt32,
        "heartbeat": ua.VariantType.UInt32,
    }
)
"""What the PLC declares for each word."""

_START: Final = {ua.VariantType.String: "", ua.VariantType.Boolean: False, ua.VariantType.Float: 0.0}
_RESULTS_WAITING: Final = 10_000


@dataclass(frozen=True, slots=True)
class PlcResult:
    """What stood in the result nodes when `result_seq` changed."""

    seq: int
    trigger_id: int
    part_id: str
    verdict: VerdictCode
    reject: bool
    score: float


class PlcServer:
    """A PLC's OPC UA server on loopback; a context manager.

    Args:
        port: where it listens.
        stations: whose nodes it has.
        namespaces: URIs registered before the PLC's own, so that its index differs from run to run.
        types: other types than `TYPES` for some words.
        addresses: the nodes that a service expects of its PLC, by word; then there are these and no others, and only
            one station.
        endpoint: where a service expects it, instead of one on loopback.
    """

    def __init__(
        self,
        port: int,
        *,
        stations: Sequence[str] = ("line1",),
        namespaces: Sequence[str] = (),
        types: Mapping[str, ua.VariantType] = MappingProxyType({}),
        addresses: Mapping[str, Address] | None = None,
        endpoint: str | None = None,
    ) -> None:
        self.endpoint = endpoint or f"opc.tcp://{LOOPBACK}:{port}/plc/"
        self._addresses = addresses
        self.server = Server()
        self._stations = stations
        self._namespaces = namespaces
        self._types = {
            word: kind for word, kind in {**TYPES, **types}.items() if addresses is None or word in addresses
        }
        self._nodes: dict[tuple[str, str], Node] = {}
        self._results: dict[str, asyncio.Queue[PlcResult]] = {
            station: asyncio.Queue(_RESULTS_WAITING) for station in stations
        }
        self._given = dict.fromkeys(stations, 0)

    async def __aenter__(self) -> Self:
        logging.getLogger("asyncua.server").setLevel(logging.ERROR)
        with long_lived():
            await self.server.init()
        self.server.set_endpoint(self.endpoint)
        self.server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        for uri in self._namespaces:
            await self.server.register_namespace(uri)
        namespace = await self.server.register_namespace(NAMESPACE_URI)
        for station in self._stations:
            folder = await self.server.nodes.objects.add_folder(_node_id(station, namespace), f"{namespace}:{station}")
            for word, kind in self._types.items():
                node_id = await self._node_id(station, word, namespace)
                node = await folder.add_variable(node_id, f"{namespace}:{word}", _START.get(kind, 0), kind)
                await node.set_writable()
                self._nodes[station, word] = node
            self._watch_results(station)
        await self.server.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ticking, self.server.iserver.time_task = self.server.iserver.time_task, None
        if ticking:  # asyncua would wait up to a second for the end of its clock's sleep
            ticking.cancel()
        await self.server.stop()
        gc.unfreeze()

    def mapping(self, station: str = "line1") -> dict[str, str]:
        """Return the keys of `[opcua.client]` for a station of this PLC, the endpoint included."""
        return {"endpoint": self.endpoint, **node_addresses(station, self._types)}

    def node(self, word: str, station: str = "line1") -> Node:
        """Return the node of a word."""
        return self._nodes[station, word]

    async def start_again(self) -> None:
        """Bring every node back to its start value and forget the results, as a restart of the PLC program does."""
        for (_, word), node in self._nodes.items():
            await node.write_value(_START.get(self._types[word], 0), self._types[word])
        for station, results in self._results.items():
            self._given[station] = 0
            while not results.empty():
                results.get_nowait()

    async def trigger(
        self, part_id: str = "", image_uri: str = "", event_id: str = "", *, station: str = "line1"
    ) -> int:
        """Ask for an inspection as a PLC program does, texts first; return the trigger.

        A text for a word that this PLC does not have is left out.
        """
        self._given[station] += 1
        values = (part_id, image_uri, event_id, self._given[station])
        for word, value in zip(TRIGGER_WORDS, values, strict=True):
            if word in self._types:
                await self._nodes[station, word].write_value(value, self._types[word])
        return self._given[station]

    async def result(self, station: str = "line1") -> PlcResult:
        """Return the next result: what the PLC program sees when `result_seq` has changed."""
        return await self._results[station].get()

    async def _node_id(self, station: str, word: str, namespace: int) -> ua.NodeId:
        if self._addresses is None:
            return _node_id(f"{station}.{word}", namespace)
        address = self._addresses[word]
        if address.namespace_uri is not None:
            return address.in_namespace(await self.server.register_namespace(address.namespace_uri))
        index = int(address.node_id.NamespaceIndex)
        while len(known := await self.server.get_namespace_array()) <= index:
            await self.server.register_namespace(f"{NAMESPACE_URI}:{len(known)}")
        return address.in_namespace(index)

    async def watched(self) -> None:
        """Return when a client has subscribed to a node."""
        subscriptions = self.server.iserver.subscription_service.subscriptions
        # asyncua announces it to nobody
        while not any(each.monitored_item_srv._monitored_items for each in subscriptions.values()):  # noqa: ASYNC110, SLF001 - as above
            await asyncio.sleep(0.02)

    def _watch_results(self, station: str) -> None:
        aspace = self.server.iserver.aspace
        words = [word for word in RESULT_WORDS if word in self._types]
        ids = [self._nodes[station, word].nodeid for word in words]
        before = 0

        async def on_sequence(_: int, written: ua.DataValue) -> None:
            nonlocal before
            read = [aspace.read_attribute_value(node_id, ua.AttributeIds.Value).Value for node_id in ids]
            held = {word: value.Value for word, value in zip(words, read, strict=True) if value is not None}
            seq = written.Value.Value if written.Value is not None else 0
            changed, before = seq != before, seq
            if changed and seq:  # 0 is no result: one that is asked for again goes by it
                result = PlcResult(
                    seq=seq,
                    trigger_id=held.get("result_trigger_id", 0),
                    part_id=held.get("result_part_id", ""),
                    verdict=VerdictCode(held.get("verdict", 0)),
                    reject=held.get("reject", True),
                    score=held.get("score", 0.0),
                )
                self._results[station].put_nowait(result)

        aspace.add_datachange_callback(ids[-1], ua.AttributeIds.Value, on_sequence)


def node_addresses(station: str, words: Iterable[str] = TYPES) -> dict[str, str]:
    """Return the nodes of a station, by word, as `[opcua.client]` names them."""
    return {word: f"nsu={NAMESPACE_URI};s={station}.{word}" for word in words}


def _node_id(text: str, namespace: int) -> ua.NodeId:
    return ua.NodeId(ua.String(text), ua.Int16(namespace))


async def _serve(port: int, stations: Sequence[str], namespaces: Sequence[str]) -> None:
    async with PlcServer(port, stations=stations, namespaces=namespaces) as plc:
        print(plc.endpoint, flush=True)  # noqa: T201 - tells whoever started it that it listens
        await asyncio.get_running_loop().create_future()


def main() -> None:
    """Run a simulated PLC until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=4841)
    parser.add_argument("--station", action="append", help="a station that it has nodes for (default: line1)")
    parser.add_argument("--namespace", action="append", help="a namespace URI registered before the PLC's own")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.port, arguments.station or ["line1"], arguments.namespace or []))


if __name__ == "__main__":
    main()
