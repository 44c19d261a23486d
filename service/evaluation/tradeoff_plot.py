"""The picture of a comparison: accuracy against the time of a frame, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from service.evaluation.plots import LEFT, RIGHT, Plot, Point, Ticks

SIZE_WH = (1120, 430)
RADIUS_PX = (7.0, 30.0)
"""Of the smallest mark there is, and of that of the model which takes most memory: areas are as the memory."""
_LINE_PX, _LETTER_PX = 15, 7.2
"""Height of a line of a label and width of a letter at the font size of the page, generously."""
_LEADING = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
"""Where a decade may have a tick."""

Rectangle = tuple[float, float, float, float]
"""x1, y1, x2, y2 in px."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One model: its name, a frame's time, its accuracy with what is known of its error, its memory.

    pareto: it lies on the front. words: what is written below the name.
    """

    name: str
    ms: float
    accuracy: float
    interval: tuple[float, float] | None
    memory_bytes: float | None
    pareto: bool
    words: str


def tradeoff_svg(marks: Sequence[Mark], accuracy: str) -> str:
    """Return accuracy against milliseconds, time on a logarithmic scale, with the front as a line; empty without marks.

    accuracy: name of the axis. What lies left of and above a model beats it; the front is what nothing beats.
    """
    if not marks:
        return ""
    times = [math.log10(max(mark.ms, 1e-3)) for mark in marks]
    x_range = _widened(times, share=0.12, least=0.18)
    y_range = _widened(
        [end for mark in marks for end in (mark.accuracy, *(mark.interval or ()))], share=0.1, least=0.01
    )
    plot = Plot(x_range, y_range, SIZE_WH)
    largest = max((mark.memory_bytes or 0 for mark in marks), default=0)
    radii = [_radius(mark.memory_bytes, largest) for mark in marks]
    centres = [plot.at((time, mark.accuracy)) for time, mark in zip(times, marks, strict=True)]
    # large marks first, so that none hides a smaller one
    order = sorted(range(len(marks)), key=lambda place: -radii[place])
    circles = "".join(
        f'<circle class="{"front" if marks[place].pareto else "beaten"}" cx="{centres[place][0]:.1f}" '
        f'cy="{centres[place][1]:.1f}" r="{radii[place]:.1f}"><title>{escape(marks[place].name)}: '
        f"{escape(marks[place].words)}</title></circle>"
        for place in order
    )
    bars = "".join(
        f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{plot.at((0, mark.interval[0]))[1]:.1f}" '
        f'y2="{plot.at((0, mark.interval[1]))[1]:.1f}"/>'
        for mark, (x, _) in zip(marks, centres, strict=True)
        if mark.interval
    )
    steps = _front([centre for mark, centre in zip(marks, centres, strict=True) if mark.pareto], SIZE_WH[0] - RIGHT)
    drawing = _path(steps) + bars + circles + _labels(marks, centres, radii, steps)
    return plot.svg(
        drawing,
        "median time of a frame, ms",
        escape(accuracy),
        f"{escape(accuracy)} against time",
        x_ticks=_time_ticks(x_range),
        y_ticks=_accuracy_ticks(y_range),
    )


def _radius(memory_bytes: float | None, largest: float) -> float:
    if not memory_bytes or largest <= 0:
        return RADIUS_PX[0]
    return max(RADIUS_PX[0], RADIUS_PX[1] * math.sqrt(memory_bytes / largest))


def _widened(values: Sequence[float], *, share: float, least: float) -> Point:
    """Return the range of `values` with a margin on both sides."""
    low, high = min(values), max(values)
    margin = max(share * (high - low), least)
    return low - margin, high + margin


def _front(centres: Sequence[Point], end: float) -> list[Point]:
    """Return the corners of the front, from left to right: the best accuracy to be had in a time."""
    ordered = sorted(set(centres))
    corners = ordered[:1]
    for x, y in ordered[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (end, corners[-1][1])] if corners else []


def _path(corners: Sequence[Point]) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return f'<polyline class="pareto" points="{points}"/>' if corners else ""


def _labels(marks: Sequence[Mark], centres: Sequence[Point], radii: Sequence[float], front: Sequence[Point]) -> str:
    """Write name and figures beside each mark, on the side where they cover least of what is there already."""
    taken: list[Rectangle] = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, radii, strict=True)]
    taken += [
        (min(x1, x2) - 2, min(y1, y2) - 2, max(x1, x2) + 2, max(y1, y2) + 2) for (x1, y1), (x2, y2) in pairwise(front)
    ]
    texts = []
    for mark, (x, y), radius in zip(marks, centres, radii, strict=True):
        width = _LETTER_PX * max(len(mark.name), len(mark.words))
        best = min(_places(x, y, radius, width), key=lambda place: _covered(place[0], taken))
        (left, top, right, _), anchor = best
        taken.append(best[0])
        at = {"start": left, "middle": (left + right) / 2, "end": right}[anchor]
        texts += [
            f'<text class="{kind}" x="{at:.1f}" y="{baseline:.1f}" text-anchor="{anchor}">{escape(line)}</text>'
            for kind, line, baseline in (
                ("label name", mark.name, top + 12),
                ("label", mark.words, top + 12 + _LINE_PX),
            )
        ]
    return "".join(texts)


def _places(x: float, y: float, radius: float, width: float) -> list[tuple[Rectangle, str]]:
    """Return where a label of two lines may stand, best first, each with its anchor."""
    high, gap = 2 * _LINE_PX, 6
    right, left = (x + radius + gap, x + radius + gap + width), (x - radius - gap - width, x - radius - gap)
    middle = (x - width / 2, x + width / 2)
    beside, above, below = y - high / 2, y - radius - gap - high, y + radius + gap
    return [
        ((span[0], top, span[1], top + high), anchor)
        for span, anchor, top in (
            (right, "start", beside),
            (left, "end", beside),
            (middle, "middle", above),
            (middle, "middle", below),
            (right, "start", above),
            (right, "start", below),
            (left, "end", above),
            (left, "end", below),
        )
    ]


def _covered(label: Rectangle, taken: Sequence[Rectangle]) -> float:
    """Return how much of what is taken, or of the outside, a label would cover, px squared."""
    left, top, right, bottom = label
    area = (right - left) * (bottom - top)
    inside = max(0.0, min(right, SIZE_WH[0]) - max(left, LEFT)) * max(0.0, min(bottom, SIZE_WH[1] - 45) - max(top, 0))
    return 4 * (area - inside) + sum(
        max(0.0, min(right, other[2]) - max(left, other[0])) * max(0.0, min(bottom, other[3]) - max(top, other[1]))
        for other in taken
    )


def _time_ticks(x_range: Point) -> Ticks:
    """Return round times, fewer of them where the axis spans more."""
    decades = range(math.floor(x_range[0]), math.ceil(x_range[1]) + 1)
    leading = _LEADING if x_range[1] - x_range[0] < 1 else (1, 2, 5)
    ticks = [step * 10.0**decade for decade in decades for step in leading]
    return [(math.log10(tick), f"{tick:g}") for tick in ticks if x_range[0] <= math.log10(tick) <= x_range[1]]


def _accuracy_ticks(y_range: Point) -> Ticks:
    """Return round shares, four to eight of them, none above 1."""
    span = y_range[1] - y_range[0]
    step = next(step for step in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if span / step <= 8)
    digits = 3 if step < 0.01 else 2
    first = math.ceil(y_range[0] / step - 1e-9)
    ticks = np.arange(first, math.floor(min(y_range[1], 1.0) / step + 1e-9) + 1) * step
    return [(float(tick), f"{tick:.{digits}f}") for tick in ticks]
