"""The Node-RED flow is one that Node-RED can load, and listens where the service speaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from schemas.settings import MqttSettings
from schemas.topics import Leaf

FLOW = Path(__file__).parents[2] / "deploy" / "node-red" / "verdicts.json"
CORE = {
    "tab", "mqtt-broker", "websocket-listener", "mqtt in", "function", "websocket out", "debug", "http in", "template",
    "http response",
}  # fmt: skip


def test_flow_is_whole_and_uses_core_nodes_only() -> None:
    """Every wire ends at a node, every configuration that a node names is there, nothing has to be installed."""
    flow: list[dict[str, Any]] = json.loads(FLOW.read_text())
    by_id = {node["id"]: node for node in flow}
    assert len(by_id) == len(flow)
    assert {node["type"] for node in flow} == CORE
    (tab,) = [node["id"] for node in flow if node["type"] == "tab"]
    for node in flow:
        assert node.get("z", tab) == tab
        assert {end for port in node.get("wires", []) for end in port} <= set(by_id)
        for reference, kind in (("broker", "mqtt-broker"), ("server", "websocket-listener")):
            if reference in node and node["type"] != "mqtt-broker":
                assert by_id[node[reference]]["type"] == kind


def test_flow_listens_to_the_topics_of_the_service() -> None:
    """With the default prefix, for every station."""
    flow = json.loads(FLOW.read_text())
    topics = {node["topic"] for node in flow if node["type"] == "mqtt in"}
    assert topics == {f"{MqttSettings().prefix}/+/{leaf}" for leaf in (Leaf.VERDICT, Leaf.STATUS)}
