"""Plots of a report."""

from __future__ import annotations

import re

from service.evaluation.metrics import Label
from service.evaluation.plots import histogram_svg

_EM_PX = 11
"""Of the ticks, see report.css; the title is written in letters of 12 px, and turned."""
_WIDEST = 0.65
"""Of a digit or a percent sign in sans-serif, on average, em."""


def test_ticks_leave_room_for_the_title() -> None:
    """Shares such as 31.2% end before the title of the axis begins."""
    svg = histogram_svg({Label.OK: [0.1] * 5 + [0.2] * 3 + [0.3] * 8, Label.DAMAGED: [0.9]}, 0.5)
    ticks = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end">([\d.]+%)</text>', svg)
    assert len(ticks) == 5
    (title,) = re.findall(r'<text class="title" transform="rotate\(-90 (\d+) ', svg)
    for right, text in [*ticks, (ticks[0][0], "31.2%")]:
        assert float(right) - _WIDEST * _EM_PX * len(text) > float(title) + 3
