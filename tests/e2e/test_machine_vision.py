"""The companion model of a real service: its methods inspect real parts and exchange real models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from asyncua import Client, ua

from adapters.opcua.server.machine_vision.data_types import (
    RecipeIdInternalDataType,
    ResultIdDataType,
    ResultState,
    register,
)
from adapters.opcua.server.machine_vision.values import empty, variant
from schemas.messages import Decision, Reason, Verdict
from service.model.registry import ModelRegistry
from tests.support.mqtt import PlantClient, private_mosquitto
from tests.support.opcua import plain_client
from tests.support.parts import draw_part, train_parts, write_parts
from tests.support.service import ServiceProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e
AUTOMATIC = "VisionStateMachine.AutomaticModeStateMachine"
register(2)  # the namespace's index, for the client in this process
CAUSE = (ua.Variant(1, ua.VariantType.Int32), ua.Variant("test"))


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[tuple[ServiceProcess, PlantClient, Client]]:
    """A service whose store has two versions of a model, the second active."""
    registry = ModelRegistry(tmp_path / "models")
    trained = train_parts(write_parts(tmp_path / "ok", 10))
    for _ in range(2):
        registry.activate("bars", trained.publish(registry).name)
    async with (
        private_mosquitto() as broker,
        ServiceProcess(tmp_path, broker.port, "bars", tmp_path / "models") as service,
        PlantClient(broker.port) as plant,
        plain_client(service.endpoint) as client,
    ):
        yield service, plant, client


async def call(client: Client, owner: str, method: str, *arguments: ua.Variant) -> list[Any]:
    node = client.get_node(f"ns=1;s=line1.VisionSystem.{owner}")
    returned = await node.call_method(f"2:{method}", *arguments)
    return returned if isinstance(returned, list) else [returned]


async def start_job(client: Client, uri: str) -> list[Any]:
    parameters = ua.Variant([ua.Variant(uri)], ua.VariantType.Variant, is_array=True)
    ids = (variant(data_type, empty(data_type)) for data_type in (3015, 3004, 3002, 3003))
    return await call(client, AUTOMATIC, "StartSingleJob", *ids, parameters)


async def test_methods_inspect_parts_and_exchange_models(line: tuple[ServiceProcess, PlantClient, Client]) -> None:
    """A job's verdict goes to the gate like any other; a recipe is activated in the store; Halt stops judging."""
    service, plant, client = line
    frame = service.frames / "1.png"
    cv2.imwrite(str(frame), draw_part(5000, damaged=True))

    async def is_ready() -> bool:
        state = client.get_node(f"ns=1;s=line1.VisionSystem.{AUTOMATIC}.CurrentState")
        value = await state.read_data_value(raise_on_bad_status=False)
        return value.Value is not None and getattr(value.Value.Value, "Text", None) == "Ready"

    await eventually(is_ready)  # the service is ready a moment before it says so here
    job_id, error = await start_job(client, frame.as_uri())
    assert error == 0
    said = Verdict.model_validate_json((await plant.next("verdict")).payload)
    assert (said.event_id, said.decision, said.trigger_id) == (job_id.Id, Decision.DAMAGED, None)
    assert said.boxes
    assert (await plant.next("gate")).payload
    by_id = (variant(3021, ResultIdDataType(Id=job_id.Id)), CAUSE[0])
    _, result, error = await call(client, "ResultManagement", "GetResultById", *by_id)
    assert (error, result.ResultContent[0].Value.encode()) == (0, said.to_json())
    assert (ResultState(result.ResultState), result.InternalRecipeId.Id) == (ResultState.COMPLETED, "bars@2")

    first = variant(3013, RecipeIdInternalDataType(Id=ua.String("bars@1")))
    prepared, _, error = await call(client, "RecipeManagement", "PrepareRecipe", variant(3002, empty(3002)), first)
    assert (prepared.Id, error) == ("bars@1", 0)
    assert ModelRegistry(service.store).active("bars") == "1"
    numbers = [ua.Variant(0, ua.VariantType.UInt32)] * 2
    either = (variant(3002, empty(3002)), variant(3003, empty(3003)))
    prepared_only = ua.Variant(1, ua.VariantType.Int32)
    *_, recipes, error = await call(
        client, "RecipeManagement", "GetRecipeListFiltered", *either, prepared_only, *numbers, CAUSE[0]
    )
    assert ([recipe.Id for recipe in recipes], error) == (["bars@1"], 0)

    assert (await call(client, "RecipeManagement", "UnprepareRecipe", variant(3002, empty(3002)), first))[-1] == 0
    await plant.send("image-ready", f'{{"event_id":"e2","image":{{"uri":"{frame.as_uri()}"}}}}'.encode())
    said = Verdict.model_validate_json((await plant.next("verdict")).payload)
    assert (said.event_id, said.reason) == ("e2", Reason.MODEL_UNAVAILABLE)
    assert await call(client, "VisionStateMachine", "Reset", *CAUSE) == [0]
    assert await call(client, "VisionStateMachine", "SelectModeAutomatic") == [0]
    await plant.send("image-ready", f'{{"event_id":"e3","image":{{"uri":"{frame.as_uri()}"}}}}'.encode())
    said = Verdict.model_validate_json((await plant.next("verdict")).payload)
    assert (said.event_id, said.decision) == ("e3", Decision.DAMAGED)  # Reset has loaded the active model again
