"""What every page has: header, picture and verdict of one part, and a clock that looks for news."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nicegui import ui

from adapters.hmi.bridge import Bridge
from adapters.hmi.components import Header, Hero, Silence, block
from adapters.hmi.feed import Feed, Part
from adapters.hmi.picture import Picture, Step
from adapters.hmi.words import Mode, age_text
from adapters.pictures import PictureStore
from schemas.messages import StationState, Status

_TICK_S = 0.25
"""How often a page looks for news: nobody reads faster, and a fast line costs no more than a slow one."""

_CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")

SHOWN = "cangate.shown"
"""Key of the ASGI scope: which station's page is wanted, since NiceGUI has one set of pages for a process."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows."""

    station: str
    feed: Feed
    bridge: Bridge
    pictures: PictureStore


class PartPage(ABC):
    """One open page, which shows one part."""

    def __init__(self, shown: Shown, *, name: str) -> None:
        self._shown = shown
        self._drawn: object = None
        self._state = StationState.READY
        ui.page_title(f"{shown.station} · cangate")
        ui.add_css(_CSS)
        self._silence = Silence()
        with block(f"page {name}", "main") as self._main:
            self._header = Header(shown.station, is_live=name == "live")
            self._picture = Picture(on_overlay=self._draw, on_step=self._step)
            self._hero = Hero()
        ui.timer(_TICK_S, self.tick, immediate=False)

    async def tick(self) -> None:
        """Show what is new."""
        status = await self._silence.ask(self._shown.bridge)
        if status is None:
            return
        now = datetime.now(UTC)
        self._state = status.state
        self._header.show(status, now)
        self._show_status(status)
        if self._drawn != self._looks(now):
            self._draw()

    def _draw(self) -> None:
        now = datetime.now(UTC)
        self._drawn = self._looks(now)
        part, mode = self._part, self._mode(now)
        self._hero.show(part, mode, now)
        self._picture.show(part, mode, now, kept=self._is_kept())
        self._header.lead_to(part.verdict if part is not None and mode.is_chosen else None)
        self._draw_others(now)

    def _looks(self, now: datetime) -> object:
        """Return what changes the looks: parts, a picture right behind its verdict, time passing, why it is shown."""
        part = self._part
        age = "" if part is None else age_text(part.verdict.decided_at, now)
        return self._shown.feed.recent.version, self._is_kept(), age, now.astimezone().date(), self._mode(now)

    def _is_kept(self) -> bool:
        return self._part is not None and self._shown.pictures.has(self._part.verdict.event_id)

    @property
    @abstractmethod
    def _part(self) -> Part | None:
        """The part that is shown."""

    @abstractmethod
    def _mode(self, now: datetime) -> Mode:
        """Return why it is shown."""

    @abstractmethod
    async def _step(self, step: Step) -> None:
        """Go on to another part."""

    def _show_status(self, status: Status) -> None:  # noqa: B027 - not every page shows more of it
        """Show what the header does not."""

    @abstractmethod
    def _draw_others(self, now: datetime) -> None:
        """Draw what shows other parts."""
