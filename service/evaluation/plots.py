"""Plots as inline SVG, drawn from scores; colours come from the style sheet of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from service.evaluation.metrics import Label

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 22, 40
"""Margins around a plot, px; on the left there is room for ticks as wide as 31.2% beside the title."""
HISTOGRAM_BINS = 40

Point = tuple[float, float]
Ticks = Sequence[tuple[float, str]]
"""Places on an axis and what is written there."""


def histogram_svg(scores: Mapping[Label, Sequence[float]], tau: float) -> str:
    """Return the distribution of the scores of each label, as shares of its frames, with tau.

    Shares, not counts: a handful of damaged frames must not vanish beside thousands of good ones.
    """
    everything = [score for members in scores.values() for score in members]
    if not everything:
        return ""
    low, high = min(*everything, tau), max(*everything, tau)
    margin = 0.03 * (high - low) or 0.01
    edges = np.linspace(low - margin, high + margin, HISTOGRAM_BINS + 1)
    shares = {
        label: np.histogram(members, edges)[0] / len(members) for label, members in scores.items() if len(members)
    }
    top = max(float(share.max()) for share in shares.values())
    plot = Plot((float(edges[0]), float(edges[-1])), (0.0, top))
    bars = "".join(
        f'<g class="{label}">'
        + "".join(
            plot.bar(float(edges[i]), float(edges[i + 1]), float(value)) for i, value in enumerate(share) if value
        )
        + "</g>"
        for label, share in shares.items()
    )
    x, _ = plot.at((tau, 0))
    anchor = "end" if x > WIDTH / 2 else "start"
    mark = (
        f'<line class="tau" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="tau" x="{x + (-5 if anchor == "end" else 5):.1f}" y="{TOP - 4}" text-anchor="{anchor}">'
        f"tau {tau:.4f}</text>"
    )
    return plot.svg(bars + mark, "image score s", "share of frames", "Distribution of the image scores")


def roc_svg(ok: Sequence[float], damaged: Sequence[float], tau: float) -> str:
    """Return recall against false rejects as the threshold moves, with tau marked; empty where a label is missing."""
    if not ok or not damaged:
        return ""
    # see `image_metrics`
    from sklearn.metrics import roc_curve  # noqa: PLC0415

    false_reject, recall, _ = roc_curve([0] * len(ok) + [1] * len(damaged), [*ok, *damaged], drop_intermediate=True)
    plot = Plot((0.0, 1.0), (0.0, 1.0))
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(plot.at, zip(false_reject, recall, strict=True)))
    x, y = plot.at((float(np.mean(np.asarray(ok) >= tau)), float(np.mean(np.asarray(damaged) >= tau))))
    side = (
        f'<polyline class="curve" points="{points}"/><circle class="tau" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
        f'<text class="tau" x="{x + 10:.1f}" y="{y + 16:.1f}">tau</text>'
    )
    return plot.svg(side, "false rejects", "recall", "Recall against false rejects")


class Plot:
    """The frame of a plot: maps values to pixels, draws axes."""

    def __init__(self, x_range: Point, y_range: Point, size_wh: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
        self._x, self._y = x_range, y_range
        self.width, self.height = size_wh

    def at(self, point: Point) -> Point:
        """Return where a point lies, in pixels."""
        across = (point[0] - self._x[0]) / (self._x[1] - self._x[0])
        up = (point[1] - self._y[0]) / (self._y[1] - self._y[0])
        return LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def bar(self, x1: float, x2: float, value: float) -> str:
        """Return a bar from zero."""
        (left, top), (right, bottom) = self.at((x1, value)), self.at((x2, 0.0))
        return f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"/>'

    def svg(
        self,
        drawing: str,
        x_title: str,
        y_title: str,
        name: str,
        *,
        share: bool = True,
        x_ticks: Ticks | None = None,
        y_ticks: Ticks | None = None,
    ) -> str:
        """Return the whole picture with axes and titles around `drawing`.

        share: the y axis counts in percent. Ticks come before that: where they are given, nothing else stands there.
        """
        lines = []
        for value, text in x_ticks or [(float(value), f"{value:.2f}") for value in np.linspace(*self._x, 6)]:
            x, y = self.at((value, self._y[0]))
            lines.append(f'<text x="{x:.1f}" y="{y + 15:.1f}" text-anchor="middle">{text}</text>')
        for value, text in y_ticks or [
            (float(value), f"{100 * value:.3g}%" if share else f"{value:.2f}") for value in np.linspace(*self._y, 5)
        ]:
            x, y = self.at((self._x[0], value))
            lines.append(f'<line class="grid" x1="{x:.1f}" x2="{self.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        center, middle = (LEFT + self.width - RIGHT) / 2, (TOP + self.height - BOTTOM) / 2
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{name}">'
            f"{''.join(lines)}{drawing}"
            f'<text class="title" x="{center}" y="{self.height - 6}" text-anchor="middle">{x_title}</text>'
            f'<text class="title" transform="rotate(-90 10 {middle})" x="10" y="{middle}" text-anchor="middle">'
            f"{y_title}</text></svg>"
        )
