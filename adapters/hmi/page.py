"""The operators' page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from nicegui import app as nicegui_app
from nicegui import ui
from starlette.requests import Request

from adapters.hmi.bridge import Bridge
from adapters.hmi.components import Counters, Header, Hero, Parts, Picture
from adapters.hmi.feed import Feed
from adapters.hmi.trend import Trend
from adapters.pictures import PictureStore
from schemas.messages import Verdict

_TICK_S = 0.25
"""How often a page looks for news: nobody reads faster, and a fast line costs no more than a slow one."""

_CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")

FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect width="24" height="24" rx="5" fill="#101820"/>'
    '<path d="M8 7q0-2 4-2t4 2v11q0 2-4 2t-4-2z" fill="#9fb3c6"/><path d="M10 2h4v3h-4z" fill="#2fd07f"/></svg>'
)


SHOWN = "cangate.shown"
"""Key of the ASGI scope: which station's page is wanted, since NiceGUI has one set of pages for a process."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows."""

    station: str
    feed: Feed
    bridge: Bridge
    pictures: PictureStore


@cache
def configure_pages() -> None:
    """Tell NiceGUI how pages are made, and that `GET /` is the operators' page of the station that was asked."""
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
        shown: Shown = request.scope[SHOWN]
        ui.page_title(f"{shown.station} · cangate")
        await StationPage(shown).tick()


class StationPage:
    """One open page: shows the newest part, or the one that a person holds."""

    def __init__(self, shown: Shown) -> None:
        self._feed = shown.feed
        self._bridge = shown.bridge
        self._pictures = shown.pictures
        self._held: Verdict | None = None
        self._drawn_version = -1
        ui.add_css(_CSS)
        with ui.element("main").classes("page"):
            self._header = Header(shown.station)
            self._picture = Picture(on_overlay=self._draw, on_live=self._go_live)
            self._hero = Hero()
            self._counters = Counters()
            self._trend = Trend(on_pick=self._hold)
            self._parts = Parts(on_pick=self._hold)
        ui.timer(_TICK_S, self.tick, immediate=False)

    async def tick(self) -> None:
        """Show what is new."""
        status = await self._bridge.status()
        recent = self._feed.recent
        self._header.show(status, datetime.now(UTC))
        self._counters.show(status, recent.verdicts)
        if self._drawn_version != recent.version:
            self._draw()

    def _draw(self) -> None:
        recent = self._feed.recent
        self._drawn_version = recent.version
        shown = self._held or recent.newest
        held_seq = None if self._held is None else self._held.seq
        self._hero.show(shown)
        kept = shown is not None and self._pictures.has(shown.event_id)
        self._picture.show(shown, held=self._held is not None, kept=kept)
        self._trend.show(recent.verdicts, held_seq)
        self._parts.show(recent.verdicts, held_seq)

    def _hold(self, seq: int) -> None:
        self._held = self._feed.recent.find(seq) or self._held
        self._draw()

    def _go_live(self) -> None:
        self._held = None
        self._draw()
