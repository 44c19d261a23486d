"""How many parts a second there is time for."""

from __future__ import annotations

import pytest

from service.evaluation.load import Load, Spread
from service.evaluation.speed import in_time_per_s


def load(at_a_time: int, parts_per_s: float, p99_ms: float) -> Load:
    spread = Spread(median=p99_ms / 2, p95=p99_ms, p99=p99_ms, slowest=p99_ms)
    return Load(at_a_time=at_a_time, parts=10, seconds=1.0, parts_per_s=parts_per_s, whole_ms=spread)


@pytest.mark.parametrize(
    ("alone_p99_ms", "together_p99_ms", "expected"),
    [
        (50.0, 200.0, 30.0),  # in time at full load: all that full load gives
        (50.0, 500.0, 20.0),  # late at full load: one after the other, each as long as the slow ones
        (20.0, 500.0, 30.0),  # never more than full load gives
        (475.0, 475.0, 30.0),  # just in time is in time
        (476.0, 900.0, 0.0),  # late even alone
    ],
)
def test_in_time_per_s_counts_parts_that_make_their_deadline(
    alone_p99_ms: float, together_p99_ms: float, expected: float
) -> None:
    """Of 475 ms."""
    assert in_time_per_s(load(1, 15.0, alone_p99_ms), load(3, 30.0, together_p99_ms), within_ms=475.0) == expected


def test_a_spread_of_one_is_that_one() -> None:
    """The least that a measurement has."""
    assert Spread.of([7.5]) == Spread(median=7.5, p95=7.5, p99=7.5, slowest=7.5)
