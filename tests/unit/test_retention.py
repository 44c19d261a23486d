"""When old events are forgotten, whatever the wall clock does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from adapters.journal.retention import Retention

HOUR_S = 3600.0
START = datetime(2026, 1, 1, tzinfo=UTC)


class TwoHands:
    """A wall clock and a monotonic one, each turned by itself."""

    def __init__(self) -> None:
        self.wall = START
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        raise AssertionError("it stands still while the machine sleeps")

    epoch = "test"

    def run(self, hours: float) -> None:
        """Let both run."""
        self.wall += timedelta(hours=hours)
        self.seconds += hours * HOUR_S


def noting(asked: list[datetime], clock: TwoHands, *, last_event: datetime | None = None) -> Retention:
    """Return what keeps events for 90 days, and only notes what it would forget."""

    async def newest() -> datetime | None:
        return last_event

    async def forget(before: datetime) -> int:
        asked.append(before)
        return 0

    return Retention(forget, newest=newest, keep=timedelta(days=90), clock=clock, steady_s=lambda: clock.seconds)


@pytest.mark.parametrize("jump_days", [100.0, -100.0, 0.2])
async def test_nothing_is_forgotten_for_a_day_after_the_clock_jumped(jump_days: float) -> None:
    """Ahead it would delete what is new; set back it has just been shown to have been wrong."""
    clock, asked = TwoHands(), list[datetime]()
    retention = noting(asked, clock)
    await retention.once()
    assert asked == [START - timedelta(days=90)]
    clock.wall += timedelta(days=jump_days)
    for hours in (0.1, 1.0, 22.0):
        clock.run(hours)
        await retention.once()
    assert len(asked) == 1
    clock.run(2.0)
    await retention.once()
    assert asked[1:] == [clock.wall - timedelta(days=90)]


async def test_clock_that_is_corrected_a_little_keeps_nothing_waiting() -> None:
    """As NTP does, and as a clock that drifts by a second a day does for years."""
    clock, asked = TwoHands(), list[datetime]()
    retention = noting(asked, clock)
    for _ in range(3):
        clock.run(1.0)
        clock.wall += timedelta(minutes=10)
        await retention.once()
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("idle_days", "waits"), [(None, False), (-3.0, False), (0.5, False), (1.5, True), (200.0, True)]
)
async def test_clock_that_left_a_day_out_before_the_start_is_not_believed_at_once(
    *, idle_days: float | None, waits: bool
) -> None:
    """A battery that was changed, a wrong year: after a day somebody has seen it, or the line had only stood still."""
    clock, asked = TwoHands(), list[datetime]()
    last_event = None if idle_days is None else START - timedelta(days=idle_days)
    retention = noting(asked, clock, last_event=last_event)
    await retention.begin()
    await retention.once()
    assert bool(asked) is not waits
    clock.run(25.0)
    await retention.once()
    assert asked[-1] == clock.wall - timedelta(days=90)
