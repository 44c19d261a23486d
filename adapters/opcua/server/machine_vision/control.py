"""The methods of the two state machines, wired to the station."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from asyncua import ua

from adapters.opcua.server.machine_vision.data_types import (
    JobIdDataType,
    MeasIdDataType,
    PartIdDataType,
    ProductIdDataType,
    RecipeIdExternalDataType,
)
from adapters.opcua.server.machine_vision.jobs import Job
from adapters.opcua.server.machine_vision.methods import Error, Refused
from adapters.opcua.server.machine_vision.results import external_id, is_same
from adapters.opcua.server.machine_vision.state_machines import State, Transition
from adapters.opcua.server.machine_vision.system import VisionSystem
from schemas.messages import Command, CommandName
from service.ports import Clock, CommandHandler

log = structlog.get_logger(__name__)

StartPart = Callable[[str, str, str], None]
"""Starts the inspection of one part: event id, part id, image uri (empty: that of the tag TriggerImageUri)."""

_HALT: Final = (
    Transition.PREOPERATIONAL_TO_HALTED,
    Transition.ERROR_TO_HALTED,
    Transition.OPERATIONAL_TO_HALTED,
)
_RESET: Final = (
    Transition.HALTED_TO_PREOPERATIONAL,
    Transition.ERROR_TO_PREOPERATIONAL,
    Transition.OPERATIONAL_TO_PREOPERATIONAL,
)
_SELECT: Final = (Transition.PREOPERATIONAL_TO_OPERATIONAL,)
_ABORT: Final = (Transition.SINGLE_EXECUTION_TO_READY_ABORT, Transition.CONTINUOUS_EXECUTION_TO_READY_ABORT)
SOURCE: Final = "opcua"
_LONGEST_ID: Final = 256
"""Of an id, its description and the locale of that: the last hundred results keep them."""


class ControlMethods:
    """Reset, Halt, SelectModeAutomatic, StartSingleJob, StartContinuous, Stop, Abort, SimulationMode.

    Each checks its state, does what it does to the station, and takes its transition. What the service refuses is
    Error.REFUSED; a state in which the standard has no transition for the method is Error.WRONG_STATE.

    Those that pause or resume the station do so one after another, from the check to the transition: a station that
    one client has halted would else be resumed by another whose check came before. No Halt waits for the model that a
    Reset loads; that Reset then leaves the station halted.
    """

    def __init__(
        self,
        system: VisionSystem,
        *,
        clock: Clock,
        commands: Callable[[], CommandHandler | None],
        ready: Callable[[], bool],
        start_part: StartPart,
    ) -> None:
        self._system = system
        self._clock = clock
        self._commands = commands
        self._ready = ready
        self._start_part = start_part
        self._pausing = asyncio.Lock()
        self._halts = 0

    async def halt(self, cause: int, description: str) -> Sequence[Any]:
        """Stop judging at once: every event is answered ERROR until Reset and SelectModeAutomatic."""
        async with self._pausing:
            self._find(_HALT)
            with self._system.calling():
                await self._command(CommandName.PAUSE)
                self._system.move(self._system.states.take(self._find(_HALT)))
                self._halts += 1
        self._told("Halt", cause, description)
        return []

    async def reset(self, cause: int, description: str) -> Sequence[Any]:
        """Go back to Preoperational; a station that could not judge tries to load its model again."""
        halts = self._halts
        with self._system.calling():
            await self._command(CommandName.RESET_FAULT)  # may load a model: no Halt waits for that
            async with self._pausing:
                if self._halts != halts:
                    raise Refused(Error.WRONG_STATE, "halted since this Reset began")
                await self._command(CommandName.PAUSE)
                if self._system.states.main is not State.PREOPERATIONAL:
                    self._system.move(self._system.states.take(self._find(_RESET)))
        self._told("Reset", cause, description)
        return []

    async def select_mode_automatic(self) -> Sequence[Any]:
        """Judge again."""
        async with self._pausing:
            self._find(_SELECT)
            with self._system.calling():
                await self._command(CommandName.RESUME)
                self._find(_SELECT)
                self._system.move(self._system.states.begin_automatic(by_method=True))
                self._system.follow_model()
        return []

    async def start_single_job(
        self,
        meas_id: MeasIdDataType,
        part_id: PartIdDataType,
        recipe_id: RecipeIdExternalDataType,
        product_id: ProductIdDataType,
        parameters: list[object],
    ) -> Sequence[Any]:
        """Inspect one part. The first parameter is the uri of its frame, by default that of TriggerImageUri."""
        made = self._startable(Transition.READY_TO_SINGLE_EXECUTION, recipe_id)
        uri = parameters[0] if parameters else ""
        if not isinstance(uri, str):
            raise Refused(Error.REFUSED, "the first of Parameters is the uri of the frame, a String")
        job = self._job(meas_id, part_id, product_id)
        self._system.begin(job, made)
        self._start_part(job.id, part_id.Id or "", uri)
        return [JobIdDataType(Id=ua.String(job.id))]

    async def start_continuous(
        self,
        meas_id: MeasIdDataType,
        part_id: PartIdDataType,
        recipe_id: RecipeIdExternalDataType,
        product_id: ProductIdDataType,
        parameters: list[object],  # noqa: ARG002 - the standard's signature; a frame belongs to a part, not to this job
    ) -> Sequence[Any]:
        """Let every part from now on belong to one job, whichever way it comes in."""
        made = self._startable(Transition.READY_TO_CONTINUOUS_EXECUTION, recipe_id)
        job = self._job(meas_id, part_id, product_id)
        self._system.begin(job, made)
        return [JobIdDataType(Id=ua.String(job.id))]

    async def stop(self, cause: int, description: str) -> Sequence[Any]:
        """End the job in good order: a single one when its part is judged, a continuous one with the next part."""
        mode = self._system.states.mode
        if mode is State.SINGLE_EXECUTION:
            self._system.stop_single = True
        else:
            self._system.move(self._system.states.take(self._find((Transition.CONTINUOUS_EXECUTION_TO_READY_STOP,))))
        self._told("Stop", cause, description)
        return []

    async def abort(self, cause: int, description: str) -> Sequence[Any]:
        """End the job now; parts in work still get their gate decision, their results say Aborted."""
        self._system.move(self._system.states.take(self._find(_ABORT)), aborted=True)
        self._told("Abort", cause, description)
        return []

    async def simulation_mode(self, activate: bool, cause: int, description: str) -> Sequence[Any]:
        """Mark parts that are started over OPC UA as simulated, or no longer."""
        if self._system.states.mode not in {State.INITIALIZED, State.READY}:
            raise Refused(Error.WRONG_STATE, f"not in {self._system.states.current.title}")
        self._system.simulating = activate
        self._told("SimulationMode", cause, description)
        return []

    def _find(self, candidates: Sequence[Transition]) -> Transition:
        found = self._system.states.find(*candidates)
        if found is None:
            raise Refused(Error.WRONG_STATE, f"not in {self._system.states.current.title}")
        return found

    def _startable(self, made: Transition, recipe_id: RecipeIdExternalDataType) -> Transition:
        self._find((made,))
        model = self._system.model
        if model is None or not self._ready():
            raise Refused(Error.NOT_READY, "the station is not ready")
        if not is_same(recipe_id, external_id(model)):
            raise Refused(Error.UNKNOWN_ID, f"recipe {recipe_id.Id} is not the one that is prepared")
        return made

    def _job(self, meas_id: MeasIdDataType, part_id: PartIdDataType, product_id: ProductIdDataType) -> Job:
        for given in (meas_id, part_id, product_id):
            described = given.Description or ua.LocalizedText()
            if any(len(text or "") > _LONGEST_ID for text in (given.Id, described.Text, described.Locale)):
                raise Refused(Error.REFUSED, f"an id is longer than {_LONGEST_ID} characters")
        return Job(
            self._system.jobs.next_id(),
            self._clock.now(),
            meas_id=meas_id if meas_id.Id else None,
            part_id=part_id if part_id.Id else None,
            product_id=product_id if product_id.Id else None,
        )

    async def _command(self, name: CommandName) -> None:
        commands = self._commands()
        if commands is None:
            raise Refused(Error.NOT_READY, "the service does not serve")
        reply = await commands.handle(Command(command=name), SOURCE)
        if not reply.ok:
            raise Refused(Error.REFUSED, reply.error or name.value)

    def _told(self, method: str, cause: int, description: str) -> None:
        log.info("vision_method", method=method, cause=cause, description=description[:_LONGEST_ID])
