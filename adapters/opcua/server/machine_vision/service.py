"""Everything of this package put together: what the server adapter holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from asyncua import ua
from asyncua.server.internal_session import InternalSession

from adapters.opcua.server.listener import StationServer
from adapters.opcua.server.machine_vision.address_space import NodeSpace
from adapters.opcua.server.machine_vision.control import ControlMethods, StartPart
from adapters.opcua.server.machine_vision.declarations import Declaration, NodeClass
from adapters.opcua.server.machine_vision.events import EventSender
from adapters.opcua.server.machine_vision.instance import VisionSystemNodes
from adapters.opcua.server.machine_vision.management import ConfigurationMethods, RecipeMethods, ResultMethods
from adapters.opcua.server.machine_vision.methods import RIGHTS, Error, Handler, Method, Refused, VisionMethods
from adapters.opcua.server.machine_vision.object_types import OBJECT_TYPES
from adapters.opcua.server.machine_vision.system import VisionSystem
from adapters.opcua.server.sessions import CALLER
from service.ports import Clock, CommandHandler, ModelShelf

METHODS: Final = tuple(
    member for type_ in OBJECT_TYPES for member in type_.members if member.node_class is NodeClass.METHOD
)
"""Every method that the station offers."""


async def add_vision_system(
    server: StationServer,
    *,
    own: int,
    station: str,
    version: str,
    clock: Clock,
    models: ModelShelf | None,
    commands: Callable[[], CommandHandler | None],
    ready: Callable[[], bool],
    show_ready: Callable[[], None],
    start_part: StartPart,
) -> VisionSystem:
    """Add types, the VisionSystem object and its methods to a server that is not started.

    Args:
        server: the station's server.
        own: index of our namespace.
        station: id of the station.
        version: of this software; names the configuration.
        clock: for times.
        models: the recipes; None where there are none.
        commands: where commands go while the service serves, else None.
        ready: whether a part would be judged now, as the tag Ready says.
        show_ready: writes that tag anew.
        start_part: starts the inspection of one part.
    """
    space = await NodeSpace.create(server, own=own)
    nodes = VisionSystemNodes.create(space, server.iserver.aspace, station, clock.now())
    system = VisionSystem(
        nodes,
        EventSender(server, space, nodes),
        station=station,
        version=version,
        clock=clock,
        clients=lambda: server.iserver.sessions,
    )
    control = ControlMethods(system, clock=clock, commands=commands, ready=ready, start_part=start_part)
    recipes = RecipeMethods(system, models=models, commands=commands, show_ready=show_ready)
    results = ResultMethods(system, caller=partial(_caller, server))
    handlers = dict(_handlers(control, results, recipes, ConfigurationMethods(system)))
    methods = {
        space.of(declared.id): _method(declared, nodes.owners[space.of(declared.id)], handlers[declared.name])
        for declared in METHODS
    }
    server.iserver.method_service.stop()
    server.iserver.method_service = VisionMethods(server.iserver.aspace, methods)
    return system


def _caller(server: StationServer) -> InternalSession:
    """Return the session whose call is carried out.

    It is found by the very object of its user, which each login makes anew; one that has ended meanwhile is refused,
    since handles of nobody would belong to all who have gone.
    """
    user = CALLER.get()
    for session in server.iserver.sessions:
        if session.user is user:
            return session
    raise Refused(Error.REFUSED, "the session of the call has ended")


def _method(declared: Declaration, owner: ua.NodeId, handler: Handler) -> Method:
    return Method(declared, owner, RIGHTS[declared.name], handler)


def _handlers(
    control: ControlMethods, results: ResultMethods, recipes: RecipeMethods, configurations: ConfigurationMethods
) -> Iterator[tuple[str, Handler]]:
    yield "Reset", control.reset
    yield "Halt", control.halt
    yield "SelectModeAutomatic", control.select_mode_automatic
    yield "StartSingleJob", control.start_single_job
    yield "StartContinuous", control.start_continuous
    yield "Stop", control.stop
    yield "Abort", control.abort
    yield "SimulationMode", control.simulation_mode
    yield "GetResultById", results.get_by_id
    yield "GetResultComponentsById", results.get_components_by_id
    yield "GetResultListFiltered", results.get_list_filtered
    yield "ReleaseResultHandle", results.release_handle
    yield "GetRecipeListFiltered", recipes.get_list_filtered
    yield "PrepareRecipe", recipes.prepare
    yield "UnprepareRecipe", recipes.unprepare
    yield "ActivateConfiguration", configurations.activate
    yield "GetConfigurationById", configurations.get_by_id
    yield "GetConfigurationList", configurations.get_list
