"""The companion model over the wire, seen by asyncua's client: what methods do to a station, who may call them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import argon2
import pytest
import pytest_asyncio
from asyncua import ua

from adapters.opcua.server.machine_vision.data_types import (
    MeasIdDataType,
    RecipeIdExternalDataType,
    RecipeIdInternalDataType,
    ResultIdDataType,
    ResultState,
)
from adapters.opcua.server.machine_vision.methods import RIGHTS, Right
from adapters.opcua.server.machine_vision.service import METHODS
from adapters.opcua.server.machine_vision.values import empty, variant
from adapters.simulation.broker import free_port
from schemas.messages import CommandName, Decision, Reason
from schemas.settings import OpcUaServerSettings
from schemas.tags import Tag
from tests.support.opcua import plain_client, tag_node
from tests.support.scada import AUTOMATIC, MACHINE, OWN, RESULTS, STANDARD, Scada
from tests.support.vision import SHELF, ScriptedStation, reference, served_vision

pytestmark = pytest.mark.asyncio(loop_scope="module")
RECIPES, CONFIGURATIONS = "RecipeManagement", "ConfigurationManagement"
CAUSE = (ua.Variant(1, ua.VariantType.Int32), ua.Variant("why"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedStation]:
    async with served_vision(OpcUaServerSettings(port=free_port()), tmp_path_factory.mktemp("pki")) as station:
        yield station


@pytest_asyncio.fixture(loop_scope="module")
async def line(served: ScriptedStation) -> AsyncIterator[tuple[ScriptedStation, Scada]]:
    """A station that is Operational, Ready, and a client that listens."""
    assert served.adapter is not None
    served.hold, served.decision = False, Decision.OK
    async with plain_client(served.adapter.endpoint) as client:
        scada = Scada(client)
        await scada.listen()
        yield served, scada
        served.release()
        served.paused = served.stuck = False
        served.model = reference(SHELF[1])
        await served.tell()


async def test_a_single_job_takes_the_frame_of_the_tag_where_it_names_none(
    line: tuple[ScriptedStation, Scada],
) -> None:
    """The tags wait for its result like for a trigger's: nothing passes on the strength of the one before."""
    station, scada = line
    uri = tag_node(scada.client, OWN, Tag.TriggerImageUri)
    await uri.write_value(ua.Variant("file:///by-tag.png"))
    station.hold = True
    job_id, error = await scada.start(part="P1")
    assert (error, await scada.state()) == (0, "SingleExecution")
    arrival = await asyncio.wait_for(station.intake.arrivals.get(), 10)
    assert arrival.image is not None
    assert (arrival.image.uri, arrival.event.part_id, arrival.event.trigger_id) == ("file:///by-tag.png", "P1", None)
    assert (arrival.event.event_id, arrival.source) == (job_id.Id, "opcua")
    tags = [tag_node(scada.client, OWN, tag) for tag in (Tag.Busy, Tag.ResultValid, Tag.Reject, Tag.Verdict)]
    assert await scada.client.read_values(tags) == [True, False, True, 0]
    assert (await scada.start())[1] == -1  # one at a time
    station.release()
    result = await scada.result()
    assert (result.JobId, result.MeasId) == (job_id, MeasIdDataType(Id=ua.String("m")))
    assert await scada.client.read_values(tags) == [False, True, False, 1]
    await scada.event(1023)
    assert await scada.state() == "Ready"


async def test_a_single_job_takes_no_frame_of_the_tag_whose_write_was_refused(
    line: tuple[ScriptedStation, Scada],
) -> None:
    """What stands there is another part's: the job gets ERROR, unless it names a frame of its own."""
    station, scada = line
    uri = tag_node(scada.client, OWN, Tag.TriggerImageUri)
    await uri.write_value(ua.Variant("file:///of-another-part.png"))
    with pytest.raises(ua.uaerrors.BadTypeMismatch):
        await uri.write_value(ua.Variant(7))
    while not station.intake.arrivals.empty():
        station.intake.arrivals.get_nowait()
    for named in ("", "file:///its-own.png"):
        job_id, error = await scada.start(uri=named)
        assert error == 0
        arrival = await asyncio.wait_for(station.intake.arrivals.get(), 10)
        assert (arrival.event.event_id, arrival.image and arrival.image.uri) == (job_id.Id, named or None)
        assert (arrival.refusal is None) is bool(named)
        assert arrival.refusal is None or arrival.refusal.detail == "TriggerImageUri: the last write was refused"
        await scada.event(1023)
    await uri.write_value(ua.Variant(""))


async def test_an_aborted_job_still_gets_its_decision_and_says_that_it_was_aborted(
    line: tuple[ScriptedStation, Scada],
) -> None:
    """Abort frees the state machine; the gate's promise stands."""
    station, scada = line
    station.hold = True
    await scada.start()
    assert await scada.call(AUTOMATIC, "Abort", *CAUSE) == [0]
    assert await scada.state() == "Ready"
    assert await scada.call(AUTOMATIC, "Abort", *CAUSE) == [-1]
    station.release()
    assert ResultState((await scada.result()).ResultState) is ResultState.ABORTED


async def test_a_stopped_single_job_ends_when_its_part_is_judged(line: tuple[ScriptedStation, Scada]) -> None:
    """Stop waits, Abort does not."""
    station, scada = line
    station.hold = True
    await scada.start()
    assert await scada.call(AUTOMATIC, "Stop", *CAUSE) == [0]
    assert await scada.state() == "SingleExecution"
    station.release()
    moved = [(await scada.event(1018)).Transition.Text for _ in range(2)]
    assert moved == ["ReadyToSingleExecution", "SingleExecutionToReadyStop"]
    assert await scada.call(AUTOMATIC, "Stop", *CAUSE) == [-1]


async def test_parts_of_a_continuous_job_are_marked_whichever_way_they_come(
    line: tuple[ScriptedStation, Scada],
) -> None:
    """A trigger by tag within the job belongs to it; one after it is a job of its own."""
    _, scada = line
    job_id, error = await scada.start("StartContinuous")
    assert error == 0
    trigger = tag_node(scada.client, OWN, Tag.Trigger)
    for number, stop in ((101, True), (102, False)):
        await trigger.write_value(ua.Variant(number, ua.VariantType.UInt32))
        result = await scada.result()
        assert (result.JobId == job_id, result.MeasId is not None) == (stop, stop)
        if stop:
            assert await scada.call(AUTOMATIC, "Stop", *CAUSE) == [0]
        else:
            assert result.JobId.Id == result.ResultId.Id


async def test_simulation_marks_parts_that_are_started_over_opcua(line: tuple[ScriptedStation, Scada]) -> None:
    """By trigger and by method, until it is switched off."""
    _, scada = line
    for activate in (True, False):
        assert await scada.call(AUTOMATIC, "SimulationMode", ua.Variant(activate), *CAUSE) == [0]
        await scada.start()
        assert bool((await scada.result()).IsSimulated) is activate


async def test_an_error_verdict_is_a_failed_result(line: tuple[ScriptedStation, Scada]) -> None:
    """It has no recipe where no model judged; its content says why."""
    station, scada = line
    station.decision = Decision.ERROR
    await scada.start()
    result = await scada.result()
    assert ResultState(result.ResultState) is ResultState.FAILED
    assert result.ResultContent is not None
    assert Reason.FRAME_MISSING in result.ResultContent[0].Value
    assert (result.InternalRecipeId.Id, result.ExternalRecipeId) == ("", None)


async def test_a_hanging_station_is_in_error_and_tells_so(line: tuple[ScriptedStation, Scada]) -> None:
    """ErrorEvent and ErrorResolvedEvent, each with its transition."""
    station, scada = line
    station.stuck = True
    await station.tell()
    event = await scada.event(1019)
    assert (event.Transition.Text, event.FromState.Text, event.ToState.Text, event.Severity) == (
        "OperationalToErrorAuto",
        "Operational",
        "Error",
        800,
    )
    assert await scada.state() == "Error"
    described = await scada.client.get_node(f"ns={OWN};s=line1.VisionSystem.SystemState").read_value()
    assert (described.State.name, described.StateDescription) == ("UDT_5", "compute: hangs")
    assert (await scada.start())[1] == -1
    station.stuck = False
    await station.tell()
    assert (await scada.event(1020)).ToState.Text == "Operational"
    assert await scada.state() == "Ready"


async def test_a_pause_by_another_way_is_seen_as_halted(line: tuple[ScriptedStation, Scada]) -> None:
    """And a resume as a way back to Ready."""
    station, scada = line
    station.paused = True
    await station.tell()
    assert await scada.state() == "Halted"
    station.paused = False
    await station.tell()
    assert await scada.state() == "Ready"


async def test_reset_is_always_executable_and_pauses_until_automatic_mode_is_selected(
    line: tuple[ScriptedStation, Scada],
) -> None:
    """From any state, also from Preoperational itself."""
    station, scada = line
    station.commands.clear()
    for _ in range(2):
        assert await scada.call(MACHINE, "Reset", *CAUSE) == [0]
        assert await scada.state() == "Preoperational"
    assert station.commands == [CommandName.RESET_FAULT, CommandName.PAUSE] * 2
    assert await scada.call(MACHINE, "SelectModeAutomatic") == [0]
    assert await scada.call(MACHINE, "SelectModeAutomatic") == [-1]
    assert (await scada.state(), station.paused) == ("Ready", False)


async def test_what_the_service_refuses_is_an_error_and_changes_no_state(line: tuple[ScriptedStation, Scada]) -> None:
    """The text is in the service's log; the standard has a number for it."""
    station, scada = line
    station.refuse = "no"
    assert await scada.call(MACHINE, "Halt", *CAUSE) == [-4]
    assert await scada.state() == "Ready"
    station.refuse = "its golden frames do not reproduce"
    internal = variant(3013, RecipeIdInternalDataType(Id=ua.String("canister@1")))
    refused = await scada.call(RECIPES, "PrepareRecipe", variant(3002, empty(3002)), internal)
    assert refused == [empty(3013), False, -4]


async def test_ids_without_a_text_say_nothing(line: tuple[ScriptedStation, Scada]) -> None:
    """A null String, or no structure at all, is the same as an empty id; a structure of another kind is refused.

    A client that has a type for it sends no structure as an extension object of no type, without a body.
    """
    _, scada = line
    null = [type(empty(data_type))(Id=None) for data_type in (3015, 3004, 3002, 3003)]
    structures = [ua.Variant(one, ua.VariantType.ExtensionObject) for one in null]
    parameters = ua.Variant([], ua.VariantType.Variant, is_array=True)
    untyped = ua.Variant(ua.ExtensionObject(), ua.VariantType.ExtensionObject)
    for ids in (structures, [ua.Variant()] * 4, [untyped] * 4):
        job_id, error = await scada.call(AUTOMATIC, "StartSingleJob", *ids, parameters)
        assert error == 0
        result = await scada.result()
        assert (result.JobId, result.MeasId, result.PartId, result.ProductId) == (job_id, None, None, None)
        await scada.event(1023)
    number = ua.Variant([ua.Variant(1)], ua.VariantType.Variant, is_array=True)
    assert (await scada.call(AUTOMATIC, "StartSingleJob", *structures, number))[1] == -4
    with pytest.raises(ua.uaerrors.BadInvalidArgument):
        await scada.call(AUTOMATIC, "StartSingleJob", *structures[::-1], parameters)
    assert await scada.state() == "Ready"


async def test_results_are_listed_by_no_id_at_all(line: tuple[ScriptedStation, Scada]) -> None:
    """Each of the eight structures is null, as a client sends what it does not ask for."""
    _, scada = line
    await scada.start(part="L")
    listed = (await scada.result()).ResultId.Id
    nothing = ua.Variant(ua.ExtensionObject(), ua.VariantType.ExtensionObject)
    numbers = (ua.Variant(number, ua.VariantType.UInt32) for number in (1, 0))
    state, timeout = (ua.Variant(0, ua.VariantType.Int32) for _ in range(2))
    found = await scada.call(RESULTS, "GetResultListFiltered", state, *[nothing] * 8, *numbers, timeout)
    assert ([one.ResultId.Id for one in found[3]], found[-1]) == ([listed], 0)
    await scada.event(1023)


async def test_ready_falls_before_unprepare_recipe_returns(line: tuple[ScriptedStation, Scada]) -> None:
    """The service tells its state a moment later: a trigger until then was taken, and answered ERROR."""
    _, scada = line
    shown = [tag_node(scada.client, OWN, tag) for tag in (Tag.Ready, Tag.Fault, Tag.MissedTriggers, Tag.TriggerAck)]
    *_, missed, taken = await scada.client.read_values(shown)
    plant, nothing = variant(3002, RecipeIdExternalDataType(Id=ua.String("canister"))), variant(3013, empty(3013))
    assert (await scada.call(RECIPES, "UnprepareRecipe", plant, nothing))[-1] == 0
    await tag_node(scada.client, OWN, Tag.Trigger).write_value(ua.Variant(900, ua.VariantType.UInt32))
    assert await scada.client.read_values(shown) == [False, True, missed + 1, taken]
    assert (await scada.call(RECIPES, "PrepareRecipe", plant, nothing))[-1] == 0
    assert await scada.client.read_values(shown[:1]) == [True]


async def test_ids_that_are_too_long_are_refused(line: tuple[ScriptedStation, Scada]) -> None:
    """They would be kept with the last hundred results."""
    _, scada = line
    assert (await scada.start(part="P" * 257))[1] == -4
    assert await scada.state() == "Ready"
    await scada.start(part="P" * 256)
    result = await scada.result()
    assert result.PartId is not None
    assert len(result.PartId.Id) == 256


async def test_recipes_are_models_and_only_one_is_prepared(line: tuple[ScriptedStation, Scada]) -> None:
    """Prepare by the plant's id takes the newest version; unprepare leaves the station Initialized."""
    station, scada = line

    async def listed(prepared: int, most: int = 0, start: int = 0) -> list[Any]:
        numbers = (ua.Variant(number, ua.VariantType.UInt32) for number in (most, start))
        tristate, timeout = (ua.Variant(number, ua.VariantType.Int32) for number in (prepared, 0))
        either = (variant(3002, empty(3002)), variant(3003, empty(3003)))
        return await scada.call(RECIPES, "GetRecipeListFiltered", *either, tristate, *numbers, timeout)

    plant = variant(3002, RecipeIdExternalDataType(Id=ua.String("canister")))
    nothing = variant(3013, empty(3013))
    internal, completed, error = await scada.call(RECIPES, "PrepareRecipe", plant, nothing)
    assert (internal.Id, completed, error) == ("canister@2", True, 0)
    assert station.model is not None
    assert (station.model.name, station.model.version) == ("canister", "2")
    assert (await scada.event(1022)).InternalId.Id == "canister@2"
    complete, count, handle, recipes, error = await listed(1)
    assert (complete, count, handle, error) == (True, 1, 0, 0)
    assert (recipes[0].Id, recipes[0].Hash) == ("canister@2", b"\xab" * 32)
    assert [one.Id for one in (await listed(0))[3]] == ["canister@1", "lid@1"]
    assert (await listed(2, most=2))[:2] == [False, 2]
    assert (await listed(2, most=2, start=2))[:2] == [True, 1]
    assert (await listed(7))[-1] == -4

    assert (await scada.start(recipe="lid"))[1] == -3  # not the one that is prepared
    for wrong in ("nonsense", ""):
        other = variant(3013, RecipeIdInternalDataType(Id=ua.String(wrong)))
        assert (await scada.call(RECIPES, "PrepareRecipe", variant(3002, empty(3002)), other))[-1] == -3
    assert (await scada.call(RECIPES, "UnprepareRecipe", plant, nothing))[-1] == 0
    assert await scada.state() == "Initialized"
    assert (await scada.start())[1] == -1
    lid = variant(3002, RecipeIdExternalDataType(Id=ua.String("lid")))
    assert (await scada.call(RECIPES, "PrepareRecipe", lid, nothing))[-1] == 0
    assert await scada.state() == "Ready"
    assert station.model == reference(SHELF[2])


async def test_methods_take_only_what_the_standard_gives_them(line: tuple[ScriptedStation, Scada]) -> None:
    """On the object that has them, with its arguments; anything else has the status that says why."""
    _, scada = line
    for owner, method, arguments, expected in (
        (MACHINE, "Halt", CAUSE[:1], ua.uaerrors.BadArgumentsMissing),
        (MACHINE, "Halt", (*CAUSE, ua.Variant(1)), ua.uaerrors.BadTooManyArguments),
        (MACHINE, "Halt", (ua.Variant("1"), ua.Variant("")), ua.uaerrors.BadInvalidArgument),
        (RESULTS, "GetResultById", (variant(3004, empty(3004)), CAUSE[0]), ua.uaerrors.BadInvalidArgument),
    ):
        with pytest.raises(expected):
            await scada.call(owner, method, *arguments)
    for name, wrong in ((RESULTS, ua.uaerrors.BadMethodInvalid), ("Nowhere", ua.uaerrors.BadNodeIdUnknown)):
        wrong_object = scada.client.get_node(f"ns={OWN};s=line1.VisionSystem.{name}")
        with pytest.raises(wrong):
            await wrong_object.call_method(ua.NodeId(ua.Int32(7094), ua.Int16(STANDARD)), *CAUSE)
    assert await scada.state() == "Ready"


async def test_the_folder_shows_the_last_eight_results(line: tuple[ScriptedStation, Scada]) -> None:
    """Each with its parts beside the whole; what a result does not have is Bad without a value."""
    _, scada = line
    ids = []
    for number in range(9):
        await scada.start(part=f"F{number}")
        ids.append((await scada.result()).ResultId.Id)
        await scada.event(1023)
    folder = scada.client.get_node(f"ns={OWN};s=line1.VisionSystem.{RESULTS}.Results")
    shown = {}
    for slot in await folder.get_children():
        result = await slot.read_value()
        shown[result.ResultId.Id] = slot
    assert set(shown) == set(ids[1:])
    slot = shown[ids[-1]]
    state = await (await slot.get_child(f"{STANDARD}:ResultState")).read_value()
    part = await (await slot.get_child(f"{STANDARD}:PartId")).read_value()
    product = await (await slot.get_child(f"{STANDARD}:ProductId")).read_data_value(raise_on_bad_status=False)
    assert (state, part.Id) == (ResultState.COMPLETED, "F8")
    assert product.StatusCode == ua.StatusCode(ua.UInt32(ua.StatusCodes.BadNoData))


async def test_users_may_do_what_their_role_allows(tmp_path: Path) -> None:
    """An operator looks, a PLC controls, an engineer chooses the model; nobody writes the state.

    What a method says of it (UserExecutable) is true; an object says nothing of it.
    """
    assert set(RIGHTS) == {declared.name for declared in METHODS}
    secret = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")
    users = tmp_path / "users"
    users.write_text("".join(f"{role}:{role}:{secret}\n" for role in ("operator", "plc", "engineer")))
    settings = OpcUaServerSettings(port=free_port(), anonymous=False, users_file=users)
    prepare = (variant(3002, RecipeIdExternalDataType(Id=ua.String("lid"))), variant(3013, empty(3013)))
    calls = {
        Right.READ: (RESULTS, "GetResultById", (variant(3021, ResultIdDataType(Id=ua.String("x"))), CAUSE[0])),
        Right.CONTROL: (AUTOMATIC, "SimulationMode", (ua.Variant(True), *CAUSE)),
        Right.CHOOSE_MODEL: (RECIPES, "PrepareRecipe", prepare),
    }
    allowed, told = {}, {}
    async with served_vision(settings, tmp_path) as station:
        assert station.adapter is not None
        for role in ("operator", "plc", "engineer"):
            client = plain_client(station.adapter.endpoint)
            client.set_user(role)
            client.set_password("secret")
            async with client:
                scada, may, says = Scada(client), set(), set()
                for right, (owner, method, arguments) in calls.items():
                    owned = client.get_node(f"ns={OWN};s=line1.VisionSystem.{owner}")
                    called = await owned.get_child(f"{STANDARD}:{method}")
                    executable = (await called.read_attribute(ua.AttributeIds.UserExecutable)).Value
                    if executable is not None and executable.Value:
                        says.add(right)
                    try:
                        await scada.call(owner, method, *arguments)
                        may.add(right)
                    except ua.uaerrors.BadUserAccessDenied:
                        pass
                allowed[role], told[role] = may, says
                with pytest.raises(ua.uaerrors.BadAttributeIdInvalid):
                    await client.nodes.objects.read_attribute(ua.AttributeIds.UserAccessLevel)
                state = client.get_node(f"ns={OWN};s=line1.VisionSystem.{MACHINE}.CurrentState")
                with pytest.raises(ua.UaError):
                    await state.write_value(ua.Variant(ua.LocalizedText("Halted")))
    assert allowed == {
        "operator": {Right.READ},
        "plc": {Right.READ, Right.CONTROL},
        "engineer": {Right.READ, Right.CONTROL, Right.CHOOSE_MODEL},
    }
    assert told == allowed


async def test_without_the_setting_there_is_nothing_but_the_tags(tmp_path: Path) -> None:
    """machine_vision = false: no namespace, no object."""
    async with served_vision(OpcUaServerSettings(port=free_port(), machine_vision=False), tmp_path) as station:
        assert station.adapter is not None
        async with plain_client(station.adapter.endpoint) as client:
            assert await client.get_namespace_array() == ["http://opcfoundation.org/UA/", "urn:cangate"]
            names = {(await node.read_browse_name()).Name for node in await client.nodes.objects.get_children()}
            assert "VisionSystem" not in names
