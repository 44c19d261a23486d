"""The exact McNemar test."""

from __future__ import annotations

import pytest

from service.replay.comparison import mcnemar_p


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(0, 0, 1.0), (3, 0, 0.25), (0, 6, 0.03125), (5, 5, 1.0), (3, 7, 0.34375), (600, 600, 1.0)],
)
def test_p_is_that_of_the_binomial(first: int, second: int, p: float) -> None:
    """Twice the tail of equal chances, and no more than one; no parts tell nothing."""
    assert mcnemar_p(first, second) == pytest.approx(p)
    assert mcnemar_p(second, first) == mcnemar_p(first, second)


def test_p_of_many_parts_is_a_number() -> None:
    """Where 2 to the power of their number is none any more."""
    assert mcnemar_p(480, 600) == pytest.approx(2.9e-4, rel=0.05)
    assert mcnemar_p(0, 2000) == 0.0
