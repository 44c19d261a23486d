"""The picture of the part that is shown, and the ways to another one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import Enum, auto

from nicegui import ui
from nicegui.events import GenericEventArguments, KeyEventArguments

from adapters.hmi.components import block
from adapters.hmi.feed import Part
from adapters.hmi.words import MODE_ICON, MODE_TEXT, Mode, age_text, isolated, moment_text, part_name, picture_url
from adapters.pictures import Overlay


class Step(Enum):
    """Where a person goes from the part that is shown."""

    OLDER = auto()
    NEWER = auto()
    DAMAGED = auto()
    LIVE = auto()


_KEYS = {"ArrowLeft": Step.OLDER, "ArrowRight": Step.NEWER, "d": Step.DAMAGED, "Escape": Step.LIVE}
_BUTTONS = {
    Step.OLDER: ("chevron_left", "", "older part (arrow left)"),
    Step.NEWER: ("chevron_right", "", "newer part (arrow right)"),
    Step.DAMAGED: ("keyboard_double_arrow_left", "Next damaged", "next damaged part, further back (d)"),
}


class Picture:
    """The picture of a part with its caption.

    Args:
        on_overlay: another overlay is wanted.
        on_step: another part is wanted, by button or key.
    """

    def __init__(self, on_overlay: Callable[[], None], on_step: Callable[[Step], Awaitable[None]]) -> None:
        self._unreadable = ""
        with block("picture", "section"):
            self._image = block("frame", "img").props('alt=""')
            self._image.on("error", self._note_unreadable, js_handler="e => emit(e.target.getAttribute('src'))")
            with block("absent") as self._absent:
                ui.icon("image_not_supported")
                ui.label("no picture of this part is kept")
            with block("above"):
                with block("mode") as self._mode:
                    self._mode_icon = ui.icon("sensors")
                    self._mode_text = ui.label()
                self._live = ui.button("Back to live", icon="sensors", on_click=lambda: on_step(Step.LIVE))
                self._live.props("unelevated no-caps color=grey-3 text-color=black")
                self._overlay = ui.toggle(
                    {Overlay.BOXES.value: "Boxes", Overlay.HEATMAP.value: "Heat", Overlay.NONE.value: "Plain"},
                    value=Overlay.BOXES.value,
                    on_change=on_overlay,
                ).props("unelevated no-caps toggle-color=grey-3 toggle-text-color=black")
            with block("below"):
                self._caption = ui.label().classes("caption")
                with block("steps"):
                    for step, (icon, word, meaning) in _BUTTONS.items():
                        button = ui.button(word, icon=icon, on_click=lambda _, step=step: on_step(step))
                        button.props(f'unelevated no-caps color=dark aria-label="{meaning}" title="{meaning}"')

        async def press(event: KeyEventArguments) -> None:
            step = _KEYS.get(event.key.name)
            modifiers = event.modifiers
            if step and event.action.keydown and not (modifiers.alt or modifiers.ctrl or modifiers.meta):
                await on_step(step)

        ui.keyboard(on_key=press, ignore=["input", "select", "textarea"])

    def show(self, part: Part | None, mode: Mode, now: datetime, *, kept: bool) -> None:
        """Show the picture of `part`; `kept` where there is one."""
        self._mode.classes(replace=f"mode {mode.value}")
        self._mode_icon.set_name(MODE_ICON[mode])
        age = age_text(part.verdict.decided_at, now) if part is not None and mode is Mode.STOPPED else ""
        self._mode_text.set_text(f"{MODE_TEXT[mode]} {age}")
        self._live.classes(replace="live" if mode.is_chosen else "live hidden")
        url = picture_url(part.verdict, self._overlay.value) if part is not None and kept else ""
        if url != self._unreadable:
            self._unreadable = ""
        is_seen = bool(url) and not self._unreadable
        self._image.classes(replace="frame" if is_seen else "frame hidden")
        self._absent.classes(replace="absent hidden" if part is None or is_seen else "absent")
        if part is None:
            self._caption.set_text("")
            return
        count = len(part.verdict.boxes)
        boxes = "" if count == 0 else " · 1 box" if count == 1 else f" · {count} boxes"
        moment = moment_text(part.verdict.decided_at, now)
        self._caption.set_text(f"{isolated(part_name(part.verdict))} · {moment}{boxes}")
        if is_seen and self._image.props.get("src") != url:
            self._image.props["src"] = url

    def _note_unreadable(self, event: GenericEventArguments) -> None:
        """Show no broken image for what turned out to be none."""
        self._unreadable = str(event.args)
        if self._image.props.get("src") == self._unreadable:
            self._image.classes(replace="frame hidden")
            self._absent.classes(replace="absent")
