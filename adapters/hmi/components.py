"""The parts of the operators' page. Each builds its elements once and then only changes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from nicegui import ui

from adapters.hmi.words import (
    DECISION_ICON,
    GATE_ICON,
    NOTHING,
    REASON_TEXT,
    STATE_ICON,
    clock_text,
    count_text,
    latency_text,
    part_name,
    picture_url,
    score_text,
)
from adapters.pictures import Overlay
from schemas.messages import Gate, Status, Verdict

_ROWS = 12


def _block(classes: str, tag: str = "div") -> ui.element:
    return ui.element(tag).classes(classes)


class Header:
    """Station, state, model and clock; below it why the station is not well."""

    def __init__(self, station: str) -> None:
        with _block("top", "header"):
            with _block("bar"):
                ui.label(station).classes("station")
                with _block("state") as self._state:
                    self._icon = ui.icon("autorenew")
                    self._word = ui.label()
                self._model = ui.label().classes("model")
                self._clock = ui.label().classes("clock")
            with _block("trouble").props("role=alert") as self._fault:
                ui.icon("report_problem")
                self._fault_text = ui.label()

    def show(self, status: Status, now: datetime) -> None:
        """Show the state of the station at `now`; the clock stands still when nothing comes any more."""
        self._state.classes(replace=f"state {status.state.value}")
        self._icon.set_name(STATE_ICON[status.state])
        self._word.set_text(status.state.value.upper())
        model = status.model
        self._model.set_text("no model" if model is None else f"{model.name}@{model.version}")
        self._clock.set_text(clock_text(now))
        self._fault.classes(replace="trouble hidden" if status.fault is None else "trouble")
        self._fault_text.set_text("" if status.fault is None else status.fault.text)


class Hero:
    """The verdict, to be read from three metres away."""

    def __init__(self) -> None:
        with _block("hero", "section").props("aria-live=polite") as self._hero:
            with _block("verdict"):
                self._icon = ui.icon("hourglass_empty")
                self._word = ui.label()
            self._part = ui.label().classes("part")
            with _block("facts"):
                self._reason = ui.label().classes("reason")
                self._latency = ui.label().classes("latency")
            with _block("meter"):
                self._fill = _block("fill")
                _block("tick")
            with _block("facts"):
                self._score = ui.label().classes("score")
                self._mark = ui.label().classes("mark")

    def show(self, verdict: Verdict | None) -> None:
        """Show `verdict`, or that there is none yet."""
        if verdict is None:
            self._hero.classes(replace="hero none unscored")
            self._word.set_text("WAITING")
            self._part.set_text("no part yet")
            return
        unscored = " unscored" if verdict.score is None else ""
        self._hero.classes(replace=f"hero {verdict.decision.value}{unscored}")
        self._icon.set_name(DECISION_ICON[verdict.decision])
        self._word.set_text(verdict.decision.value)
        self._part.set_text(part_name(verdict))
        self._reason.set_text(REASON_TEXT[verdict.reason])
        self._latency.set_text(latency_text(verdict))
        score, tau = verdict.score, verdict.threshold
        if score is not None and tau is not None:
            self._score.set_text(f"s {score:.3f} {'≥' if score >= tau else '<'} τ {tau:.3f}")
            # the limit is the middle of the meter
            share = min(1.0, score / (2 * tau)) if tau > 0 else 1.0
            self._fill.style(replace=f"width: {share:.1%}")
        marks = [
            ("close to the limit", verdict.uncertain),
            ("simulated", verdict.simulated),
            ("replayed", verdict.replayed),
        ]
        self._mark.set_text(" · ".join(word for word, true in marks if true))


class Picture:
    """The picture of the part that is shown, live or held."""

    def __init__(self, on_overlay: Callable[[], None], on_live: Callable[[], None]) -> None:
        with _block("picture", "section"):
            self._image = _block("frame", "img").props('alt=""')
            with _block("absent") as self._absent:
                ui.icon("image_not_supported")
                ui.label("no picture of this part is kept")
            with _block("mode") as self._mode:
                self._mode_icon = ui.icon("sensors")
                self._mode_text = ui.label()
            self._live = ui.button("Back to live", icon="sensors", on_click=on_live).props("unelevated no-caps")
            self._overlay = ui.toggle(
                {Overlay.BOXES.value: "Boxes", Overlay.HEATMAP.value: "Heat", Overlay.NONE.value: "Plain"},
                value=Overlay.BOXES.value,
                on_change=on_overlay,
            ).props("unelevated no-caps toggle-color=grey-3 toggle-text-color=black")
            self._caption = ui.label().classes("caption")

    def show(self, verdict: Verdict | None, *, held: bool, kept: bool) -> None:
        """Show the picture of `verdict`; `held` where a person chose it, `kept` where there is one."""
        self._mode.classes(replace="mode held" if held else "mode")
        self._mode_icon.set_name("pause_circle" if held else "sensors")
        self._mode_text.set_text("HELD" if held else "LIVE")
        self._live.classes(replace="live" if held else "live hidden")
        shown = verdict is not None and kept
        self._image.classes(replace="frame" if shown else "frame hidden")
        self._absent.classes(replace="absent" if verdict is not None and not kept else "absent hidden")
        if verdict is None:
            self._caption.set_text("")
            return
        count = len(verdict.boxes)
        boxes = "" if count == 0 else " · 1 box" if count == 1 else f" · {count} boxes"
        self._caption.set_text(f"{part_name(verdict)} · {clock_text(verdict.decided_at)}{boxes}")
        url = picture_url(verdict, self._overlay.value)
        if shown and self._image.props.get("src") != url:
            self._image.props["src"] = url


class Counters:
    """The gate lamp and what was counted."""

    def __init__(self) -> None:
        with _block("counters", "section"):
            with _block("gate") as self._gate:
                self._gate_icon = ui.icon("help_outline")
                with _block("gate-words"):
                    ui.label("GATE").classes("title")
                    self._gate_word = ui.label(NOTHING).classes("value")
            self._ok = self._tile("OK", "OK")
            self._damaged = self._tile("DAMAGED", "DAMAGED")
            self._error = self._tile("ERROR", "ERROR")
            self._rejected = self._tile("REJECTED", "rate")

    @staticmethod
    def _tile(title: str, kind: str) -> ui.label:
        with _block(f"tile {kind}"):
            ui.label(title).classes("title")
            return ui.label("0").classes("value")

    def show(self, status: Status, verdicts: Sequence[Verdict]) -> None:
        """Show the counts since start, and gate and reject rate of the newest `verdicts`."""
        self._ok.set_text(count_text(status.counts.ok))
        self._damaged.set_text(count_text(status.counts.damaged))
        self._error.set_text(count_text(status.counts.error))
        if not verdicts:
            self._rejected.set_text(NOTHING)
            return
        gate = verdicts[-1].gate
        self._gate.classes(replace=f"gate {gate.value}")
        self._gate_icon.set_name(GATE_ICON[gate])
        self._gate_word.set_text(gate.value)
        rejected = sum(verdict.gate is Gate.REJECT for verdict in verdicts)
        self._rejected.set_text(f"{rejected / len(verdicts):.0%}")


class Parts:
    """The newest parts as a table; a row shows its part when it is clicked."""

    _COLUMNS = ("Verdict", "Part", "s", "Latency", "Time")
    _BODY = r"""
        <q-tr :props="props" :class="[props.row.decision, props.row.held ? 'picked' : '']" tabindex="0"
              @click="$parent.$emit('pick', props.row.seq)" @keydown.enter="$parent.$emit('pick', props.row.seq)">
          <q-td class="what"><q-icon :name="props.row.icon" />{{ props.row.decision }}</q-td>
          <q-td class="part" :title="props.row.part">{{ props.row.part }}</q-td>
          <q-td class="number">{{ props.row.score }}</q-td>
          <q-td class="number">{{ props.row.latency }}</q-td>
          <q-td class="number">{{ props.row.time }}</q-td>
        </q-tr>
    """

    def __init__(self, on_pick: Callable[[int], None]) -> None:
        with _block("parts", "section"):
            columns = [
                {
                    "name": name,
                    "label": name,
                    "field": name,
                    "align": "left" if name in ("Verdict", "Part") else "right",
                }
                for name in self._COLUMNS
            ]
            self._table = ui.table(rows=[], columns=columns, row_key="seq").props(
                'flat dense dark no-data-label="no part yet"'
            )
            self._table.add_slot("body", self._BODY)
            self._table.on("pick", lambda event: on_pick(int(event.args)))

    def show(self, verdicts: Sequence[Verdict], held_seq: int | None) -> None:
        """Show the newest of `verdicts`, newest first."""
        self._table.rows = [
            {
                "seq": verdict.seq,
                "decision": verdict.decision.value,
                "icon": DECISION_ICON[verdict.decision],
                "part": part_name(verdict),
                "score": score_text(verdict.score),
                "latency": latency_text(verdict),
                "time": clock_text(verdict.decided_at),
                "held": verdict.seq == held_seq,
            }
            for verdict in reversed(verdicts[-_ROWS:])
        ]
