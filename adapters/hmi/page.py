"""The operators' page."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from nicegui import ui

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


def register_page(feed: Feed, bridge: Bridge, pictures: PictureStore, station: str) -> None:
    """Make this station's page the one that `GET /` answers with; NiceGUI has one set of pages for a process."""

    @ui.page("/", title=f"{station} · cangate", response_timeout=10)
    async def operators_page() -> None:
        await StationPage(feed, bridge, pictures, station).tick()


class StationPage:
    """One open page: shows the newest part, or the one that a person holds."""

    def __init__(self, feed: Feed, bridge: Bridge, pictures: PictureStore, station: str) -> None:
        self._feed = feed
        self._bridge = bridge
        self._pictures = pictures
        self._held: Verdict | None = None
        self._drawn_version = -1
        ui.add_css(_CSS)
        with ui.element("main").classes("page"):
            self._header = Header(station)
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
