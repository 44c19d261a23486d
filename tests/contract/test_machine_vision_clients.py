"""Several clients of the companion model at once, and one that asks for much: none has what is another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.crypto.permission_rules import UserRole

from adapters.clock import SystemClock
from adapters.opcua.server.machine_vision import management
from adapters.opcua.server.machine_vision.control import ControlMethods
from adapters.opcua.server.machine_vision.data_types import MeasIdDataType, RecipeIdExternalDataType, ResultIdDataType
from adapters.opcua.server.machine_vision.management import RecipeMethods
from adapters.opcua.server.machine_vision.methods import Error, Refused, VisionMethods
from adapters.opcua.server.machine_vision.results import KEPT
from adapters.opcua.server.machine_vision.system import VisionSystem
from adapters.opcua.server.machine_vision.values import empty, variant
from adapters.opcua.server.sessions import CALLER
from adapters.opcua.server.users import StationUser
from adapters.simulation.broker import free_port
from schemas.messages import Command, CommandName, CommandReply
from schemas.settings import OpcUaServerSettings
from service.ports import StoredModel
from tests.support.opcua import answer, plain_client, verdict
from tests.support.scada import AUTOMATIC, OWN, RESULTS, STANDARD, Scada
from tests.support.vision import SHELF, ScriptedStation, reference, served_vision
from tests.support.waiting import eventually, loop_turns

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("without_traceback")]
NOW = ua.Variant(0, ua.VariantType.Int32)
A_MINUTE = ua.Variant(60_000, ua.VariantType.Int32)
PLANT = RecipeIdExternalDataType(Id=ua.String("canister"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedStation]:
    async with served_vision(OpcUaServerSettings(port=free_port()), tmp_path_factory.mktemp("pki")) as station:
        yield station


@pytest_asyncio.fixture(loop_scope="module")
async def station(served: ScriptedStation) -> AsyncIterator[ScriptedStation]:
    """A station that is Operational, Ready."""
    yield served
    served.paused, served.model = False, reference(SHELF[1])
    await served.tell()


@pytest_asyncio.fixture(loop_scope="module")
async def clients(station: ScriptedStation) -> AsyncIterator[tuple[Scada, Scada]]:
    assert station.adapter is not None
    async with plain_client(station.adapter.endpoint) as one, plain_client(station.adapter.endpoint) as other:
        yield Scada(one), Scada(other)


class SlowService:
    """The station's commands, and its models, each carried out at once and confirmed a while later."""

    def __init__(self, station: ScriptedStation) -> None:
        self._station = station
        self.confirmed = asyncio.Event()
        self.asked, self.store_opens = asyncio.Event(), asyncio.Event()
        self.store_opens.set()

    async def handle(self, command: Command, source: str) -> CommandReply:
        reply = await self._station.handle(command, source)
        await self.confirmed.wait()
        return reply

    async def stored(self) -> Sequence[StoredModel]:
        self.asked.set()
        await self.store_opens.wait()
        return await self._station.stored()

    async def unload(self) -> None:
        await self._station.unload()
        await self.confirmed.wait()


def vision_of(station: ScriptedStation) -> VisionSystem:
    assert station.adapter is not None
    assert station.adapter._vision is not None
    return station.adapter._vision


def controls(station: ScriptedStation, service: SlowService) -> ControlMethods:
    return ControlMethods(
        vision_of(station),
        clock=SystemClock(),
        commands=lambda: service,
        ready=lambda: True,
        start_part=lambda *_: None,
    )


async def outcomes(service: SlowService, calls: Iterable[Callable[[], Awaitable[object]]]) -> list[Error]:
    """Make the calls one behind the other while none is confirmed yet; return how each went."""

    async def outcome(call: Callable[[], Awaitable[object]]) -> Error:
        try:
            await call()
        except Refused as exc:
            return exc.error
        return Error.OK

    service.confirmed.clear()
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(outcome(call)))
        await loop_turns(10)
    service.confirmed.set()
    return await asyncio.gather(*tasks)


async def test_automatic_mode_is_selected_by_one_of_several_clients(station: ScriptedStation) -> None:
    """The others come too late, which is a wrong state and no defect."""
    service = SlowService(station)
    control = controls(station, service)
    assert await outcomes(service, [lambda: control.reset(0, "")]) == [Error.OK]
    went = await outcomes(service, [control.select_mode_automatic] * 5)
    assert went == [Error.OK] + [Error.WRONG_STATE] * 4
    assert (vision_of(station).states.current.title, station.paused) == ("Ready", False)


async def test_halted_station_is_not_resumed_by_a_client_that_came_later(station: ScriptedStation) -> None:
    """Its Halt is acknowledged: whoever selects automatic mode meanwhile finds a station that is halted."""
    service = SlowService(station)
    control = controls(station, service)
    assert await outcomes(service, [lambda: control.reset(0, "")]) == [Error.OK]
    went = await outcomes(service, [lambda: control.halt(0, ""), control.select_mode_automatic])
    assert went == [Error.OK, Error.WRONG_STATE]
    assert (vision_of(station).states.current.title, station.paused) == ("Halted", True)


async def test_halt_waits_for_no_model_that_a_reset_loads(station: ScriptedStation) -> None:
    """It stays halted when that is over: who called Reset before may not lead it out of a Halt that came after."""
    service = SlowService(station)
    control = controls(station, service)
    station.commands.clear()
    resetting = asyncio.create_task(control.reset(0, ""))
    await loop_turns(10)
    assert station.commands == [CommandName.RESET_FAULT]
    halting = asyncio.create_task(control.halt(0, ""))
    await loop_turns(10)
    assert station.commands == [CommandName.RESET_FAULT, CommandName.PAUSE]
    service.confirmed.set()
    with pytest.raises(Refused, match="halted since") as refused:
        await resetting
    assert (refused.value.error, await halting) == (Error.WRONG_STATE, [])
    assert await outcomes(service, [control.select_mode_automatic]) == [Error.WRONG_STATE]
    assert (vision_of(station).states.current.title, station.paused) == ("Halted", True)
    assert await outcomes(service, [lambda: control.reset(0, "")]) == [Error.OK]
    assert vision_of(station).states.current.title == "Preoperational"


async def test_nobody_waits_for_a_recipe_that_is_prepared(
    station: ScriptedStation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An activation may take minutes: a call that waits would keep everything else on its connection waiting."""
    service = SlowService(station)
    recipes = RecipeMethods(vision_of(station), models=service, commands=lambda: service, show_ready=lambda: None)
    with monkeypatch.context() as impatient:
        impatient.setattr(management, "_PREPARE_PATIENCE_S", 0)
        assert (await recipes.prepare(PLANT, empty(3013)))[1] is False
    await eventually(recipes._exchange.locked)
    for method in (recipes.unprepare, recipes.prepare):
        with pytest.raises(Refused, match="being prepared") as refused:
            await asyncio.wait_for(method(PLANT, empty(3013)), 10)
        assert refused.value.error is Error.WRONG_STATE
    service.confirmed.set()
    await eventually(lambda: not recipes._preparing)
    assert await outcomes(service, [lambda: recipes.unprepare(PLANT, empty(3013))]) == [Error.OK]


async def test_recipe_is_unprepared_once_and_not_under_a_job(station: ScriptedStation) -> None:
    """Each looks into the store first, and then whether the station is still where it was."""
    service = SlowService(station)
    vision = vision_of(station)
    recipes = RecipeMethods(vision, models=service, commands=lambda: service, show_ready=lambda: None)

    def unprepare() -> Awaitable[object]:
        return recipes.unprepare(PLANT, empty(3013))

    assert await outcomes(service, [unprepare] * 3) == [Error.OK, Error.WRONG_STATE, Error.WRONG_STATE]
    assert vision.states.current.title == "Initialized"
    prepared = recipes.prepare(PLANT, empty(3013))
    assert await outcomes(service, [lambda: prepared]) == [Error.OK]
    control = controls(station, service)
    nothing = (empty(3015), empty(3004), empty(3002), empty(3003))
    for method in (unprepare, lambda: recipes.prepare(PLANT, empty(3013))):
        service.asked.clear()
        service.store_opens.clear()
        late = asyncio.create_task(outcomes(service, [method]))
        await service.asked.wait()
        await control.start_continuous(*nothing, [])
        service.store_opens.set()
        assert await late == [Error.WRONG_STATE]
        await control.abort(0, "")
    assert (vision.states.current.title, station.model) == ("Ready", reference(SHELF[1]))


async def judged(station: ScriptedStation, count: int) -> list[str]:
    """Let the station say so many verdicts; return the ids of their results."""
    assert station.adapter is not None
    ids = []
    for _ in range(count):
        station.seq += 1
        said = verdict(station.seq).model_copy(update={"received_at": datetime.now(UTC)})
        await station.adapter.publish(answer(said))
        ids.append(said.event_id)
    return ids


async def get(scada: Scada, result_id: str, needed_for: ua.Variant = A_MINUTE) -> tuple[int, int]:
    """Ask for a result; return its handle and the Error."""
    wanted = variant(3021, ResultIdDataType(Id=ua.String(result_id)))
    handle, _, error = await scada.call(RESULTS, "GetResultById", wanted, needed_for)
    return handle, error


async def release(scada: Scada, handle: int) -> int:
    (error,) = await scada.call(RESULTS, "ReleaseResultHandle", ua.Variant(handle, ua.VariantType.UInt32))
    return int(error)


async def test_handle_belongs_to_the_client_that_was_given_it(
    station: ScriptedStation, clients: tuple[Scada, Scada]
) -> None:
    """To another it is unknown; whatever that one holds, it takes nobody's place, and goes with its session."""
    assert station.adapter is not None
    one, other = clients
    (held,) = await judged(station, 1)
    handle, error = await get(one, held)
    assert (error, handle > 0) == (0, True)
    assert await release(other, handle) == Error.UNKNOWN_ID
    others = [(await get(other, held))[0] for _ in range(2 * KEPT + 1)]
    assert [await release(other, each) for each in (others[0], others[1])] == [Error.UNKNOWN_ID, Error.OK]
    await judged(station, KEPT)
    assert await get(one, held, NOW) == (0, Error.OK)
    await other.client.disconnect()
    assert await release(one, handle) == Error.OK
    assert await get(one, held, NOW) == (0, Error.UNKNOWN_ID)
    await judged(station, 1)
    assert list(vision_of(station).results._held.values()) == [{}]
    await other.client.connect()


async def test_session_that_has_ended_is_given_no_handle(station: ScriptedStation) -> None:
    """Nobody would release it."""
    assert station.adapter is not None
    assert station.adapter._server is not None
    (judged_id,) = await judged(station, 1)
    service = station.adapter._server.iserver.method_service
    assert isinstance(service, VisionMethods)
    (method_id, method), *_ = (
        (node, one) for node, one in service._methods.items() if one.declared.name == "GetResultById"
    )
    wanted = variant(3021, ResultIdDataType(Id=ua.String(judged_id)))
    token = CALLER.set(StationUser(role=UserRole.User))
    try:
        (answered,) = await service.call([ua.CallMethodRequest(method.owner, method_id, [wanted, A_MINUTE])])
    finally:
        CALLER.reset(token)
    assert [one.Value for one in answered.OutputArguments[::2]] == [0, Error.REFUSED]


async def test_one_request_answers_no_more_than_is_encoded_soon(
    station: ScriptedStation, clients: tuple[Scada, Scada]
) -> None:
    """The calls behind that are not carried out; whoever asks for them alone gets them."""
    await judged(station, KEPT)
    scada, _ = clients
    listing = await _list_request(scada)
    results = await scada.client.uaclient.call([listing] * 50)
    assert [result.StatusCode.name for result in results] == ["Good"] * 3 + ["BadTooManyOperations"] * 47
    assert [len(result.OutputArguments[3].Value) for result in results[:3]] == [KEPT] * 3
    (again,) = await scada.client.uaclient.call([listing])
    assert again.StatusCode.is_good()


async def test_others_are_served_between_the_calls_of_one_request(
    station: ScriptedStation, clients: tuple[Scada, Scada]
) -> None:
    """The event loop goes round at each of them."""
    assert station.adapter is not None
    assert station.adapter._server is not None
    listing = await _list_request(clients[0])
    turns, calling = 0, asyncio.create_task(station.adapter._server.iserver.method_service.call([listing] * 50))
    while not calling.done():
        await loop_turns(1)
        turns += 1
    assert turns >= len(await calling) == 50


async def _list_request(scada: Scada) -> ua.CallMethodRequest:
    """Return a call of GetResultListFiltered that asks for everything."""
    owner = scada.client.get_node(f"ns={OWN};s=line1.VisionSystem.{RESULTS}")
    method = await owner.get_child(f"{STANDARD}:GetResultListFiltered")
    nothing = ua.Variant(ua.ExtensionObject(), ua.VariantType.ExtensionObject)
    zero = ua.Variant(0, ua.VariantType.UInt32)
    return ua.CallMethodRequest(owner.nodeid, method.nodeid, [NOW, *[nothing] * 8, zero, zero, NOW])


@pytest.mark.parametrize(
    ("text", "locale", "error"), [("t" * 256, "l" * 256, 0), ("t" * 257, "", -4), ("", "l" * 257, -4)]
)
async def test_description_of_an_id_is_bounded_with_its_locale(
    station: ScriptedStation,  # noqa: ARG001 - it serves
    clients: tuple[Scada, Scada],
    text: str,
    locale: str,
    error: int,
) -> None:
    """They are kept with the last hundred results."""
    scada, _ = clients
    measured = MeasIdDataType(Id=ua.String("m"), Description=ua.LocalizedText(text, locale))
    ids: list[Any] = [variant(3015, measured), *[ua.Variant()] * 3]
    none = ua.Variant([], ua.VariantType.Variant, is_array=True)
    assert (await scada.call(AUTOMATIC, "StartContinuous", *ids, none))[-1] == error
    if not error:
        assert await scada.call(AUTOMATIC, "Abort", NOW, ua.Variant("")) == [0]
