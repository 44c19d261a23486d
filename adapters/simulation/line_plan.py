"""What will happen on a simulated belt: which part passes the camera when, and when it reaches the gate.

Everything follows from a seed, and the belt from an encoder: it counts pulses while the belt moves and stands while it
stands. A part is known by the count at which it was photographed, and is at its gate so many pulses later, however long
the belt stood in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from zlib import crc32

import numpy as np

_BURST_PARTS = (3, 8)
_BURST_DISTANCE = 0.25
"""Distance of parts in a burst, as a share of the ordinary one."""

_CLOSEST = 0.1
"""Parts do not lie on each other, whatever the jitter says."""


class Fault(StrEnum):
    """What is wrong with the frame of a part."""

    NONE = "none"
    MISSING = "missing"
    CUT_OFF = "cut off"
    BLANK = "blank"


@dataclass(frozen=True, slots=True)
class LineRates:
    """How a line behaves; shares are of all parts.

    rate_hz: parts a second while the belt moves evenly. jitter: standard deviation of their distance, as a share of it.
    bursts: share of parts that begin a burst of three to eight close together. stops: share of parts after which the
    belt stands, for `stop_s`. damaged, wrong, missing: share of damaged parts, of frames that are no use (cut off, or
    blank), and of frames that never come.
    """

    rate_hz: float = 2.0
    jitter: float = 0.1
    bursts: float = 0.02
    stops: float = 0.01
    stop_s: tuple[float, float] = (1.0, 5.0)
    damaged: float = 0.1
    wrong: float = 0.01
    missing: float = 0.01


@dataclass(frozen=True, slots=True)
class Belt:
    """The belt between camera and gate: speed, distance, and the pulses that its encoder gives."""

    speed_mm_s: float = 500.0
    gate_mm: float = 750.0
    pulses_per_mm: float = 10.0

    @property
    def to_gate_s(self) -> float:
        """Return how long a part takes to the gate while the belt moves."""
        return self.gate_mm / self.speed_mm_s


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """One part. at_s, gate_at_s: when camera and gate see it, from the start. encoder: the count at the camera.

    picture: a number that picks its picture out of a pool of any size.
    """

    number: int
    at_s: float
    gate_at_s: float
    encoder: int
    damaged: bool
    fault: Fault
    picture: int


@dataclass(frozen=True, slots=True)
class _Placed:
    number: int
    position_mm: float
    damaged: bool
    fault: Fault
    picture: int
    stop_s: float
    """How long the belt stands when this part has just passed the camera."""


def plan_line(seed: int, station: str, rates: LineRates, belt: Belt) -> Iterator[PlannedPart]:
    """Yield parts without end; the same for the same arguments, whatever other stations there are."""
    travelling: deque[_Placed] = deque()  # past the camera, not yet at the gate
    stood: deque[tuple[float, float]] = deque()  # where the belt stood, and for how long
    stood_before_s = 0.0  # stops that every travelling part has behind it
    for placed in _place(np.random.default_rng([seed, crc32(station.encode())]), rates, belt):
        while travelling and travelling[0].position_mm + belt.gate_mm <= placed.position_mm:
            part = travelling.popleft()
            while stood and stood[0][0] < part.position_mm:
                stood_before_s += stood.popleft()[1]
            waits_s = sum(seconds for at_mm, seconds in stood if at_mm < part.position_mm + belt.gate_mm)
            at_s = part.position_mm / belt.speed_mm_s + stood_before_s
            yield PlannedPart(
                number=part.number,
                at_s=at_s,
                gate_at_s=at_s + belt.to_gate_s + waits_s,
                encoder=round(part.position_mm * belt.pulses_per_mm) % 2**32,
                damaged=part.damaged,
                fault=part.fault,
                picture=part.picture,
            )
        travelling.append(placed)
        if placed.stop_s:
            stood.append((placed.position_mm, placed.stop_s))


def _place(rng: np.random.Generator, rates: LineRates, belt: Belt) -> Iterator[_Placed]:
    """Put parts onto the belt, one behind the other."""
    distance_mm = belt.speed_mm_s / rates.rate_hz
    position_mm, number, in_burst = 0.0, 0, 0
    while True:
        number += 1
        # every part draws as much, so that one rate changed does not change what the others drew
        step, burst, stop, damage, wrong, missing = rng.random(6)
        normal, length, stop_s, picture = (
            rng.normal(),
            rng.integers(*_BURST_PARTS, endpoint=True),
            rng.uniform(),
            rng.integers(2**31),
        )
        share = _BURST_DISTANCE if in_burst else 1.0
        in_burst = max(0, in_burst - 1) if in_burst else int(length) * (burst < rates.bursts)
        position_mm += distance_mm * max(_CLOSEST, share * (1 + rates.jitter * normal))
        fault = Fault.NONE
        if missing < rates.missing:
            fault = Fault.MISSING
        elif wrong < rates.wrong:
            fault = Fault.CUT_OFF if step < 0.5 else Fault.BLANK
        low_s, high_s = rates.stop_s
        yield _Placed(
            number=number,
            position_mm=position_mm,
            damaged=bool(damage < rates.damaged),
            fault=fault,
            picture=int(picture),
            stop_s=float(low_s + (high_s - low_s) * stop_s) if stop < rates.stops else 0.0,
        )
