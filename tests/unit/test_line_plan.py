"""The plan of a simulated line: the same for a seed, as often as asked for, and true to its encoder."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.simulation.line_plan import Belt, Fault, LineRates, PlannedPart, plan_line

BELT = Belt(speed_mm_s=500.0, gate_mm=750.0, pulses_per_mm=10.0)
EVEN = LineRates(rate_hz=4.0, jitter=0.0, bursts=0.0, stops=0.0, damaged=0.0, wrong=0.0, missing=0.0)


def first(
    count: int, rates: LineRates, *, seed: int = 1, station: str = "line1", belt: Belt = BELT
) -> list[PlannedPart]:
    return list(itertools.islice(plan_line(seed, station, rates, belt), count))


def test_even_line_has_even_times() -> None:
    """Four a second, a gate a second and a half behind the camera, ten pulses a millimetre."""
    parts = first(50, EVEN)
    assert [part.number for part in parts] == list(range(1, 51))
    assert [part.at_s for part in parts] == pytest.approx([number / 4 for number in range(1, 51)])
    assert all(part.gate_at_s - part.at_s == pytest.approx(1.5) for part in parts)
    assert [part.encoder for part in parts] == [number * 1250 for number in range(1, 51)]
    assert {part.fault for part in parts} == {Fault.NONE}


def test_plan_follows_from_its_seed() -> None:
    """The same again, another one for another seed or station, whatever stations there are beside it."""
    rates = LineRates(stops=0.1, bursts=0.1)
    again = first(300, rates)
    assert first(300, rates) == again
    assert first(300, rates, seed=2) != again
    assert first(300, rates, station="line2") != again
    assert first(100, rates) == again[:100]


def test_one_rate_changes_nothing_else() -> None:
    """With more wrong frames the same parts are damaged, at the same times."""
    few, many = first(500, LineRates(wrong=0.01)), first(500, LineRates(wrong=0.5))
    assert [(part.at_s, part.damaged, part.picture) for part in few] == [
        (part.at_s, part.damaged, part.picture) for part in many
    ]
    assert sum(part.fault is not Fault.NONE for part in many) > 200


def test_rates_are_kept() -> None:
    """Shares as asked for, over many parts; both kinds of wrong frames occur."""
    parts = first(4000, LineRates(damaged=0.2, wrong=0.1, missing=0.05))
    faults = [part.fault for part in parts]
    assert sum(part.damaged for part in parts) / 4000 == pytest.approx(0.2, abs=0.03)
    assert faults.count(Fault.MISSING) / 4000 == pytest.approx(0.05, abs=0.015)
    assert (faults.count(Fault.CUT_OFF) + faults.count(Fault.BLANK)) / 4000 == pytest.approx(0.095, abs=0.02)
    assert min(faults.count(Fault.CUT_OFF), faults.count(Fault.BLANK)) > 100


def test_encoder_stands_with_the_belt() -> None:
    """A stop moves times and no count, and nobody is lost on the way to the gate."""
    moving, stopping = first(400, EVEN), first(400, replace(EVEN, stops=0.1, stop_s=(2.0, 2.0)))
    assert [part.encoder for part in stopping] == [part.encoder for part in moving]
    delays = [late.at_s - part.at_s for part, late in zip(moving, stopping, strict=True)]
    assert delays == sorted(delays)
    assert delays[-1] > 0
    steps = [round(later - delay, 6) for delay, later in itertools.pairwise(delays)]
    assert set(steps) == {0.0, 2.0}
    waits = {round(part.gate_at_s - part.at_s - 1.5, 6) for part in stopping}
    assert {0.0, 2.0} <= waits <= {2.0 * stops for stops in range(7)}


def test_bursts_bring_parts_close() -> None:
    """Never onto each other, though."""
    gaps = [later.at_s - part.at_s for part, later in itertools.pairwise(first(1000, replace(EVEN, bursts=0.05)))]
    assert min(gaps) == pytest.approx(0.25 * 0.25)
    assert max(gaps) == pytest.approx(0.25)


@given(seed=st.integers(0, 2**31), jitter=st.floats(0, 1), stops=st.floats(0, 1), gate=st.floats(1, 5000))
def test_plan_is_possible(seed: int, jitter: float, stops: float, gate: float) -> None:
    """Whatever the rates: time goes forward at the camera and at the gate, and the gate is behind the camera."""
    rates = LineRates(jitter=jitter, stops=stops)
    parts = first(60, rates, seed=seed, belt=replace(BELT, gate_mm=gate))
    for part, later in itertools.pairwise(parts):
        assert part.at_s < later.at_s
        assert part.gate_at_s < later.gate_at_s
        assert part.encoder < later.encoder
    assert all(part.gate_at_s > part.at_s for part in parts)
