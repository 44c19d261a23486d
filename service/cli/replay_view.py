"""The terminal's view of a replay: how far, how fast, what was said, what differs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from schemas.messages import Decision
from service.cli.common import error_console
from service.cli.tables import COLOURS
from service.replay.judge import AcceptanceJudge
from service.replay.player import Played
from service.replay.tally import Tally

_LAST_MISMATCHES = 8


class ReplayView:
    """Takes played parts; what it shows is drawn on a terminal only, by a thread of its own."""

    def __init__(self, tally: Tally, total: int | None) -> None:
        self._tally = tally
        self._bar = Progress(
            TextColumn("parts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=error_console
        )
        self._task = self._bar.add_task("parts", total=total)
        self._differing: deque[str] = deque(maxlen=_LAST_MISMATCHES)
        self._begun = time.monotonic()

    def take(self, played: Played) -> None:
        """Count a part."""
        self._tally.take(played)
        recorded, verdict = played.part, played.verdict
        if verdict is None or recorded.decision not in (None, verdict.decision):
            said = "no verdict" if verdict is None else verdict.decision
            name = recorded.event.part_id or recorded.event.event_id
            self._differing.append(f"{name}: {recorded.decision} -> {said}")
        self._bar.update(self._task, completed=self._tally.parts)

    def picture(self) -> Group:
        """Return what is on the screen. Not for every part: it looks at all spacing errors."""
        tally, seconds = self._tally, time.monotonic() - self._begun
        head = Table(box=None, show_header=False, pad_edge=False)
        spacing = tally.spacing_error_ms()
        head.add_row(
            f"{tally.parts / seconds if seconds else 0.0:.1f} parts/s",
            *(f"[{COLOURS[decision]}]{tally.decisions[decision]} {decision}[/]" for decision in Decision),
            f"{tally.unanswered} unanswered",
            f"{tally.mismatches} of {tally.compared} differ",
            "" if spacing is None else f"spacing error p95 {spacing:.1f} ms",
        )
        return Group(self._bar, head, *self._differing)


async def watch(playing: AsyncGenerator[Played, None], view: ReplayView, judge: AcceptanceJudge | None = None) -> None:
    """Take every part that is played, and hand it to the judge where there is one."""
    async with aclosing(playing):
        async for played in playing:
            view.take(played)
            if judge is not None:
                judge.take(played)


@contextmanager
def replay_view(tally: Tally, total: int | None) -> Iterator[ReplayView]:
    """Lend a view for the time of a replay."""
    view = ReplayView(tally, total)
    if not error_console.is_terminal:
        yield view
        return
    with Live(get_renderable=view.picture, console=error_console, refresh_per_second=8, transient=True):
        yield view
