"""The trend: score against limit of the last parts."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

from nicegui import ui
from nicegui.events import EChartPointClickEventArguments

from adapters.hmi.feed import LENGTH, Part
from adapters.hmi.words import listed_name, score_text, score_texts
from schemas.messages import Decision

_MUTED = "#93a4b5"
_LINE = "#2a3744"
_TEXT = "#eef3f8"
_FINEST = 0.05
"""Between two labels of the axis: noise is not to look like more."""
_MOST_STEPS = 5
"""What the lowest chart has room for."""
_HIGHEST = 1e12
"""A limit may be set to anything; what is higher lies beyond the chart."""
_FAINT = 0.4
_CROSS = "path://M2 0L5 3L8 0L10 2L7 5L10 8L8 10L5 7L2 10L0 8L3 5L0 2Z"
_MARKS = {
    Decision.OK: ("#2fd07f", "circle", 8),
    Decision.DAMAGED: ("#ff5c5c", "triangle", 15),
    Decision.ERROR: ("#ffb62e", _CROSS, 12),
}
# drawn on the canvas: a part id from the wire must never become HTML
_TOOLTIP = "p => p.data.name + '\\n' + p.seriesName + '   s ' + p.data.score + '   τ ' + p.data.tau"


class Trend:
    """A chart of the last parts: one mark each, its shape and colour the decision, and the limit as a line."""

    def __init__(self, on_pick: Callable[[int], Awaitable[None]]) -> None:
        async def pick(event: EChartPointClickEventArguments) -> None:
            point: object = event.data  # what `_mark` sent, not the number that NiceGUI declares
            if isinstance(point, dict):
                await on_pick(int(point["seq"]))

        with ui.element("section").classes("trend"):
            ui.label(f"Score s and limit τ, last {LENGTH} parts").classes("heading")
            self._chart = ui.echart(_options(), on_point_click=pick).classes("chart")

    def show(self, parts: Sequence[Part], held_seq: int | None) -> None:
        """Show `parts`, oldest first; the one that is held stands out.

        Faint are those that say nothing of the line now: replayed, or from before the restart.
        """
        verdicts = [part.verdict for part in parts]
        options = self._chart.options
        options["xAxis"]["data"] = [verdict.seq for verdict in verdicts]
        limits = [None if verdict.threshold is None else round(verdict.threshold, 4) for verdict in verdicts]
        axis = _axis([value for verdict in verdicts for value in (verdict.score, verdict.threshold)])
        options["yAxis"] |= axis
        limit = next((limit for limit in reversed(limits) if limit is not None), None)
        line, *marks = options["series"]
        line["data"] = limits
        line["endLabel"]["formatter"] = f"τ {score_text(limit)}"
        for series, decision in zip(marks, _MARKS, strict=True):
            series["data"] = [
                _mark(index, part, floor=axis["min"], held=part.verdict.seq == held_seq)
                for index, part in enumerate(parts)
                if part.verdict.decision is decision
            ]
        self._chart.update()


def _axis(values: Sequence[float | None]) -> dict[str, float]:
    """Return the axis that shows `values` with some room around them: whole steps, so no label lies near another."""
    known = [min(value, _HIGHEST) for value in values if value is not None] or [0.0, 1.0]
    room = max(0.1 * (max(known) - min(known)), 0.01)
    least, most = max(0.0, min(known) - room), max(known) + room
    steps = (_FINEST * unit * 10.0**power for power in count() for unit in (1, 2, 4))
    step = next(step for step in steps if math.ceil(most / step) - math.floor(least / step) <= _MOST_STEPS)
    low, high = math.floor(least / step) * step, math.ceil(most / step) * step
    return {"min": round(low, 2), "max": round(high, 2), "interval": step}


def _mark(index: int, part: Part, *, floor: float, held: bool) -> dict[str, object]:
    verdict = part.verdict
    score_word, tau_word = score_texts(verdict.score, verdict.threshold)
    score = floor if verdict.score is None else verdict.score  # without a score it lies on the axis
    mark: dict[str, object] = {
        "value": [index, round(score, 4)],
        "seq": verdict.seq,
        "name": listed_name(verdict),
        "score": score_word,
        "tau": tau_word,
    }
    if held:
        mark |= {"symbolSize": 20, "itemStyle": {"borderColor": _TEXT, "borderWidth": 3}}
    elif part.past or verdict.replayed:
        mark |= {"itemStyle": {"opacity": _FAINT}}
    return mark


def _options() -> dict[str, object]:
    limit = {
        "type": "line",
        "name": "limit τ",
        "data": [],
        "connectNulls": True,
        "symbol": "none",
        "silent": True,
        "step": "middle",
        "lineStyle": {"color": _TEXT, "width": 2, "type": "dashed"},
        "endLabel": {"show": True, "color": _TEXT, "fontSize": 15, "fontWeight": "bold"},
    }
    marks: list[dict[str, object]] = [
        {
            "type": "scatter",
            "name": decision.value,
            "data": [],
            "symbol": symbol,
            "symbolSize": size,
            "itemStyle": {"color": colour, "opacity": 1},
        }
        for decision, (colour, symbol, size) in _MARKS.items()
    ]
    return {
        "animation": False,
        "textStyle": {"fontFamily": "Roboto, sans-serif"},
        "grid": {"left": 48, "right": 76, "top": 36, "bottom": 32},
        "legend": {
            "data": [decision.value for decision in _MARKS],
            "top": 0,
            "right": 8,
            "selectedMode": False,
            "itemWidth": 22,
            "itemHeight": 12,
            "textStyle": {"color": _MUTED, "fontSize": 14},
        },
        "tooltip": {
            "trigger": "item",
            "renderMode": "richText",
            "confine": True,
            "backgroundColor": "#0b1016",
            "borderColor": _LINE,
            "textStyle": {"color": _TEXT, "fontSize": 15},
            ":formatter": _TOOLTIP,
        },
        "xAxis": {
            "type": "category",
            "data": [],
            "axisLine": {"lineStyle": {"color": _LINE}},
            "axisTick": {"show": False},
            "axisLabel": {"color": _MUTED, "fontSize": 13, "margin": 12},
        },
        "yAxis": {
            "type": "value",
            "axisLabel": {"color": _MUTED, "fontSize": 13},
            "splitLine": {"lineStyle": {"color": _LINE}},
        },
        "series": [limit, *marks],
    }
