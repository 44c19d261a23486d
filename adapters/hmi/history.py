"""The history: what the journal knows of parts, searched and paged as the API does it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from nicegui import ui
from pydantic import ValidationError

from adapters.hmi.api import VerdictParams
from adapters.hmi.components import PATIENCE_S, block
from adapters.hmi.feed import Part, read_verdicts
from adapters.hmi.part_page import PartPage, Shown
from adapters.hmi.picture import Step
from adapters.hmi.rows import Rows
from adapters.hmi.words import Mode, history_url, without_directions
from schemas.messages import Decision
from service.errors import JournalError

_ROWS = 25
_ALL = ""
_UNUSABLE = {
    "part_id": "no part is called that: an id has at most 256 characters, and no tab or line break",
    "before": "before, in the address, must be the number of a part",
}
"""What to say of a word that the journal cannot be asked for."""


@dataclass(frozen=True, slots=True)
class _Excerpt:
    """A page of the list, newest first.

    part_id: of which part; None for all. before: below which seq it begins; None for the newest. below: the seq that
    follows below it; 0 where none does.
    """

    part_id: str | None = None
    before: int | str | None = None
    parts: Sequence[Part] = ()
    below: int = 0

    def older_than(self, seq: int) -> Sequence[Part]:
        return [part for part in self.parts if part.verdict.seq < seq]

    def newer_than(self, seq: int) -> Sequence[Part]:
        return [part for part in self.parts if part.verdict.seq > seq]


class HistoryPage(PartPage):
    """Parts of the past, newest first.

    The journal is asked when a person does something, never by the clock.

    Args:
        shown: the station.
        asked: of the address: `event` opens one part; `part` and `decision` choose among them, `before` (a seq) is
            where to begin.
    """

    def __init__(self, shown: Shown, asked: Mapping[str, str]) -> None:
        super().__init__(shown, name="history")
        self._event_id = asked.get("event")
        self._list = _Excerpt(before=asked.get("before"))
        self._chosen: Part | None = None
        self._turn = asyncio.Lock()
        decision = asked.get("decision", _ALL)

        async def search() -> None:
            await self._act(self._search(None))

        with self._main:
            with block("search", "section"):
                self._part_id = ui.input("Part id, exactly", value=asked.get("part", ""))
                self._part_id.props("outlined dense dark clearable").on("keydown.enter", search)
                ui.button(icon="search", on_click=search).props('unelevated color=dark aria-label="search"')
                self._decision = ui.toggle(
                    {_ALL: "All"} | {each.value: each.value for each in Decision},
                    value=decision if decision in Decision.__members__ else _ALL,
                    on_change=search,
                ).props("unelevated no-caps toggle-color=grey-3 toggle-text-color=black")
            self._rows = Rows(_ROWS, empty="nothing found", on_pick=lambda seq: self._act(self._pick(seq)))
            with block("paging", "nav"):
                _button("Newest", search)
                self._newer = _button("Newer", lambda: self._act(self._load_newer()))
                self._older = _button("Older", lambda: self._act(self._load_older()))
                self._note = ui.label().classes("note").props("role=status")

    async def open(self) -> None:
        """Show what the address asks for."""
        await self._act(self._open())

    async def _open(self) -> None:
        if not self._event_id:
            await self._search(self._list.before)
            return
        row = await self._shown.bridge.verdict(self._event_id)
        for verdict in read_verdicts([row] if row else []):
            self._chosen = Part(verdict)
            self._list = _Excerpt(before=verdict.seq + _ROWS // 2)
        self._list = await self._find(self._list.before)
        if self._chosen is None:
            self._note.set_text("there is no verdict on this event")

    @property
    def _part(self) -> Part | None:
        return self._chosen

    def _mode(self, now: datetime) -> Mode:  # noqa: ARG002 - whenever it was
        return Mode.HISTORY

    def _draw_others(self, now: datetime) -> None:
        self._rows.show(self._list.parts, None if self._chosen is None else self._chosen.verdict.seq, now)
        self._newer.set_enabled(self._list.before is not None)
        self._older.set_enabled(self._list.below > 0)

    async def _act(self, action: Coroutine[object, object, None]) -> None:
        """Do what a person wants, one thing at a time, and say where the journal does not go along."""
        async with self._turn:
            self._note.set_text("")
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await action
            except TimeoutError:
                self._note.set_text("the journal does not answer")
            except JournalError as exc:
                self._note.set_text(f"journal: {exc}")
            except ValidationError as exc:
                self._list, self._chosen = _Excerpt(), None
                self._note.set_text(_UNUSABLE[str(exc.errors()[0]["loc"][0])])
            self._draw()

    async def _search(self, before: int | str | None) -> None:
        """List what is searched for and show its first part, none where there is none: another's verdict misleads."""
        self._list = await self._find(before)
        self._chosen = None
        if self._list.parts:
            self._choose(self._list.parts[:1])
        else:
            self._show_address(before=self._list.before)

    async def _find(self, before: int | str | None) -> _Excerpt:
        """Return the parts whose id was typed; where none has it to the letter, those with what a copy adds taken off.

        That is blanks around it and marks of direction, which may as well belong to the id.
        """
        typed = self._part_id.value or ""
        tidied = without_directions(typed).strip()
        if typed != tidied:
            with suppress(ValidationError):  # a tab belongs to no id
                found = await self._load(before, typed)
                if found.parts:
                    return found
        return await self._load(before, tidied or None)

    async def _pick(self, seq: int) -> None:
        self._choose([part for part in self._list.parts if part.verdict.seq == seq])

    async def _step(self, step: Step) -> None:
        if step is Step.LIVE:
            ui.navigate.to("./")
        elif self._chosen is not None:
            go = {Step.OLDER: self._go_older, Step.NEWER: self._go_newer, Step.DAMAGED: self._go_damaged}[step]
            await self._act(go(self._chosen.verdict.seq))

    async def _go_older(self, seq: int) -> None:
        if not self._list.older_than(seq):
            await self._load_older()
        self._choose(self._list.older_than(seq)[:1])

    async def _go_newer(self, seq: int) -> None:
        if not self._list.newer_than(seq):
            await self._load_newer()
        self._choose(self._list.newer_than(seq)[-1:])

    async def _go_damaged(self, seq: int) -> None:
        rows = await self._read(_ROWS, seq, Decision.DAMAGED, self._list.part_id)
        found = [Part(verdict) for verdict in read_verdicts(rows)]
        if not found:
            self._note.set_text("no damaged part further back")
        elif found[0].verdict.seq not in [part.verdict.seq for part in self._list.parts]:
            self._list = await self._load(found[0].verdict.seq + 1, self._list.part_id)
        self._choose(found)

    async def _load_older(self) -> None:
        if self._list.below:
            self._list = await self._load(self._list.parts[-1].verdict.seq, self._list.part_id)

    async def _load_newer(self) -> None:
        """Turn to the page that ends right above this one: the journal is asked for what is older, so it is tried for.

        Numbers follow each other, so the first try is right where nothing is filtered out.
        """
        part_id = self._list.part_id
        top, tried = self._list.parts[:1], await self._load(None, part_id)
        if top and tried.newer_than(top[0].verdict.seq):
            seq, width, too_few, too_many = top[0].verdict.seq, 0, 0, 0
            while not tried.newer_than(seq) or tried.below > seq:
                if tried.newer_than(seq):
                    too_many = width
                else:
                    too_few = width
                width = (too_few + too_many) // 2 if too_many else max(_ROWS, 4 * too_few)
                tried = await self._load(seq + 1 + width, part_id)
        self._list = tried

    async def _load(self, before: int | str | None, part_id: str | None) -> _Excerpt:
        rows = await self._read(_ROWS + 1, before, self._decision.value or None, part_id)
        parts = [Part(verdict) for verdict in read_verdicts(rows)]
        last = parts[-1].verdict.seq if parts else 0
        below = last if len(parts) > _ROWS else last - 1 if len(rows) > _ROWS else 0  # some may be unreadable
        return _Excerpt(part_id, before, parts[:_ROWS], below)

    def _choose(self, parts: Sequence[Part]) -> None:
        """Show the first of `parts`; a step that leads to none leads nowhere."""
        if parts:
            self._chosen = parts[0]
            self._show_address(event=self._chosen.verdict.event_id)

    def _show_address(self, **shown: object) -> None:
        asked = {"part": self._list.part_id, "decision": self._decision.value or None}
        ui.navigate.history.replace(history_url(**shown, **asked))

    async def _read(
        self, limit: int, before: int | str | None, decision: str | None, part_id: str | None
    ) -> Sequence[bytes]:
        """Return stored verdicts.

        Raises:
            JournalError: they cannot be read.
            ValidationError: they cannot be asked for.
        """
        asked = {"limit": limit, "before": before, "decision": decision, "part_id": part_id}
        return await self._shown.bridge.verdicts(VerdictParams.model_validate(asked).query())


def _button(word: str, on_click: Callable[[], Awaitable[None]]) -> ui.button:
    return ui.button(word, on_click=on_click).props("unelevated no-caps color=dark")
