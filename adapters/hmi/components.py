"""The parts of the operators' page. Each builds its elements once and then only changes them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from nicegui import ui

from adapters.hmi.bridge import Bridge
from adapters.hmi.feed import Part, Recent
from adapters.hmi.words import (
    DECISION_ICON,
    GATE_ICON,
    MODE_ICON,
    MODE_TEXT,
    NOTHING,
    REASON_TEXT,
    STATE_ICON,
    Mode,
    age_text,
    clock_text,
    count_text,
    history_url,
    isolated,
    latency_text,
    moment_text,
    part_name,
    score_texts,
)
from schemas.messages import Gate, Status, Verdict

PATIENCE_S = 2.0
"""How long a page waits for the service, which answers in milliseconds while its loop lives."""


def block(classes: str, tag: str = "div") -> ui.element:
    """Return an element of a class."""
    return ui.element(tag).classes(classes)


class Silence:
    """A banner for when the service no longer answers though its server does; what is below it turns grey."""

    def __init__(self) -> None:
        with block("silence hidden").props("role=alert") as self._banner:
            self._text = ui.label()
        self._heard_at = datetime.now(UTC)

    async def ask(self, bridge: Bridge) -> Status | None:
        """Return the state of the station, None where nobody answers."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                status = await bridge.status()
        except TimeoutError:
            self._text.set_text(f"service does not answer since {clock_text(self._heard_at)}")
            self._banner.classes(replace="silence")
            return None
        self._heard_at = datetime.now(UTC)
        self._banner.classes(replace="silence hidden")
        return status


class Header:
    """Station, state, the two pages, model and clock; below it why the station is not well."""

    def __init__(self, station: str, *, is_live: bool) -> None:
        with block("top", "header"):
            with block("bar"):
                ui.label(station).classes("station")
                with block("state") as self._state:
                    self._icon = ui.icon("autorenew")
                    self._word = ui.label()
                with block("tabs", "nav"):
                    self._tab("Live", "./", is_here=is_live)
                    self._history = self._tab("History", history_url(), is_here=not is_live)
                self._model = ui.label().classes("model")
                self._clock = ui.label().classes("clock")
            with block("trouble").props("role=alert") as self._fault:
                ui.icon("report_problem")
                self._fault_text = ui.label()

    @staticmethod
    def _tab(word: str, address: str, *, is_here: bool) -> ui.element:
        with block("tab here" if is_here else "tab", "a").props(f"href={address}") as tab:
            ui.label(word)
        return tab

    def show(self, status: Status, now: datetime) -> None:
        """Show the state of the station at `now`; the clock stands still when nothing comes any more."""
        self._state.classes(replace=f"state {status.state.value}")
        self._icon.set_name(STATE_ICON[status.state])
        self._word.set_text(status.state.value.upper())
        model = status.model
        self._model.set_text("no model" if model is None else model.reference)
        self._clock.set_text(clock_text(now))
        self._fault.classes(replace="trouble hidden" if status.fault is None else "trouble")
        self._fault_text.set_text("" if status.fault is None else status.fault.text)

    def lead_to(self, verdict: Verdict | None) -> None:
        """Let the history open at `verdict`, at its newest where there is none."""
        self._history.props["href"] = history_url(event=None if verdict is None else verdict.event_id)


class Hero:
    """The verdict, to be read from three metres away."""

    def __init__(self) -> None:
        with block("hero", "section").props("aria-live=polite") as self._hero:
            with block("verdict"):
                self._icon = ui.icon("hourglass_empty")
                self._word = ui.label()
            with block("facts"):
                self._part = ui.label().classes("part")
                self._age = ui.label().classes("age")
            with block("facts"):
                self._reason = ui.label().classes("reason")
                self._latency = ui.label().classes("latency")
            with block("meter"):
                self._fill = block("fill")
                block("tick")
            with block("facts"):
                self._score = ui.label().classes("score")
                self._mark = ui.label().classes("mark")

    def show(self, part: Part | None, mode: Mode, now: datetime) -> None:
        """Show the verdict on `part`, or that there is none yet; one of the past only where a person chose it."""
        if part is None:
            self._wait("hourglass_empty", "no part is chosen" if mode.is_chosen else "no part yet")
            return
        verdict = part.verdict
        if mode in (Mode.PAST, Mode.FAULT):
            self._wait(MODE_ICON[mode], part_name(verdict))
            self._age.set_text(age_text(verdict.decided_at, now))
            self._reason.set_text(f"{verdict.decision.value} {MODE_TEXT[mode].lower()}")
            self._latency.set_text(moment_text(verdict.decided_at, now))
            return
        self._age.set_text(age_text(verdict.decided_at, now))
        unscored = " unscored" if verdict.score is None else ""
        self._hero.classes(replace=f"hero {verdict.decision.value}{unscored}")
        self._icon.set_name(DECISION_ICON[verdict.decision])
        self._word.set_text(verdict.decision.value)
        self._part.set_text(part_name(verdict))
        self._reason.set_text(REASON_TEXT[verdict.reason])
        self._latency.set_text(latency_text(verdict))
        score, tau = verdict.score, verdict.threshold
        if score is not None and tau is not None:
            score_word, tau_word = score_texts(score, tau)
            self._score.set_text(f"s {score_word} {'≥' if score >= tau else '<'} τ {tau_word}")
            # the limit is the middle of the meter
            share = min(1.0, score / (2 * tau)) if tau > 0 else 1.0
            self._fill.style(replace=f"width: {share:.1%}")
        marks = [
            ("too late for the gate", part.too_late),
            ("close to the limit", verdict.uncertain),
            ("simulated", verdict.simulated),
            ("replayed", verdict.replayed),
            ("before the restart", part.past),
        ]
        self._mark.set_text(" · ".join(word for word, true in marks if true))

    def _wait(self, icon: str, part: str) -> None:
        self._hero.classes(replace="hero none unscored")
        self._icon.set_name(icon)
        self._word.set_text("WAITING")
        self._part.set_text(part)
        for label in (self._age, self._reason, self._latency, self._mark):
            label.set_text("")


class Counters:
    """The gate lamp and what was counted."""

    def __init__(self) -> None:
        with block("counters", "section"):
            with block("gate") as self._gate:
                self._gate_icon = ui.icon(GATE_ICON[None])
                with block("gate-words"):
                    self._gate_title = ui.label("GATE").classes("title")
                    self._gate_word = ui.label(NOTHING).classes("value")
            self._ok, _ = self._tile("OK", "OK")
            self._damaged, _ = self._tile("DAMAGED", "DAMAGED")
            self._error, _ = self._tile("ERROR", "ERROR")
            self._rejected, self._base = self._tile("REJECTED", "rate")

    @staticmethod
    def _tile(title: str, kind: str) -> tuple[ui.label, ui.label]:
        with block(f"tile {kind}"):
            ui.label(title).classes("title")
            value = ui.label("0").classes("value")
            return value, ui.label("since start").classes("base")

    def show(self, status: Status, recent: Recent, shown: Part | None) -> None:
        """Show the counts since start, reject rate and gate; whose gate that is, where it is not that of `shown`.

        What the gate was told before a fault is not what it will be told next.
        """
        self._ok.set_text(count_text(status.counts.ok))
        self._damaged.set_text(count_text(status.counts.damaged))
        self._error.set_text(count_text(status.counts.error))
        parts = recent.at_gate
        last = parts[-1] if parts and not parts[-1].is_before_fault(status.state) else None
        gate = None if last is None else last.gate
        self._gate.classes(replace="gate" if gate is None else f"gate {gate.value}")
        self._gate_icon.set_name(GATE_ICON[gate])
        self._gate_word.set_text(NOTHING if gate is None else gate.value)
        is_of_another = last is not None and last is not shown
        self._gate_title.set_text(
            f"GATE NOW,\n{isolated(part_name(last.verdict))}" if last and is_of_another else "GATE"
        )
        rejected = sum(part.gate is Gate.REJECT for part in parts)
        self._rejected.set_text(f"{rejected / len(parts):.0%}" if parts else NOTHING)
        self._base.set_text(f"of last {len(parts)}" if parts else "since start")
