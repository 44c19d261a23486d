"""Judges recorded parts in this process, with the service's own compute and without any transport."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from schemas.messages import Gate, Verdict
from service.compute import Compute, Job, LoadedModel
from service.ports import Arrival, Clock
from service.replay.player import InFlightPart
from service.verdicts import make_verdict


class DirectStation:
    """A station without wires and without a deadline. Fulfils ReplayTarget; use with `async with`.

    Args:
        compute: loads, prepares and judges; it is closed at the end.
        model: what judges.
        station: id for the verdicts.
        gate_on_error: what a plant does with parts that cannot be judged.
        clock: for the times in the verdicts.
    """

    def __init__(
        self, compute: Compute, model: LoadedModel, *, station: str, gate_on_error: Gate, clock: Clock
    ) -> None:
        self._compute = compute
        self._model = model
        self._station = station
        self._gate_on_error = gate_on_error
        self._clock = clock
        self._seq = 0
        self._judging: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._judging:
            task.cancel()
        if self._judging:
            await asyncio.wait(self._judging)
        self._compute.close()

    async def stage(self, in_flight: InFlightPart) -> None:
        """Nothing has to be fetched."""

    async def show(self, in_flight: InFlightPart) -> None:
        """Begin to judge the part."""
        task = asyncio.create_task(self._judge(in_flight), name=f"judge {in_flight.event_id}")
        self._judging.add(task)
        task.add_done_callback(partial(self._note_end, in_flight))

    def clear(self, in_flight: InFlightPart) -> None:
        """Nothing was put anywhere."""

    def _note_end(self, in_flight: InFlightPart, task: asyncio.Task[None]) -> None:
        """Let nobody wait for a part that a defect has left without a verdict: it is raised there."""
        self._judging.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None and not in_flight.answer.done():
            in_flight.answer.set_exception(exc)
            in_flight.answer.exception()  # looked at: of several the first one is raised, and says enough

    async def _judge(self, in_flight: InFlightPart) -> None:
        arrival = Arrival(
            event=in_flight.event(self._clock.now()),
            image=in_flight.part.event.image if in_flight.part.frame is not None else None,
            received_at=self._clock.now(),
            received_monotonic=self._clock.monotonic(),
            source="direct",
            frame_bytes=in_flight.part.frame,
        )
        outcome = await self._compute.judge(Job.undated(arrival.image, arrival.frame_bytes, self._model))
        self._seq += 1
        verdict: Verdict = make_verdict(
            outcome,
            arrival,
            station=self._station,
            seq=self._seq,
            gate_on_error=self._gate_on_error,
            decided_at=self._clock.now(),
            latency_ms=(self._clock.monotonic() - arrival.received_monotonic) * 1000,
        )
        with suppress(asyncio.InvalidStateError):  # nobody waits any more
            in_flight.answer.set_result(verdict)
