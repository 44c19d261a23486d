"""What a replay shows on a terminal, and what that costs the parts."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from schemas.messages import Gate
from service.cli import replay_view as view_module
from service.cli.replay_view import ReplayView, replay_view
from service.replay.player import Played
from service.replay.tally import Tally
from tests.support.mqtt import verdict
from tests.support.recordings import recorded_part


def differing(number: int) -> Played:
    """Return a part that was OK and is called damaged."""
    said = verdict(f"e{number}", seq=number + 1, gate=Gate.REJECT)
    return Played(recorded_part(number), said, spacing_error_ms=1.0, round_trip_ms=10.0)


def test_view_keeps_the_parts_that_it_shows() -> None:
    """The last eight that differ, however long a replay goes on; all of them are counted."""
    view = ReplayView(Tally(), None)
    for number in range(100):
        view.take(differing(number))
    assert [line.split(":")[0] for line in view._differing] == [f"C-{number:06d}" for number in range(92, 100)]
    (shown := Console(file=io.StringIO(), width=200)).print(view.picture())
    assert "100 of 100 differ" in shown.file.getvalue()  # type: ignore[attr-defined]


def test_view_reckons_nothing_while_a_part_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that paces the parts only counts; what is drawn is worked out by the one that draws."""
    monkeypatch.setattr(view_module, "error_console", Console(file=io.StringIO(), force_terminal=True))
    reckoning: list[threading.Thread] = []

    class Watched(Tally):
        def spacing_error_ms(self) -> float | None:
            reckoning.append(threading.current_thread())
            return super().spacing_error_ms()

    with replay_view(Watched(), None) as view:
        reckoning.clear()  # the first picture is drawn before any part
        for number in range(100):
            view.take(differing(number))
        assert threading.current_thread() not in reckoning
