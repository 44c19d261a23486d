"""The methods of result, recipe and configuration management."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from asyncua import ua

from adapters.opcua.server.machine_vision.control import SOURCE
from adapters.opcua.server.machine_vision.data_types import (
    ConfigurationIdDataType,
    ProductIdDataType,
    RecipeIdExternalDataType,
    RecipeIdInternalDataType,
    ResultIdDataType,
    TriState,
)
from adapters.opcua.server.machine_vision.methods import Error, Refused
from adapters.opcua.server.machine_vision.object_types import RESULT_MANAGEMENT
from adapters.opcua.server.machine_vision.results import Client, ResultFilter, internal_id, is_same
from adapters.opcua.server.machine_vision.state_machines import State, Transition
from adapters.opcua.server.machine_vision.system import VisionSystem
from adapters.opcua.server.machine_vision.values import empty
from schemas.messages import Command, CommandName, ModelRef
from service.ports import CommandHandler, ModelShelf, StoredModel

_T = TypeVar("_T")
_PREPARE_PATIENCE_S: Final = 1.0
"""How long PrepareRecipe waits; a longer preparation goes on, and RecipePreparedEvent tells its end."""

_COMPONENTS: Final = RESULT_MANAGEMENT.member("GetResultComponentsById").member("OutputArguments").value


class ResultMethods:
    """GetResultById, GetResultComponentsById, GetResultListFiltered, ReleaseResultHandle.

    caller: says whose call is carried out, to whom its handles belong.
    """

    def __init__(self, system: VisionSystem, *, caller: Callable[[], Client]) -> None:
        self._results = system.results
        self._caller = caller

    async def get_by_id(self, result_id: ResultIdDataType, timeout_ms: int) -> Sequence[Any]:
        """Return a handle and the result."""
        result = self._find(result_id)
        return [self._hold([result], timeout_ms), result]

    async def get_components_by_id(self, result_id: ResultIdDataType, timeout_ms: int) -> Sequence[Any]:
        """Return the parts of a result, each as an argument of its own."""
        result = self._find(result_id)
        assert isinstance(_COMPONENTS, tuple)
        parts = []
        for argument in _COMPONENTS[:-1]:
            value = getattr(result, argument.name, None)
            parts.append(empty(argument.data_type, rank=argument.rank) if value is None else value)
        parts[[argument.name for argument in _COMPONENTS].index("ResultHandle")] = self._hold([result], timeout_ms)
        return parts

    async def get_list_filtered(self, *arguments: Any) -> Sequence[Any]:  # noqa: ANN401 - the standard's twelve
        """Return what matches, newest first: is it all, how many, handle, results."""
        *ids, most, start, timeout_ms = arguments
        found, complete = _page(self._results.matching(ResultFilter(*ids)), most, start)
        return [complete, len(found), self._hold(found, timeout_ms), found]

    async def release_handle(self, handle: int) -> Sequence[Any]:
        """Let go of a result set."""
        if not self._results.release(handle, self._caller()):
            raise Refused(Error.UNKNOWN_ID, f"no handle {handle}")
        return []

    def _find(self, result_id: ResultIdDataType) -> Any:  # noqa: ANN401 - a ResultDataType, read by its fields' names
        result = self._results.find(result_id.Id or "", self._caller())
        if result is None:
            raise Refused(Error.UNKNOWN_ID, f"no result {result_id.Id} among the last")
        return result

    def _hold(self, results: Sequence[Any], timeout_ms: int) -> int:
        is_needed = timeout_ms and results
        return self._results.hold(results, self._caller()) if is_needed else 0


class RecipeMethods:
    """GetRecipeListFiltered, PrepareRecipe, UnprepareRecipe: a recipe is a version of a model in the store.

    While one is prepared or unprepared, another is refused at once: an activation may take minutes, and nothing else
    on the connection of a call that waited for it would be answered.
    """

    def __init__(
        self,
        system: VisionSystem,
        *,
        models: ModelShelf | None,
        commands: Callable[[], CommandHandler | None],
        show_ready: Callable[[], None],
    ) -> None:
        self._system = system
        self._models = models
        self._commands = commands
        self._show_ready = show_ready
        self._preparing: set[asyncio.Task[RecipeIdInternalDataType]] = set()
        self._exchange = asyncio.Lock()

    async def get_list_filtered(
        self,
        external: RecipeIdExternalDataType,
        product: ProductIdDataType,
        is_prepared: int,
        most: int,
        start: int,
        timeout_ms: int,  # noqa: ARG002 - the standard's signature; a list of ids needs no handle
    ) -> Sequence[Any]:
        """Return the recipes that match: is it all, how many, no handle, their internal ids."""
        if is_prepared not in set(TriState):
            raise Refused(Error.REFUSED, f"IsPrepared cannot be {is_prepared}")
        recipes = [
            (stored, stored == self._prepared())
            for stored in await self._stored()
            if not product.Id and is_same(external, _external(stored))
        ]
        wanted = {TriState.FALSE_0: {False}, TriState.TRUE_1: {True}}.get(TriState(is_prepared), {True, False})
        matching = [self._internal(stored) for stored, prepared in recipes if prepared in wanted]
        found, complete = _page(matching, most, start)
        return [complete, len(found), 0, found]

    async def prepare(self, external: RecipeIdExternalDataType, internal: RecipeIdInternalDataType) -> Sequence[Any]:
        """Activate a model: where its golden frames reproduce, it judges from now on."""
        self._refuse_unless(State.INITIALIZED, State.READY)
        stored = await self._find(external, internal)
        task = asyncio.create_task(self._activate(stored), name=f"prepare {stored.name}@{stored.version}")
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)
        done, _ = await asyncio.wait({task}, timeout=_PREPARE_PATIENCE_S)
        if done:
            return [task.result(), True]
        task.add_done_callback(_settle)
        return [self._internal(stored), False]

    async def unprepare(self, external: RecipeIdExternalDataType, internal: RecipeIdInternalDataType) -> Sequence[Any]:
        """Judge no more until a recipe is prepared."""
        self._refuse_unless(State.READY)
        wanted = await self._find(external, internal)
        self._refuse_while_exchanging()
        async with self._exchange:
            self._refuse_unless(State.READY)  # still: a look into the store takes its time
            model = self._system.model
            if model is None or self._models is None or wanted != self._prepared():
                raise Refused(Error.UNKNOWN_ID, "that recipe is not prepared")
            with self._system.calling():
                await self._models.unload()
                self._show_ready()  # before anything else happens: no trigger may be given from now on
                self._system.model = None
                if self._system.states.mode is State.READY:
                    self._system.move(self._system.states.take(Transition.READY_TO_INITIALIZED_RECIPE))
        return [internal_id(model)]

    async def _activate(self, stored: StoredModel) -> RecipeIdInternalDataType:
        commands = self._commands()
        if commands is None:
            raise Refused(Error.NOT_READY, "the service does not serve")
        command = Command(command=CommandName.ACTIVATE_MODEL, args={"name": stored.name, "version": stored.version})
        self._refuse_while_exchanging()
        async with self._exchange:
            self._refuse_unless(State.INITIALIZED, State.READY)
            with self._system.calling():
                reply = await commands.handle(command, SOURCE)
                if not reply.ok:
                    raise Refused(Error.REFUSED, reply.error or "the model was not activated")
                model = ModelRef.model_validate(reply.result["model"])
                self._system.model = model
                if self._system.states.mode is State.INITIALIZED:
                    self._system.move(self._system.states.take(Transition.INITIALIZED_TO_READY_RECIPE))
        self._system.prepared(model)
        return internal_id(model)

    def _refuse_unless(self, *modes: State) -> None:
        if self._system.states.mode not in modes:
            raise Refused(Error.WRONG_STATE, f"not in {self._system.states.current.title}")

    def _refuse_while_exchanging(self) -> None:
        if self._exchange.locked():
            raise Refused(Error.WRONG_STATE, "a recipe is being prepared or unprepared")

    async def _find(self, external: RecipeIdExternalDataType, internal: RecipeIdInternalDataType) -> StoredModel:
        """Return the newest recipe of those ids; at least one of them must say something."""
        matching = [
            stored
            for stored in await self._stored()
            if is_same(external, _external(stored)) and is_same(internal, self._internal(stored))
        ]
        if not matching or not (external.Id or internal.Id):
            raise Refused(Error.UNKNOWN_ID, f"no recipe {internal.Id or external.Id}")
        return matching[-1]

    async def _stored(self) -> Sequence[StoredModel]:
        return [] if self._models is None else await self._models.stored()

    def _prepared(self) -> StoredModel | None:
        model = self._system.model
        return None if model is None else StoredModel(model.name, model.version)

    def _internal(self, stored: StoredModel) -> RecipeIdInternalDataType:
        """Return the internal id, with its hash where the recipe is the prepared one."""
        if self._system.model is not None and stored == self._prepared():
            return internal_id(self._system.model)
        return RecipeIdInternalDataType(
            Id=ua.String(f"{stored.name}@{stored.version}"), Version=ua.String(stored.version)
        )


class ConfigurationMethods:
    """ActivateConfiguration, GetConfigurationById, GetConfigurationList: there is one, that of the running service."""

    def __init__(self, system: VisionSystem) -> None:
        self._configuration = system.configuration

    async def activate(self, internal: ConfigurationIdDataType) -> Sequence[Any]:
        """Do nothing for the active one; there is no other."""
        self._find(internal)
        return []

    async def get_by_id(self, internal: ConfigurationIdDataType, timeout_ms: int) -> Sequence[Any]:  # noqa: ARG002 - the standard's signature
        """Return no handle, and the configuration."""
        self._find(internal)
        return [0, self._configuration]

    async def get_list(self, most: int, start: int, timeout_ms: int) -> Sequence[Any]:  # noqa: ARG002 - the standard's signature
        """Return the one configuration: is it all, how many, no handle, the list."""
        found, complete = _page([self._configuration], most, start)
        return [complete, len(found), 0, found]

    def _find(self, internal: ConfigurationIdDataType) -> None:
        if not internal.Id or not is_same(internal, self._configuration.InternalId):
            raise Refused(Error.UNKNOWN_ID, f"no configuration {internal.Id}")


def _external(stored: StoredModel) -> RecipeIdExternalDataType:
    return RecipeIdExternalDataType(Id=ua.String(stored.name), Version=ua.String(stored.version))


def _page(found: Sequence[_T], most: int, start: int) -> tuple[list[_T], bool]:
    """Return the part that was asked for, and whether it reaches the end; 0 asks for all."""
    end = len(found) if most == 0 else min(len(found), start + most)
    return list(found[start:end]), end == len(found)


def _settle(task: asyncio.Task[RecipeIdInternalDataType]) -> None:
    """Take the outcome of a preparation that nobody waits for any more; a refusal is in the log already."""
    if not task.cancelled():
        task.exception()
