"""When a verdict is due."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schemas.settings import DeadlineSettings, DeadlineStart
from service.deadline import Deadline
from tests.support.line import arrival

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
    deadline = Deadline.of(event, settings)
    assert deadline.monotonic - event.received_monotonic == pytest.approx(left_ms / 1000, abs=0.005)
    assert (deadline.at - event.received_at) / timedelta(milliseconds=1) == pytest.approx(left_ms, abs=5)


def test_deadline_of_the_event_beats_the_default() -> None:
    """An event may name its own deadline."""
    event = arrival(deadline_ms=50)
    assert Deadline.of(event, FROM_CAPTURE).monotonic == pytest.approx(event.received_monotonic + 0.05)


@pytest.mark.parametrize(("deadline_ms", "margin_ms"), [(1000, 25), (100, 25), (40, 10), (4, 1)])
def test_deadline_margin_never_eats_a_short_deadline(deadline_ms: int, margin_ms: float) -> None:
    """A missed deadline is declared a margin early, at most a quarter of the time there is."""
    deadline = Deadline.of(arrival(deadline_ms=deadline_ms), DeadlineSettings(margin_ms=25))
    assert deadline.monotonic - deadline.decide_by == pytest.approx(margin_ms / 1000)
