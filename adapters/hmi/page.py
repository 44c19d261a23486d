"""The operators' page."""

from __future__ import annotations

from datetime import datetime
from functools import cache

from nicegui import app as nicegui_app
from nicegui import ui
from starlette.requests import Request

from adapters.hmi.components import Counters
from adapters.hmi.feed import Part
from adapters.hmi.history import HistoryPage
from adapters.hmi.part_page import SHOWN, PartPage, Shown
from adapters.hmi.picture import Step
from adapters.hmi.rows import Rows
from adapters.hmi.trend import Trend
from adapters.hmi.words import Mode, age_text
from schemas.messages import Decision, Status

_ROWS = 12

FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect width="24" height="24" rx="5" fill="#101820"/>'
    '<path d="M8 7q0-2 4-2t4 2v11q0 2-4 2t-4-2z" fill="#9fb3c6"/><path d="M10 2h4v3h-4z" fill="#2fd07f"/></svg>'
)


@cache
def configure_pages() -> None:
    """Tell NiceGUI how pages are made: the operators' page and the history of the station that was asked."""
    nicegui_app.config.add_run_config(
        reload=False,
        title="cangate",
        viewport="width=device-width, initial-scale=1",
        favicon=FAVICON,
        dark=True,
        language="en-US",
        binding_refresh_interval=None,
        reconnect_timeout=5.0,
        message_history_length=100,
        tailwind=False,
        unocss=None,
        prod_js=True,
        show_welcome_message=False,
        markdown=False,
    )

    @ui.page("/", response_timeout=10)
    async def operators_page(request: Request) -> None:
        await StationPage(request.scope[SHOWN]).tick()

    @ui.page("/history", response_timeout=10)
    async def history_page(request: Request) -> None:
        page = HistoryPage(request.scope[SHOWN], request.query_params)
        await page.open()
        await page.tick()


class StationPage(PartPage):
    """The line now: the newest part, or the one that a person holds."""

    def __init__(self, shown: Shown) -> None:
        super().__init__(shown, name="live")
        self._feed = shown.feed
        self._held: Part | None = None
        with self._main:
            self._counters = Counters()
            self._trend = Trend(on_pick=self._hold)
            self._rows = Rows(_ROWS, empty="no part yet", on_pick=self._hold)

    @property
    def _part(self) -> Part | None:
        return self._held or self._feed.recent.newest

    def _mode(self, now: datetime) -> Mode:
        part = self._part
        if self._held is not None:
            return Mode.HELD
        if part is not None and part.past:
            return Mode.PAST
        if part is not None and part.is_before_fault(self._state):
            return Mode.FAULT
        return Mode.STOPPED if part is not None and age_text(part.verdict.decided_at, now) else Mode.LIVE

    def _show_status(self, status: Status) -> None:
        self._counters.show(status, self._feed.recent, self._part)

    def _draw_others(self, now: datetime) -> None:
        parts = self._feed.recent.parts
        held_seq = None if self._held is None else self._held.verdict.seq
        self._trend.show(parts, held_seq)
        self._rows.show(parts[: -_ROWS - 1 : -1], held_seq, now)

    async def _hold(self, seq: int) -> None:
        self._held = self._feed.recent.find(seq) or self._held
        self._draw()

    async def _step(self, step: Step) -> None:
        if step is Step.LIVE:
            self._held = None
        elif self._part is not None:
            seq, parts = self._part.verdict.seq, self._feed.recent.parts
            if step is Step.NEWER:
                beyond = [part for part in parts if part.verdict.seq > seq]
            else:
                beyond = [part for part in reversed(parts) if part.verdict.seq < seq]
            if step is Step.DAMAGED:
                beyond = [part for part in beyond if part.verdict.decision is Decision.DAMAGED]
            self._held = beyond[0] if beyond else self._held
        self._draw()
