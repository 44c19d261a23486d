"""When a verdict is due."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.settings import DeadlineSettings, DeadlineStart
from service.deadline import Deadline, Margin, deadline_monotonic
from service.ports import JournalEntry
from tests.support.clock import HandClock
from tests.support.line import CLOCK, arrival

FROM_CAPTURE = DeadlineSettings(default_ms=400)
FROM_RECEIPT = DeadlineSettings(default_ms=400, start=DeadlineStart.RECEIVED)


@pytest.mark.parametrize(
    ("settings", "age_ms", "left_ms"),
    [
        (FROM_CAPTURE, 0, 400),
        (FROM_CAPTURE, 150, 250),
        (FROM_CAPTURE, 1000, -600),
        (FROM_CAPTURE, -900, 1300),  # up to a second in the future is a clock that is a little off
        (FROM_CAPTURE, -1100, 400),  # further ahead is not believed
        (FROM_CAPTURE, None, 400),
        (FROM_RECEIPT, 150, 400),
    ],
)
def test_deadline_runs_from_capture_or_receipt(settings: DeadlineSettings, age_ms: float, left_ms: float) -> None:
    """Contract section 8: from `captured_at` where it is there and believable, else from receipt."""
    event = arrival(age_ms=age_ms)
    deadline = Deadline.of(event, settings, Margin(0, clock=CLOCK))
    assert deadline.monotonic - event.received_monotonic == pytest.approx(left_ms / 1000, abs=0.005)
    assert (deadline.at - event.received_at) / timedelta(milliseconds=1) == pytest.approx(left_ms, abs=5)


def test_deadline_of_the_event_beats_the_default() -> None:
    """An event may name its own deadline."""
    event = arrival(deadline_ms=50)
    assert Deadline.of(event, FROM_CAPTURE, Margin(0, clock=CLOCK)).monotonic == pytest.approx(
        event.received_monotonic + 0.05
    )


@pytest.mark.parametrize(("deadline_ms", "margin_ms"), [(1000, 25), (100, 25), (40, 10), (4, 1)])
def test_deadline_margin_never_eats_a_short_deadline(deadline_ms: int, margin_ms: float) -> None:
    """A missed deadline is declared a margin early, at most a quarter of the time there is; a PASS has half of that."""
    deadline = Deadline.of(arrival(deadline_ms=deadline_ms), FROM_CAPTURE, Margin(25, clock=CLOCK))
    assert deadline.monotonic - deadline.decide_by == pytest.approx(margin_ms / 1000)
    assert deadline.transit_s == pytest.approx(margin_ms / 2000)


def test_margin_is_learned_from_publish_times() -> None:
    """Travel follows the slowest of recent minutes, the rest all but the slowest percent; both forget in time."""
    clock = HandClock()
    margin = Margin("auto", clock=clock)
    first_guess = margin.seconds
    for _ in range(19):
        margin.observe(waited_s=0.020, transit_s=0.040)
    assert margin.seconds == first_guess
    margin.observe(waited_s=0.020, transit_s=0.040)
    assert (margin.seconds, margin.transit_s) == pytest.approx((0.075, 0.050))
    for _ in range(5000):
        margin.observe(waited_s=0.001, transit_s=0.002)
    assert (margin.seconds, margin.transit_s) == pytest.approx((0.055, 0.050))
    clock.seconds += 301
    margin.observe(waited_s=0.001, transit_s=0.002)
    assert (margin.seconds, margin.transit_s) == (0.010, 0.005)
    margin.observe(waited_s=0.040, transit_s=0.040)
    assert (margin.seconds, margin.transit_s) == pytest.approx((0.055, 0.050))
    for _ in range(3):
        margin.observe(waited_s=30.0, transit_s=30.0)
    assert (margin.seconds, margin.transit_s) == (0.200, 0.100)


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0.004, 0.08)), min_size=20, max_size=60))
def test_margin_transit_is_of_the_slowest_in_the_window(answers: list[tuple[float, float]]) -> None:
    """However slow and fast ones come, the margin is that of the slowest of the last five minutes."""
    clock = HandClock()
    margin = Margin("auto", clock=clock)
    seen: list[tuple[float, float]] = []
    for pause_s, transit_s in answers:
        clock.seconds += pause_s
        seen.append((clock.seconds, transit_s))
        margin.observe(waited_s=0.0, transit_s=transit_s)
    slowest = max(transit_s for at, transit_s in seen if at >= clock.seconds - 300)
    assert margin.transit_s == pytest.approx(min(0.1, max(0.005, 1.25 * slowest)))


def test_margin_that_is_set_does_not_move() -> None:
    """A plant that says how long it needs is believed."""
    margin = Margin(40, clock=CLOCK)
    for _ in range(100):
        margin.observe(waited_s=0.5, transit_s=0.5)
    assert (margin.seconds, margin.transit_s) == (0.040, 0.020)


@pytest.mark.parametrize(
    ("received_ago_s", "known", "left_s"),
    [
        (10.0, True, -9.0),  # the same start of the machine: the monotonic clock has gone on
        (-3600.0, True, -9.0),  # ... and does not care that the wall clock was set back
        (10.0, False, -86400.0),  # another start: the wall clock may have stood still, so the event counts as expired
        (-3600.0, False, -86400.0),
    ],
)
def test_deadline_of_an_earlier_run_survives_a_clock_that_is_set(
    received_ago_s: float, known: bool, left_s: float
) -> None:
    """An event that was due before the restart is never taken for a fresh one."""
    received_at = CLOCK.now() - timedelta(seconds=received_ago_s)
    entry = JournalEntry(
        event=arrival().event,
        image=None,
        source="mqtt",
        received_at=received_at,
        deadline_at=received_at + timedelta(seconds=1),
        deadline_monotonic=CLOCK.monotonic() - 9.0 if known else None,
        seq=None,
        verdict_json=None,
    )
    assert deadline_monotonic(entry, CLOCK) - CLOCK.monotonic() == pytest.approx(left_s, abs=0.5)
