"""The axis of the trend."""

from __future__ import annotations

import math

import pytest

from adapters.hmi.trend import _axis


@pytest.mark.parametrize(
    ("values", "axis"),
    [
        ([], (0.0, 1.5, 0.5)),
        ([None, None], (0.0, 1.5, 0.5)),
        ([0.0], (0.0, 0.05, 0.05)),
        ([0.5], (0.45, 0.55, 0.05)),
        ([0.4, 0.736, None, 0.9], (0.2, 1.0, 0.2)),
        ([0.37, 0.55], (0.35, 0.6, 0.05)),
        ([0.37, 0.65], (0.3, 0.7, 0.1)),
        ([0.0, 3e9], (0.0, 4e9, 1e9)),
        ([0.3, 1.7e308], (0.0, 1.5e12, 5e11)),
    ],
)
def test_axis_is_of_whole_steps(values: list[float | None], axis: tuple[float, float, float]) -> None:
    """Else the lowest label, which is where the axis begins, lies upon the next."""
    assert tuple(_axis(values).values()) == axis


@pytest.mark.parametrize("lowest", [0.0, 0.04, 0.31, 0.49, 1.7])
@pytest.mark.parametrize("width", [0.0, 0.003, 0.1, 0.26, 0.9, 17.0])
def test_axis_shows_every_value_and_few_labels(lowest: float, width: float) -> None:
    """Neither end cuts a mark off, and the labels of the lowest chart have room."""
    low, high, step = _axis([lowest, lowest + width]).values()
    assert 0 <= low <= lowest <= lowest + width < high
    assert 1 <= round((high - low) / step) <= 5
    for end in (low, high):
        assert math.isclose(end / step, round(end / step), abs_tol=1e-9)
