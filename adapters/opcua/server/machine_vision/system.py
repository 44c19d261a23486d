"""The vision system of one station: follows its status, marks its results, and tells both as nodes and events.

Whatever costs time happens a moment after the tags and the gate command are out, in the order in which it came.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, cast

import structlog
from asyncua import ua

from adapters.opcua.server.machine_vision.data_types import (
    ConfigurationDataType,
    ConfigurationIdDataType,
    JobIdDataType,
    RecipeIdExternalDataType,
    RecipeIdInternalDataType,
    ResultDataType,
)
from adapters.opcua.server.machine_vision.event_types import ERROR, ERROR_RESOLVED, JOB_STARTED, READY, RECIPE_PREPARED
from adapters.opcua.server.machine_vision.events import ALARMING, EventSender
from adapters.opcua.server.machine_vision.instance import VisionSystemNodes
from adapters.opcua.server.machine_vision.jobs import Job, Jobs
from adapters.opcua.server.machine_vision.results import Client, Results, external_id, internal_id, result_of
from adapters.opcua.server.machine_vision.state_machines import State, Transition
from adapters.opcua.server.machine_vision.states import Observation, VisionStates
from adapters.opcua.server.machine_vision.values import variant
from schemas.messages import ModelRef, Status
from service.ports import Answer, Clock

log = structlog.get_logger(__name__)

_DELAY_S: Final = 0.01
"""How long news wait: until the gate command of the same part has left."""

_NEWS: Final = 1024
"""News that wait to be told; beyond that the oldest go, as they do in any subscription's queue."""


@dataclass(frozen=True, slots=True)
class _Moved:
    made: Transition
    at: datetime
    job: Job | None


@dataclass(frozen=True, slots=True)
class _Judged:
    result: ResultDataType
    at: datetime


@dataclass(frozen=True, slots=True)
class _Prepared:
    external: RecipeIdExternalDataType
    internal: RecipeIdInternalDataType
    at: datetime


class VisionSystem:
    """State, jobs and results of the station as the companion model has them.

    model: what judges now. simulating: parts that are started here are marked as simulated.
    """

    def __init__(
        self,
        nodes: VisionSystemNodes,
        sender: EventSender,
        *,
        station: str,
        version: str,
        clock: Clock,
        clients: Callable[[], Collection[Client]],
    ) -> None:
        now = clock.now()
        self._nodes = nodes
        self._sender = sender
        self._clock = clock
        self._news: deque[_Moved | _Judged | _Prepared] = deque(maxlen=_NEWS)
        self._wake = asyncio.Event()
        self._shown = ""
        self.configuration = ConfigurationDataType(
            HasTransferableDataOnFile=cast("ua.Boolean", False),
            InternalId=ConfigurationIdDataType(Id=ua.String(station), Version=ua.String(version)),
            LastModified=cast("ua.DateTime", now),
        )
        self.states = VisionStates()
        self.jobs = Jobs(station, now)
        self.results = Results(clients)
        self.model: ModelRef | None = None
        self.stop_single = False
        self.simulating = False
        self._calls = 0
        nodes.show_configuration(self.configuration, now)
        self._show_system_state("starting")

    def start(self) -> None:
        """Leave Preoperational: the station serves now."""
        self.move(self.states.start())
        self._show_system_state("serving")

    def observe(self, status: Status) -> None:
        """Follow the station."""
        self.model = status.model
        if not self._calls:
            self.move(self.states.observe(Observation.of(status)))
        self._show_system_state(status.fault.text if status.fault else status.state.value)

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """Do not follow the station inside: a method changes it, and says itself which transition that is."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def follow_model(self) -> None:
        """Say whether a recipe is prepared, after a method has made the station operational."""
        self.move(self.states.follow_model(has_model=self.model is not None))

    def add(self, answer: Answer) -> None:
        """Take a new verdict: it can be asked for at once, and is told a moment later."""
        job, now = self.jobs.of(answer.verdict), self._clock.now()
        result = result_of(answer.verdict, answer.verdict_json.decode(), job, self.configuration.InternalId)
        self.results.add(result)
        self._tell(_Judged(result, now))
        running = self.jobs.current
        if job is not None and running is not None and job.id == running.id == answer.verdict.event_id:
            stop = (Transition.SINGLE_EXECUTION_TO_READY_STOP,) if self.stop_single else ()
            self.move(self.states.end_job(*stop))

    def begin(self, job: Job, made: Transition) -> None:
        """Start a job by the method that `made` is the transition of."""
        self.stop_single = False
        self.jobs.begin(job, single=made.value.target is State.SINGLE_EXECUTION)
        self.move(self.states.take(made))

    def move(self, taken: Iterable[Transition], *, aborted: bool = False) -> None:
        """Show transitions that were taken, and tell of them."""
        now = self._clock.now()
        for made in taken:
            self._nodes.show_state(self.states.main, self.states.mode, made, now)
            self._tell(_Moved(made, now, self.jobs.current))
        executing = self.states.mode in {State.SINGLE_EXECUTION, State.CONTINUOUS_EXECUTION}
        if not executing:
            self.jobs.end(now, aborted=aborted)

    def prepared(self, model: ModelRef) -> None:
        """Tell that a recipe is prepared."""
        self._tell(_Prepared(external_id(model), internal_id(model), self._clock.now()))

    async def run(self) -> None:
        """Tell the news until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_DELAY_S)
            self._wake.clear()
            while self._news:
                try:
                    await self._tell_now(self._news.popleft())
                except Exception:  # the supervised boundary: a defect is one piece of news that is not told
                    log.exception("machine_vision_news_failed")
                await asyncio.sleep(0)

    def _tell(self, news: _Moved | _Judged | _Prepared) -> None:
        self._news.append(news)
        self._wake.set()

    async def _tell_now(self, news: _Moved | _Judged | _Prepared) -> None:
        match news:
            case _Moved(made, at, job):
                await self._tell_moved(made, at, job)
            case _Judged(result, at):
                self._nodes.show_result(result, at)
                await self._sender.result_ready(result, at)
            case _Prepared(external, internal, at):
                fields = {"ExternalId": variant(3002, external), "InternalId": variant(3013, internal)}
                await self._sender.send(RECIPE_PREPARED, f"recipe {internal.Id} is prepared", at, fields)

    async def _tell_moved(self, made: Transition, at: datetime, job: Job | None) -> None:
        row = made.value
        await self._sender.moved(made, at)
        if row.target is State.ERROR:
            await self._sender.moved(made, at, declared=ERROR, severity=ALARMING)
        for declared, name in ((JOB_STARTED, "started"), (READY, "ended")):
            if declared.id in row.effects:
                job_id = "" if job is None else job.id
                fields = {"JobId": variant(3016, JobIdDataType(Id=ua.String(job_id)))}
                await self._sender.send(declared, f"job {job_id} {name}", at, fields)
        if ERROR_RESOLVED.id in row.effects:
            await self._sender.moved(made, at, declared=ERROR_RESOLVED)

    def _show_system_state(self, text: str) -> None:
        shown = f"{self.states.current.title}: {text}"
        if shown != self._shown:
            self._shown = shown
            self._nodes.show_system_state(self.states.current, text, self._clock.now())
