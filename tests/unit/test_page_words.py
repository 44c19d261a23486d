"""How the pages say things."""

from __future__ import annotations

from datetime import timedelta

import pytest

from adapters.hmi.words import age_text, history_url, moment_text, part_name, score_texts
from tests.support.hmi import SHIFT_START, make_verdict


def test_part_name_turns_no_text_around_it() -> None:
    """An id may hold marks that would show it, and what follows, from right to left."""
    assert part_name(make_verdict(1, part_id="C-\u202e321\u2066\u2069\u202a")) == "C-321"


def test_part_name_is_short_enough_for_a_page_of_a_hundred() -> None:
    """An event may be called anything, in any length that a message holds."""
    verdict = make_verdict(1, event_id="e" * 60_000).model_copy(update={"part_id": None, "trigger_id": None})
    assert part_name(verdict) == "e" * 120 + "…"


@pytest.mark.parametrize(
    ("score", "limit", "words"),
    [
        (0.4, 0.736, ("0.400", "0.736")),
        (0.7359, 0.7361, ("0.7359", "0.7361")),
        (0.73599999, 0.736, ("0.73599999", "0.73600000")),
        (0.736, 0.736, ("0.736", "0.736")),
        (1e-30, 2e-30, ("1e-30", "2e-30")),
        (None, 0.736, ("--", "0.736")),
        (0.5, 1e308, ("0.500", "1e+308")),
    ],
)
def test_score_and_limit_differ_in_writing_where_they_differ(
    score: float | None, limit: float, words: tuple[str, str]
) -> None:
    """Else the page would say that 0.736 is less than 0.736."""
    assert score_texts(score, limit) == words


def test_moment_names_its_day_where_that_is_not_today() -> None:
    """And its year, where that is not this one."""
    moment = SHIFT_START.astimezone()
    assert moment_text(SHIFT_START, SHIFT_START) == f"{moment:%H:%M:%S}"
    assert moment_text(SHIFT_START, SHIFT_START + timedelta(days=1)) == f"31 Jan {moment:%H:%M}"
    assert moment_text(SHIFT_START, SHIFT_START + timedelta(days=365)) == f"31 Jan 2026 {moment:%H:%M}"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-9, ""), (59, ""), (60, "1 min ago"), (3599, "59 min ago"), (3600, "1 h ago"), (172_800, "2 days ago")],
)
def test_age_is_told_above_a_minute(seconds: int, words: str) -> None:
    """Below, the clock says enough; a clock that was set back makes no part younger than now."""
    assert age_text(SHIFT_START, SHIFT_START + timedelta(seconds=seconds)) == words


def test_history_address_carries_any_event_id() -> None:
    """Nothing in it ends the address or begins another parameter."""
    assert history_url(event='a/b&c="ü"#', part=None) == "history?event=a%2Fb%26c%3D%22%C3%BC%22%23"
    assert history_url() == "history"
