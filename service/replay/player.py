"""Plays recorded parts to a station as their camera did, and collects what it says of them."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from schemas.base import UtcDatetime, whole_ms
from schemas.messages import REPLAY_PREFIX, ImageEvent, Verdict
from service.ports import Clock
from service.replay.parts import RecordedPart, unix_ns

_UNHURRIED_MS = 60_000
"""Deadline of a part played at full speed: there a queue says nothing about the line."""

_PATIENCE_S = 10.0
"""How long after its deadline a verdict is still waited for."""

_UNKNOWN_DEADLINE_MS = 30_000
"""What is waited for where an event names none, and the station's default is its own business."""

_OUTSTANDING = 256
"""Parts that may wait for their verdicts at recorded speed: more than any station takes in, yet a bound."""

_MAX_EVENT_ID = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(slots=True)
class InFlightPart:
    """A part on its way to the station and back.

    event_id: a new one, since the station repeats what it said to an old one. deadline_ms: what the event asks for.
    answer: settled by the target with the verdict. due, shown, answered: on `Clock.monotonic`.
    """

    part: RecordedPart
    event_id: str
    deadline_ms: int | None
    at_speed: bool
    answer: asyncio.Future[Verdict] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    due: float = 0.0
    shown: float = 0.0
    answered: float = 0.0

    def event(self, now: datetime) -> ImageEvent:
        """Return the event that leaves at `now`: as recorded, marked as a replay, and taken anew."""
        return ImageEvent(
            event_id=self.event_id,
            part_id=self.part.event.part_id,
            trigger_id=self.part.event.trigger_id,
            captured_at=self._captured_at(now),
            deadline_ms=self.deadline_ms,
            simulated=self.part.event.simulated,
            replayed=True,
        )

    def _captured_at(self, now: datetime) -> UtcDatetime | None:
        """Return a capture time that lies as far back as it did when the part was recorded."""
        recorded = self.part.event.captured_at
        if recorded is None:
            return None
        back = timedelta(microseconds=(self.part.arrived_ns - unix_ns(recorded)) / 1000)
        believable = self.at_speed and timedelta(0) <= back <= timedelta(seconds=1)
        at = now - back if believable else now
        return whole_ms(at)


class ReplayTarget(Protocol):
    """A way in to a station. Used as an async context manager by whoever made it."""

    async def stage(self, in_flight: InFlightPart) -> None:
        """Make ready what the station will fetch; called ahead of time. Raises SinkUnavailable."""

    async def show(self, in_flight: InFlightPart) -> None:
        """Tell the station now; return when it is told, not when it has answered. Raises SinkUnavailable."""

    def clear(self, in_flight: InFlightPart) -> None:
        """Remove what `stage` has made; the part is done with."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast parts follow each other.

    speed: multiple of the recorded pace; None: as fast as the station answers, `in_flight` parts at a time.
    """

    speed: float | None
    in_flight: int = 4


@dataclass(frozen=True, slots=True)
class Played:
    """A part that was played; `verdict` is None where none came.

    spacing_error_ms: distance to the part before it, less what it should have been; None for the first part and at
    full speed. round_trip_ms: shown to answered.
    """

    part: RecordedPart
    verdict: Verdict | None
    spacing_error_ms: float | None
    round_trip_ms: float | None


async def play(
    parts: Iterator[RecordedPart], target: ReplayTarget, pace: Pace, *, clock: Clock
) -> AsyncGenerator[Played, None]:
    """Show parts one after the other and yield each with its verdict, in the order in which they were shown.

    Parts are taken from `parts` on a thread, and only as many as the pace allows are held in memory.

    Raises:
        SinkUnavailable: the way in broke. That, and any defect in showing a part, ends the play at once.
    """
    playing = _Playing(parts, target, pace, clock)
    showing = asyncio.create_task(playing.show_all(), name="replay")
    showing.add_done_callback(playing.note_end)
    try:
        while (shown := await playing.shown.get()) is not None:
            yield await playing.outcome(shown)
        await showing
    finally:
        showing.cancel()
        await asyncio.wait([showing])
        playing.clear()


class _Playing:
    def __init__(self, parts: Iterator[RecordedPart], target: ReplayTarget, pace: Pace, clock: Clock) -> None:
        self._parts = parts
        self._target = target
        self._pace = pace
        self._clock = clock
        self._run = secrets.token_hex(4)
        self._room = asyncio.Semaphore(pace.in_flight if pace.speed is None else _OUTSTANDING)
        self._open: dict[str, InFlightPart] = {}
        self._before: InFlightPart | None = None
        self._gaps: dict[str, float] = {}
        self.shown: asyncio.Queue[InFlightPart | None] = asyncio.Queue()
        self.broken: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def show_all(self) -> None:
        first_ns: int | None = None
        begun = 0.0
        number = 0
        try:
            while (part := await asyncio.to_thread(next, self._parts, None)) is not None:
                number += 1
                await self._room.acquire()
                in_flight = InFlightPart(
                    part, self._event_id(part, number), self._deadline_ms(part), self._pace.speed is not None
                )
                self._open[in_flight.event_id] = in_flight
                await self._target.stage(in_flight)
                if first_ns is None:
                    first_ns, begun = part.arrived_ns, self._clock.monotonic()
                if self._pace.speed is not None:
                    in_flight.due = begun + (part.arrived_ns - first_ns) / 1e9 / self._pace.speed
                    await asyncio.sleep(in_flight.due - self._clock.monotonic())
                in_flight.shown = self._clock.monotonic()
                in_flight.answer.add_done_callback(partial(self._note_answer, in_flight))
                self._note_gap(in_flight)
                self.shown.put_nowait(in_flight)
                await self._target.show(in_flight)
        finally:
            self.shown.put_nowait(None)

    def note_end(self, task: asyncio.Task[None]) -> None:
        """Let nobody wait for verdicts any more where showing has failed."""
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.broken.set_result(exc)

    async def outcome(self, in_flight: InFlightPart) -> Played:
        patience_s = _PATIENCE_S + (in_flight.deadline_ms or _UNKNOWN_DEADLINE_MS) / 1000
        left_s = in_flight.shown + patience_s - self._clock.monotonic()
        either: list[asyncio.Future[Verdict] | asyncio.Future[BaseException]] = [in_flight.answer, self.broken]
        await asyncio.wait(either, timeout=max(0.0, left_s), return_when=asyncio.FIRST_COMPLETED)
        answered = in_flight.answer.done()
        if self.broken.done() and not answered:
            raise self.broken.result()
        verdict = in_flight.answer.result() if answered else None
        self._finish(in_flight)
        return Played(
            part=in_flight.part,
            verdict=verdict,
            spacing_error_ms=self._gaps.pop(in_flight.event_id, None),
            round_trip_ms=(in_flight.answered - in_flight.shown) * 1000 if answered else None,
        )

    def clear(self) -> None:
        """Let go of every part that is still out."""
        for in_flight in list(self._open.values()):
            self._finish(in_flight)

    def _finish(self, in_flight: InFlightPart) -> None:
        in_flight.answer.cancel()  # a verdict that comes now is nobody's
        del self._open[in_flight.event_id]
        self._target.clear(in_flight)
        self._room.release()

    def _note_answer(self, in_flight: InFlightPart, _: asyncio.Future[Verdict]) -> None:
        in_flight.answered = self._clock.monotonic()

    def _note_gap(self, in_flight: InFlightPart) -> None:
        before, self._before = self._before, in_flight
        if before is not None and self._pace.speed is not None:
            error_s = (in_flight.shown - before.shown) - (in_flight.due - before.due)
            self._gaps[in_flight.event_id] = error_s * 1000

    def _event_id(self, part: RecordedPart, number: int) -> str:
        recorded = part.event.event_id
        event_id = f"{REPLAY_PREFIX}{self._run}-{number}/{recorded}"
        # of a refused event: a name that no valid event may have, nor every broker pass on
        if len(event_id) <= _MAX_EVENT_ID and not _CONTROL.search(event_id):
            return event_id
        return f"{REPLAY_PREFIX}{self._run}-{number}/sha256:{hashlib.sha256(recorded.encode()).hexdigest()}"

    def _deadline_ms(self, part: RecordedPart) -> int | None:
        return part.event.deadline_ms if self._pace.speed is not None else _UNHURRIED_MS
