"""How the page says things: words, icons and times for people. Colour is never the only carrier."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import quote

from schemas.messages import Decision, Gate, Reason, StationState, Verdict

DECISION_ICON = {Decision.OK: "check_circle", Decision.DAMAGED: "cancel", Decision.ERROR: "warning"}
GATE_ICON = {Gate.PASS: "arrow_forward", Gate.REJECT: "block"}
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
    Reason.MODEL_UNAVAILABLE: "no model loaded",
    Reason.OVERLOAD: "too many parts at once",
    Reason.INTERNAL_ERROR: "internal error",
}
NOTHING = "--"


def part_name(verdict: Verdict) -> str:
    """Return what a person calls the part: its id, else its trigger, else its event."""
    if verdict.part_id:
        return verdict.part_id
    return verdict.event_id if verdict.trigger_id is None else f"#{verdict.trigger_id}"


def score_text(score: float | None) -> str:
    """Return a score with three decimals."""
    return NOTHING if score is None else f"{score:.3f}"


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


def picture_url(verdict: Verdict, overlay: str) -> str:
    """Return where the picture of a part is, seen from the page."""
    return f"api/verdicts/{quote(verdict.event_id, safe='')}/image?overlay={overlay}"
