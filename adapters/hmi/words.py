"""How the page says things: words, icons and times for people. Colour is never the only carrier."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlencode

from schemas.messages import Decision, Gate, Reason, StationState, Verdict


class Mode(StrEnum):
    """Why a part is shown."""

    LIVE = "live"
    STOPPED = "stopped"
    PAST = "past"
    FAULT = "fault"
    HELD = "held"
    HISTORY = "history"

    @property
    def is_chosen(self) -> bool:
        """Tell whether a person chose the part."""
        return self in (Mode.HELD, Mode.HISTORY)


MODE_ICON = {
    Mode.LIVE: "sensors",
    Mode.STOPPED: "hourglass_empty",
    Mode.PAST: "history",
    Mode.FAULT: "error",
    Mode.HELD: "pause_circle",
    Mode.HISTORY: "history",
}
MODE_TEXT = {
    Mode.LIVE: "LIVE",
    Mode.STOPPED: "LAST PART",
    Mode.PAST: "BEFORE THE RESTART",
    Mode.FAULT: "BEFORE THE FAULT",
    Mode.HELD: "HELD",
    Mode.HISTORY: "HISTORY",
}
DECISION_ICON = {Decision.OK: "check_circle", Decision.DAMAGED: "cancel", Decision.ERROR: "warning"}
GATE_ICON = {Gate.PASS: "arrow_forward", Gate.REJECT: "block", None: "help_outline"}
STATE_ICON = {
    StationState.READY: "play_circle",
    StationState.BUSY: "autorenew",
    StationState.DEGRADED: "report_problem",
    StationState.FAULT: "error",
    StationState.OFFLINE: "power_off",
}
REASON_TEXT = {
    Reason.SCORE_BELOW_THRESHOLD: "score below the limit",
    Reason.SCORE_AT_OR_ABOVE_THRESHOLD: "score at or above the limit",
    Reason.DEADLINE_MISSED: "deadline missed",
    Reason.FRAME_MISSING: "picture missing",
    Reason.FRAME_CORRUPT: "picture damaged",
    Reason.FRAME_REFUSED: "picture refused",
    Reason.ROI_NOT_FOUND: "no canister found",
    Reason.MODEL_UNAVAILABLE: "no model, or station paused",
    Reason.OVERLOAD: "too many parts at once",
    Reason.INTERNAL_ERROR: "internal error",
}
NOTHING = "--"

_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of what follows them, beyond their own text."""

_LONGEST_NAME = 120
"""An event may be called anything, up to what a message holds; a hundred parts are on the page."""

_LARGEST_SCORE = 1e6
"""From here on it is written as a power of ten: a limit may be set to anything."""

_DECIMALS = range(3, 18)
"""Three are enough to read, 17 tell any two numbers apart."""


def part_name(verdict: Verdict) -> str:
    """Return what a person calls the part: its id, else its trigger, else its event; it turns no text around it."""
    trigger = verdict.event_id if verdict.trigger_id is None else f"#{verdict.trigger_id}"
    name = without_directions(verdict.part_id or trigger)
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def listed_name(verdict: Verdict) -> str:
    """Return the part's name for a list of many, where a replayed one must not pass for one of the line's."""
    return f"{isolated(part_name(verdict))} · replayed" if verdict.replayed else part_name(verdict)


def without_directions(text: str) -> str:
    """Return `text` without the characters that turn the direction of what follows."""
    return _DIRECTIONS.sub("", text)


def isolated(text: str) -> str:
    """Return `text` for a place among other words, whose order it leaves alone whatever its script."""
    return f"\u2068{text}\u2069"


def score_text(score: float | None) -> str:
    """Return a score with three decimals."""
    if score is None:
        return NOTHING
    return f"{score:.3f}" if score < _LARGEST_SCORE else f"{score:.3g}"


def score_texts(score: float | None, limit: float | None) -> tuple[str, str]:
    """Return a score and its limit with as many decimals as tell them apart."""
    if score is None or limit is None or score == limit:
        return score_text(score), score_text(limit)
    if max(score, limit) >= _LARGEST_SCORE:
        short = score_text(score), score_text(limit)
        return short if short[0] != short[1] else (repr(score), repr(limit))
    pairs = ((f"{score:.{decimals}f}", f"{limit:.{decimals}f}") for decimals in _DECIMALS)
    return next((pair for pair in pairs if pair[0] != pair[1]), (repr(score), repr(limit)))


def latency_text(verdict: Verdict) -> str:
    """Return the latency as people read it."""
    seconds = verdict.latency_ms / 1000
    return f"{seconds:.1f} s" if seconds >= 10 else f"{verdict.latency_ms:.0f} ms"


def count_text(count: int) -> str:
    """Return a count in at most five characters or so."""
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 1_000_000 else f"{count / 1_000_000:.2f}M"


def clock_text(moment: datetime) -> str:
    """Return the time of day at the station."""
    return f"{moment.astimezone():%H:%M:%S}"


def moment_text(moment: datetime, now: datetime) -> str:
    """Return the time of day at the station, with the date where that is not today's."""
    there, today = moment.astimezone(), now.astimezone()
    if there.date() == today.date():
        return clock_text(moment)
    return f"{there:%d %b %H:%M}" if there.year == today.year else f"{there:%d %b %Y %H:%M}"


def age_text(moment: datetime, now: datetime) -> str:
    """Return how long ago `moment` was; nothing below a minute."""
    minutes = int((now - moment).total_seconds()) // 60
    if minutes < 1:
        return ""
    if minutes < 60:
        return f"{minutes} min ago"
    hours = minutes // 60
    return f"{hours} h ago" if hours < 48 else f"{hours // 24} days ago"


def picture_url(verdict: Verdict, overlay: str) -> str:
    """Return where the picture of a part is, seen from the page.

    The event is a word of the query: of the ids `.` and `..` a browser would make another path, encoded or not.
    """
    return f"picture?{urlencode({'event': verdict.event_id, 'overlay': overlay})}"


def history_url(**asked: object) -> str:
    """Return the address of the history, seen from the page, with what is asked of it."""
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    return f"history?{query}" if query else "history"
