"""The scores of two judgements of the same parts, one against the other, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from service.evaluation.metrics import Label
from service.evaluation.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Plot

SHOWN = 4000
"""Points drawn at most; of more, every n-th."""

ScorePair = tuple[float, float, Label]
"""Score on the x axis, score on the y axis, and what is known of the part."""


def scatter_panel(pairs: Sequence[ScorePair], taus: tuple[float | None, float | None], titles: tuple[str, str]) -> str:
    """Return one point a part, with both thresholds and a key; empty where there is no part with two scores."""
    if not pairs:
        return ""
    shown = pairs[:: -(-len(pairs) // SHOWN)]
    values = [value for x, y, _ in shown for value in (x, y)] + [tau for tau in taus if tau is not None]
    margin = 0.04 * (max(values) - min(values)) or 0.01
    limits = (min(values) - margin, max(values) + margin)
    plot = Plot(limits, limits)
    points = "".join(
        f'<circle class="{label}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        for x, y, label in ((*plot.at((across, up)), label) for across, up, label in shown)
    )
    (left, low), (right, high) = plot.at((limits[0], limits[0])), plot.at((limits[1], limits[1]))
    lines = f'<line class="grid" x1="{left:.1f}" y1="{low:.1f}" x2="{right:.1f}" y2="{high:.1f}"/>'
    if taus[0] is not None:
        x, _ = plot.at((taus[0], limits[0]))
        lines += f'<line class="tau" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    if taus[1] is not None:
        _, y = plot.at((limits[0], taus[1]))
        lines += f'<line class="tau" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    svg = plot.svg(lines + points, *titles, f"{titles[1]} against {titles[0]}", share=False)
    known = sorted({label for _, _, label in pairs})
    key = "".join(f'<span><i class="{label}"></i>{label}</span>' for label in known)
    return f'<div class="panel">{svg}<div class="key">{key}</div></div>'
