"""Parts as a table whose rows stay: what they say changes beneath the finger and the focus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from nicegui import ui

from adapters.hmi.components import block
from adapters.hmi.feed import Part
from adapters.hmi.words import DECISION_ICON, latency_text, listed_name, moment_text, score_text

_COLUMNS = ("Verdict", "Part", "s", "Latency", "Time")

_PRESS = "e => { e.currentTarget.pressed = e.currentTarget.dataset.seq }"
_PICK = "e => emit(Number((e.detail && e.currentTarget.pressed) || e.currentTarget.dataset.seq))"
"""A click means the part that was there when the press began; one by a key (detail 0) the one that is there now."""


class Rows:
    """So many parts; a row picks its part.

    Args:
        length: how many parts.
        empty: what is said where there is none.
        on_pick: called with the seq of the part.
    """

    def __init__(self, length: int, *, empty: str, on_pick: Callable[[int], Awaitable[None]]) -> None:
        with block("parts", "section"), block("rows"):
            with block("head"):
                for title in _COLUMNS:
                    ui.label(title)
            self._rows = [_Row(on_pick) for _ in range(length)]
            self._empty = ui.label(empty).classes("empty")

    def show(self, parts: Sequence[Part], shown_seq: int | None, now: datetime) -> None:
        """Show `parts`, in this order; the one that is picked stands out."""
        self._empty.classes(replace="empty hidden" if parts else "empty")
        for row, part in zip(self._rows, parts, strict=False):
            row.show(part, now, picked=part.verdict.seq == shown_seq)
        for row in self._rows[len(parts) :]:
            row.hide()


class _Row:
    def __init__(self, on_pick: Callable[[int], Awaitable[None]]) -> None:
        with block("entry hidden", "button").props("type=button") as self._row:
            with block("what"):
                self._icon = ui.icon("")
                self._decision = ui.label()
            self._part = ui.label().classes("part")
            self._score, self._latency, self._time = (ui.label().classes("number") for _ in range(3))
        self._row.on("pointerdown", js_handler=_PRESS)
        self._row.on("click", lambda event: on_pick(int(event.args)), js_handler=_PICK)

    def show(self, part: Part, now: datetime, *, picked: bool) -> None:
        verdict = part.verdict
        marks = f"{' past' if part.past else ''}{' picked' if picked else ''}"
        self._row.classes(replace=f"entry {verdict.decision.value}{marks}")
        self._row.props["data-seq"] = verdict.seq
        self._row.props["aria-pressed"] = str(picked).lower()
        self._icon.set_name(DECISION_ICON[verdict.decision])
        self._decision.set_text(verdict.decision.value)
        self._part.set_text(listed_name(verdict))
        self._part.props["title"] = listed_name(verdict)
        self._score.set_text(score_text(verdict.score))
        self._latency.set_text(latency_text(verdict))
        self._time.set_text(moment_text(verdict.decided_at, now))

    def hide(self) -> None:
        self._row.classes(replace="entry hidden")
