"""OPC 40100-1 as node-opcua sees it: a client that shares no code with ours, over encrypted channels, with a user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import argon2
import pytest

from adapters.simulation.broker import free_port
from schemas.messages import Verdict
from schemas.settings import OpcUaServerSettings
from tests.support.node import needs_node, node
from tests.support.vision import SHELF, served_vision

pytestmark = needs_node("node-opcua-client", "node-opcua-certificate-manager")
POLICIES = {"Basic256Sha256": "Basic256Sha256", "Aes256_Sha256_RsaPss": "Aes256Sha256RsaPss"}


@pytest.mark.parametrize("policy", POLICIES)
async def test_node_uses_the_vision_system(tmp_path: Path, policy: str) -> None:
    """Browse, a part by tags, a part by method, results, recipes, both state machines, events at both notifiers."""
    async with served_vision(secure(tmp_path, f"{POLICIES[policy]}_SignAndEncrypt"), tmp_path) as station:
        assert station.adapter is not None
        where = (station.adapter.endpoint, str(tmp_path / "node-pki"), policy, "SignAndEncrypt", "file:///1.png")
        seen = await node("vision.js", *where, "engineer", "secret")
        arrivals = [await station.intake.arrivals.get() for _ in range(2)]
    assert "error" not in seen, seen
    check_tree(seen)
    assert [(one.event.part_id, one.event.trigger_id) for one in arrivals] == [("by-tags", 1), ("by-method", None)]
    assert {one.image and one.image.uri for one in arrivals} == {"file:///1.png"}
    assert seen["triggered"] == "Good"
    for way, result in (("by-tags", seen["byTags"]), ("by-method", seen["byMethod"])):
        check_result_events(way, result)
    check_results(seen)
    check_recipes(seen)
    check_states(seen)


async def test_node_is_refused_without_a_user(tmp_path: Path) -> None:
    """No name or a wrong password: no session, so no model either."""
    settings = secure(tmp_path, "Basic256Sha256_SignAndEncrypt")
    async with served_vision(settings, tmp_path) as station:
        assert station.adapter is not None
        where = (station.adapter.endpoint, str(tmp_path / "node-pki"), "Basic256Sha256", "SignAndEncrypt", "file:///1")
        for credentials in (("engineer", "wrong"), ()):
            assert set(await node("vision.js", *where, *credentials)) == {"error"}
        assert station.commands == []


def secure(folder: Path, security: str) -> OpcUaServerSettings:
    users = folder / "users"
    secret = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")
    users.write_text(f"engineer:engineer:{secret}\n")
    return OpcUaServerSettings(port=free_port(), security=(security,), anonymous=False, users_file=users)


def check_tree(seen: dict[str, Any]) -> None:
    """Our object, its parts by the standard's names and types, its methods by the standard's NodeIds."""
    standard = seen["namespaces"].index("http://opcfoundation.org/UA/MachineVision")
    own = seen["namespaces"].index("urn:cangate")
    tree = seen["tree"]
    types = {
        "ConfigurationManagement": 1006,
        "RecipeManagement": 1004,
        "ResultManagement": 1007,
        "VisionStateMachine": 1017,
    }
    for name, type_id in types.items():
        assert tree[name]["type"] == f"ns={standard};i={type_id}"
        assert tree[name]["nodeId"] == f"ns={own};s=line1.VisionSystem.{name}"
    assert tree["SystemState"]["class"] == "Variable"
    machine = tree["VisionStateMachine"]["children"]
    assert {name for name, node in machine.items() if node["class"] == "Method"} == {
        "Reset",
        "Halt",
        "SelectModeAutomatic",
    }
    automatic = machine["AutomaticModeStateMachine"]["children"]
    assert automatic["StartSingleJob"]["nodeId"] == f"ns={standard};i=7098"
    shown = tree["ResultManagement"]["children"]["Results"]["children"]
    assert {node["type"] for node in shown.values()} == {f"ns={standard};i=2002"}
    assert len(shown) == 8
    assert seen["metadata"] is True  # a subset of the standard's namespace


MANDATORY = {  # OPC 40100-1, 8.3.8.4
    "CreationTime": "DateTime",
    "InternalConfigurationId": "ExtensionObject",
    "InternalRecipeId": "ExtensionObject",
    "IsPartial": "Boolean",
    "JobId": "ExtensionObject",
    "ResultId": "ExtensionObject",
    "ResultState": "Int32",
    "EventId": "ByteString",
    "EventType": "NodeId",
    "SourceName": "String",
    "Time": "DateTime",
    "Message": "LocalizedText",
    "Severity": "UInt16",
}
OPTIONAL = {
    "ExternalRecipeId": "ExtensionObject",
    "IsSimulated": "Boolean",
    "PartId": "ExtensionObject",
    "ProcessingTimes": "ExtensionObject",
    "ResultContent": "Variant[]",
}


def check_result_events(way: str, seen: dict[str, Any]) -> None:
    """Every field has its type; both notifiers told the same event; the content is the verdict."""
    at_system, at_server = seen["atVisionSystem"], seen["atServer"]
    assert at_system["EventId"] == at_server["EventId"]
    for event in (at_system, at_server):
        typed = {name: event[name]["type"] for name in MANDATORY | OPTIONAL}
        assert typed == MANDATORY | OPTIONAL
        (content,) = event["ResultContent"]["value"]
        said = Verdict.model_validate_json(content["value"])
        assert (said.part_id, event["PartId"]["value"]["id"]) == (way, way)
        assert event["ResultId"]["value"] == {"id": said.event_id}
        assert event["JobId"]["value"] == {"id": said.event_id}
        assert event["ResultState"]["value"] == 1
        assert event["InternalRecipeId"]["value"]["id"] == "canister@3"
        assert event["InternalRecipeId"]["value"]["hash"] == "00" * 32
        assert event["InternalConfigurationId"]["value"]["id"] == "line1"
        assert event["ExternalRecipeId"]["value"]["version"] == "3"
        assert ("MeasId" in event) is (way == "by-method")


def values(call: dict[str, Any]) -> list[Any]:
    """Return the outputs of a call that succeeded."""
    assert call["status"] == "Good", call
    return [output["value"] for output in call["outputs"]]


def check_results(seen: dict[str, Any]) -> None:
    """The same result by id, by its components and by a filter; a handle is released once."""
    handle, result, error = values(seen["getResultById"])
    assert (handle > 0, error) == (True, 0)
    assert result["jobId"] == values(seen["startSingleJob"])[0]
    assert result["measId"]["id"] == "measurement"
    assert result["productId"]["id"] == "product"
    assert values(seen["getUnknown"])[2] == -3
    components = seen["components"]["outputs"]
    assert len(components) == 17
    assert components[12]["value"] == result["jobId"]
    complete, count, list_handle, found, error = values(seen["list"])
    assert (complete, count, list_handle, error) == (True, 1, 0, 0)
    assert found[0]["resultId"] == result["resultId"]
    assert values(seen["release"]) == [0]
    assert values(seen["releaseAgain"]) == [-3]


def check_recipes(seen: dict[str, Any]) -> None:
    """Every model of the shelf is a recipe; to prepare one activates it."""
    complete, count, _, recipes, error = values(seen["recipes"])
    assert (complete, count, error) == (True, 3, 0)
    assert [recipe["id"] for recipe in recipes] == [f"{stored.name}@{stored.version}" for stored in SHELF]
    internal, completed, error = values(seen["prepare"])
    assert (internal["id"], internal["hash"], completed, error) == ("canister@1", "ab" * 32, True, 0)
    complete, count, _, configurations, error = values(seen["configurations"])
    assert (complete, count, error) == (True, 1, 0)
    assert configurations[0]["internalId"]["id"] == "line1"


def check_states(seen: dict[str, Any]) -> None:
    """Through both machines and back, each step told as an event of the standard."""
    assert seen["before"] == ["Operational", "Ready"]
    assert values(seen["startContinuous"])[1] == 0
    assert seen["running"] == ["Operational", "ContinuousExecution"]
    assert values(seen["startWhileRunning"])[1] == -1
    assert values(seen["stop"]) == [0]
    assert values(seen["halt"]) == [0]
    assert seen["halted"] == ["Halted", "BadStateNotActive"]
    assert values(seen["startWhileHalted"])[1] == -1
    assert values(seen["reset"]) == [0]
    assert seen["preoperational"] == ["Preoperational", "BadStateNotActive"]
    assert values(seen["select"]) == [0]
    assert seen["after"] == ["Operational", "Ready"]
    assert seen["wrong"] == {
        "missing": "BadArgumentsMissing",
        "many": "BadTooManyArguments",
        "type": "BadInvalidArgument",
    }
    expected = [
        "ReadyToSingleExecution",
        "SingleExecutionToReadyAuto",
        "ReadyToContinuousExecution",
        "ContinuousExecutionToReadyStop",
        "OperationalToHalted",
        "HaltedToPreoperational",
        "PreoperationalToOperational",
        "PreoperationalToInitialized",
    ]
    assert [one for one in seen["transitions"] if one in expected] == expected
    standard = seen["namespaces"].index("http://opcfoundation.org/UA/MachineVision")
    assert {f"ns={standard};i={event}" for event in (1013, 1018, 1022, 1023, 1024)} <= set(seen["eventTypes"])
