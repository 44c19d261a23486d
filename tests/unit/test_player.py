"""How a play ends."""

from __future__ import annotations

import asyncio

import pytest

from adapters.clock import SystemClock
from service.errors import SinkUnavailable
from service.replay.player import InFlightPart, Pace, Played, play
from tests.support.recordings import recorded_part


class BrokenTarget:
    """A way in that never hears a verdict, and fails at one step of one part.

    Args:
        step: "stage" or "show".
        at: number of the part, from 0.
        error: what is raised then.
    """

    def __init__(self, step: str, at: int, error: Exception) -> None:
        self._step, self._at, self._error = step, at, error
        self.calls: list[str] = []
        self.cleared = 0

    async def stage(self, in_flight: InFlightPart) -> None:  # noqa: ARG002 - the port's signature
        self._note("stage")

    async def show(self, in_flight: InFlightPart) -> None:  # noqa: ARG002 - as above
        self._note("show")

    def clear(self, in_flight: InFlightPart) -> None:  # noqa: ARG002 - as above
        self.cleared += 1

    def _note(self, step: str) -> None:
        self.calls.append(step)
        if step == self._step and self.calls.count(step) > self._at:
            raise self._error


async def played(target: BrokenTarget, count: int) -> list[Played]:
    parts = iter([recorded_part(number) for number in range(count)])
    async with asyncio.timeout(20):  # shorter than what any part is waited for
        return [one async for one in play(parts, target, Pace(None, 4), clock=SystemClock())]


@pytest.mark.parametrize("error", [SinkUnavailable("broken"), KeyError("a defect")], ids=["broken", "defect"])
@pytest.mark.parametrize("at", [0, 2], ids=["first", "third"])
@pytest.mark.parametrize("step", ["stage", "show"])
async def test_play_ends_where_a_part_cannot_be_shown(step: str, at: int, error: Exception) -> None:
    """Whatever the reason: nobody waits for the parts that are out, and each that was staged is cleared."""
    target = BrokenTarget(step, at, error)
    with pytest.raises(type(error)) as raised:
        await played(target, 4)
    assert raised.value is error
    assert target.cleared == target.calls.count("stage") == at + 1


async def test_play_of_nothing_ends() -> None:
    """Without a word to the target."""
    target = BrokenTarget("show", 0, KeyError())
    assert await played(target, 0) == []
    assert target.calls == []
