"""What `cangate export` writes, held against a running service: every tag, every node, every topic, every payload."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from asyncua import Client, Server, ua

from adapters.opcua.server.machine_vision.address_space import NodeSpace
from adapters.opcua.server.machine_vision.instance import VisionSystemNodes
from schemas.messages import Box, Decision
from schemas.tags import NAMESPACE_URI, Tag
from schemas.topics import Leaf
from tests.support.cli import CommandLine
from tests.support.mqtt import PlantClient, private_mosquitto
from tests.support.node import needs_node, node
from tests.support.opcua import plain_client, verdict
from tests.support.service import ServiceProcess

pytestmark = [pytest.mark.e2e, *needs_node("@asyncapi/parser", "ajv")]
Export: TypeAlias = Callable[[str, Path, Path], Awaitable[Path]]

AT_ONCE = 1000  # `OperationLimits` of the server
WHAT_IT_IS = (
    ua.AttributeIds.NodeClass,
    ua.AttributeIds.BrowseName,
    ua.AttributeIds.DataType,
    ua.AttributeIds.ValueRank,
    ua.AttributeIds.ArrayDimensions,
    ua.AttributeIds.AccessLevel,
)


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    """`cangate export`: writes one of its files and returns it."""
    cangate = CommandLine(monkeypatch, capsys)

    async def write(what: str, config: Path, out: Path) -> Path:
        # a thread: a command has an event loop of its own
        outcome = await asyncio.to_thread(cangate, "export", what, "-c", config, "-o", out)
        assert (outcome.status, outcome.stderr) == (0, "")
        return out

    return write


async def what_they_are(client: Client | Server, node_ids: Sequence[ua.NodeId]) -> list[list[Any]]:
    """Return the attributes of each node; None for those that its class does not have."""
    wanted = [ua.ReadValueId(NodeId=node_id, AttributeId=one) for node_id in node_ids for one in WHAT_IT_IS]
    session = client.uaclient if isinstance(client, Client) else client.iserver.isession
    read = [
        value.Value.Value if value.Value else None
        for first in range(0, len(wanted), AT_ONCE)
        for value in await session.read(ua.ReadParameters(NodesToRead=wanted[first : first + AT_ONCE]))
    ]
    return [read[at : at + len(WHAT_IT_IS)] for at in range(0, len(read), len(WHAT_IT_IS))]


async def test_exports_say_what_the_running_service_does(tmp_path: Path, export: Export) -> None:
    """One service without a model: it answers every event, refuses a command, and shows every tag."""
    async with (
        private_mosquitto() as broker,
        ServiceProcess(tmp_path, broker.port, "", tmp_path / "models", expect=503) as service,
        PlantClient(broker.port) as plant,
    ):
        tags = await export("opcua-tags", service.config, tmp_path / "tags.csv")
        # before the client connects: it keeps this loop busy for longer than a session may be silent
        offline, imported = await offline_server(
            await export("opcua-nodeset", service.config, tmp_path / "cangate.xml")
        )
        async with plain_client(service.endpoint) as client:
            await check_tags(tags, client)
            await check_nodeset(offline, imported, client)
        document = await export("asyncapi", service.config, tmp_path / "asyncapi.json")
        messages = await exchange_everything(plant)
    (tmp_path / "messages.json").write_text(json.dumps(messages))
    seen = await node("asyncapi.js", str(document), str(tmp_path / "messages.json"))
    ours, theirs = ["send"], ["receive"]
    by_service = {Leaf.VERDICT, Leaf.GATE, Leaf.STATUS, Leaf.REPLY}
    channels = {f"cangate/line1/{leaf}": ours if leaf in by_service else theirs for leaf in Leaf}
    assert seen == {"errors": [], "channels": channels, "invalid": []}

    wrong = [{**message, "payload": {**message["payload"], "station": 5}} for message in messages[-2:]]
    wrong.append({"topic": "cangate/line1/nonsense", "payload": {}})
    (tmp_path / "messages.json").write_text(json.dumps(wrong))
    assert len((await node("asyncapi.js", str(document), str(tmp_path / "messages.json")))["invalid"]) == 3


async def check_tags(path: Path, client: Client) -> None:
    """Every row is a tag of the server, with that type and access."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["tag"] for row in rows] == [tag.name for tag in Tag]
    namespace = await client.get_namespace_index(NAMESPACE_URI)
    node_ids = [
        ua.NodeId.from_string(row["node_id"].replace(f"nsu={NAMESPACE_URI}", f"ns={namespace}")) for row in rows
    ]
    for row, (_, name, data_type, rank, _, access) in zip(rows, await what_they_are(client, node_ids), strict=True):
        assert name.Name == row["tag"]
        assert data_type == ua.NodeId(getattr(ua.ObjectIds, row["data_type"])), row
        assert rank == (1 if row["array"] == "true" else -1), row
        assert access == {"Read": 1, "ReadWrite": 3}[row["access"]], row
    paths = [
        [f"0:{step}" if step == "Objects" else f"{namespace}:{step}" for step in row["browse_path"].split("/")]
        for row in rows
    ]
    assert [(await client.nodes.root.get_child(path)).nodeid for path in paths[::8]] == node_ids[::8]


async def offline_server(path: Path) -> tuple[Server, list[ua.NodeId]]:
    """Return a tool that knows the standard's types and has read the file, and the nodes it found there."""
    offline = Server()
    await offline.init()
    await offline.set_application_uri(NAMESPACE_URI)
    space = await NodeSpace.create(offline, own=1)
    VisionSystemNodes.create(space, offline.iserver.aspace, "other", datetime.now(UTC))
    return offline, await offline.import_xml(str(path))


async def check_nodeset(offline: Server, imported: list[ua.NodeId], client: Client) -> None:
    """An offline tool gets the same nodes out of the file."""
    assert await offline.get_namespace_array() == await client.get_namespace_array()
    names = {node_id.Identifier for node_id in imported}
    assert {f"line1.{tag.name}" for tag in Tag} < names
    assert {"line1.VisionSystem", "line1.VisionSystem.VisionStateMachine.CurrentState.Id"} < names
    for node_id, theirs, ours in zip(
        imported, await what_they_are(offline, imported), await what_they_are(client, imported), strict=True
    ):
        assert theirs == ours, node_id


async def exchange_everything(plant: PlantClient) -> list[dict[str, Any]]:
    """Send one message to every topic that the service listens to; return all messages, sent and heard."""
    event = {"event_id": "e1", "part_id": "C-1", "trigger_id": 1, "deadline_ms": 5000}
    ready = {"schema": "cangate/image-ready/1", **event, "image": {"uri": "file:///nowhere.png"}}
    order = {"schema": "cangate/command/1", "command": "set_threshold", "args": {"threshold": 1.5}}
    await plant.send(Leaf.IMAGE_READY, json.dumps(ready).encode())
    await plant.send(Leaf.IMAGE_READY_RAW, b"no picture", user_properties=[("event_id", "e2")])
    await plant.send(Leaf.COMMAND, json.dumps(order).encode())
    heard = [
        (leaf, json.loads((await plant.next(leaf)).payload))
        for leaf in (Leaf.VERDICT, Leaf.VERDICT, Leaf.GATE, Leaf.GATE, Leaf.STATUS, Leaf.REPLY)
    ]
    boxes = (Box(x1=1, y1=2, x2=3, y2=4, score=1.5),)
    judged = [verdict(1), verdict(2, Decision.DAMAGED, boxes=boxes)]
    said = [(Leaf.VERDICT, json.loads(one.to_json())) for one in judged]
    sent: list[tuple[Leaf, Any]] = [(Leaf.IMAGE_READY, ready), (Leaf.COMMAND, order)]
    return [{"topic": f"cangate/line1/{leaf}", "payload": payload} for leaf, payload in sent + heard + said]
