"""Compares a replay with what was recorded or known, part by part, and says by rules whether it is accepted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Literal

import numpy as np

from schemas.base import UtcDatetime, Value
from schemas.messages import Decision, ModelRef, Verdict
from schemas.recordings import Truth
from schemas.settings import AcceptanceSettings, DeadlineSettings
from service.deadline import due_at
from service.evaluation.truth import box_union
from service.percentiles import percentile
from service.replay.player import Played

_SCORE_TOLERANCE = 1e-5
"""Scores nearer than this are the same: what float32 sums differ by from one machine to another."""


class Expectation(StrEnum):
    """What a replay is held against."""

    RECORDED = "recorded"
    LABELS = "labels"


class Change(StrEnum):
    """What became of one part, against what was expected of it."""

    SAME = "same"
    ESCAPE = "escape"
    OVER_REJECT = "over-reject"
    ERROR = "error"
    RECOVERED = "recovered"
    UNANSWERED = "unanswered"
    UNKNOWN = "unknown"


class ComparedPart(Value):
    """One part: as recorded, and as replayed.

    before: what the recording is called against the same expectation; `same` or `unknown` where that is the recording.
    boxes_same: whether the corners of all boxes are the very same. iou: overlap of all boxes then with all boxes now; 1
    where neither has any. slack: time left to the deadline.
    """

    number: int
    event_id: str
    part_id: str
    arrived_at: UtcDatetime
    expected: Decision | None
    change: Change
    before: Change
    recorded: Decision | None
    decision: Decision | None
    reason: str
    s_recorded: float | None
    s: float | None
    tau_recorded: float | None
    tau: float | None
    boxes_recorded: int | None
    boxes: int | None
    boxes_same: bool | None
    iou: float | None
    latency_recorded_ms: float | None
    latency_ms: float | None
    round_trip_ms: float | None
    slack_recorded_ms: float | None
    slack_ms: float | None

    @property
    def differs(self) -> bool:
        """Tell whether the decision is another one than recorded."""
        return self.recorded is not None and self.recorded is not self.decision

    @property
    def shift(self) -> float | None:
        """Return by how much the score moved, None where one is missing."""
        return None if self.s is None or self.s_recorded is None else self.s - self.s_recorded


class Percentiles(Value):
    """Of one quantity; None where there is none of it."""

    p1: float | None
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Percentiles:
        """Return the percentiles of what is known."""
        known = [value for value in values if value is not None]
        return cls(**{f"p{percent}": percentile(known, percent) for percent in (1, 50, 95, 99)})


class Finding(Value):
    """One rule and how the replay stands to it."""

    rule: str
    text: str
    holds: bool


class Acceptance(Value):
    """`acceptance.json`: everything a replay is judged by.

    troubles: places of the session that cannot be read; nobody knows how many parts they held.
    """

    format: Literal["cangate/acceptance/1"] = "cangate/acceptance/1"
    created_at: UtcDatetime
    session: str
    via: str
    speed: str
    expect: Expectation
    models_recorded: tuple[ModelRef, ...]
    models: tuple[ModelRef, ...]
    parts: int
    skipped: int
    troubles: tuple[str, ...] = ()
    compared: int
    changes: dict[Change, int]
    changes_recorded: dict[Change, int]
    differing: int
    scores_moved: int
    score_shift: Percentiles
    iou: Percentiles
    latency_recorded_ms: Percentiles
    latency_ms: Percentiles
    round_trip_ms: Percentiles
    slack_recorded_ms: Percentiles
    slack_ms: Percentiles
    findings: tuple[Finding, ...]
    accepted: bool


def compare_part(
    played: Played,
    number: int,
    arrived_at: UtcDatetime,
    *,
    expect: Expectation,
    label: Truth | None,
    deadline: DeadlineSettings,
) -> ComparedPart:
    """Return one row. label: what the part really was. deadline: of the station."""
    part, then, now = played.part, played.part.verdict, played.verdict
    expected = part.decision if expect is Expectation.RECORDED else label
    allowed_ms = part.event.deadline_ms or deadline.default_ms
    return ComparedPart(
        number=number,
        event_id=part.event.event_id,
        part_id=part.event.part_id or "",
        arrived_at=arrived_at,
        expected=expected,
        change=Change.UNANSWERED if now is None else change(expected, now.decision),
        before=Change.UNKNOWN if then is None else change(expected, then.decision),
        recorded=part.decision,
        decision=None if now is None else now.decision,
        reason="" if now is None else str(now.reason),
        s_recorded=None if then is None else then.score,
        s=None if now is None else now.score,
        tau_recorded=None if then is None else then.threshold,
        tau=None if now is None else now.threshold,
        boxes_recorded=None if then is None else len(then.boxes),
        boxes=None if now is None else len(now.boxes),
        boxes_same=None if then is None or now is None else _corners(then) == _corners(now),
        iou=None if then is None or now is None else box_overlap(then, now),
        latency_recorded_ms=None if then is None else then.latency_ms,
        latency_ms=None if now is None else now.latency_ms,
        round_trip_ms=played.round_trip_ms,
        slack_recorded_ms=None if then is None else slack_ms(then, allowed_ms, deadline),
        slack_ms=None if now is None else slack_ms(now, allowed_ms, deadline),
    )


def change(expected: Decision | None, said: Decision) -> Change:
    """Return what `said` means where `expected` was due."""
    if expected is None:
        return Change.UNKNOWN
    if expected is said:
        return Change.SAME
    if said is Decision.ERROR:
        return Change.ERROR
    if expected is Decision.ERROR:
        return Change.RECOVERED
    return Change.ESCAPE if said is Decision.OK else Change.OVER_REJECT


def _corners(verdict: Verdict) -> list[tuple[int, int, int, int]]:
    return [box.xyxy for box in verdict.boxes]


def box_overlap(then: Verdict, now: Verdict) -> float | None:
    """Return the intersection over union of all boxes; None where one verdict has no frame."""
    if then.image is None or now.image is None:
        return None
    if not then.boxes or not now.boxes:
        return 1.0 if then.boxes == now.boxes else 0.0
    size_wh = (max(then.image.width, now.image.width), max(then.image.height, now.image.height))
    before, after = box_union(then.boxes, size_wh), box_union(now.boxes, size_wh)
    return float(np.count_nonzero(before & after) / np.count_nonzero(before | after))


def slack_ms(verdict: Verdict, allowed_ms: int, deadline: DeadlineSettings) -> float:
    """Return how much time was left when a verdict was decided, negative where there was none."""
    due = due_at(verdict.captured_at, verdict.received_at, allowed_ms, deadline)
    return (due - verdict.decided_at) / timedelta(milliseconds=1)


def findings(
    rows: Sequence[ComparedPart], rules: AcceptanceSettings, *, unreadable: int, timed: bool
) -> Iterator[Finding]:
    """Yield every rule that applies, and whether it holds.

    A share is allowed what the recording has against the same expectation, and what the rule adds.

    Args:
        rows: every part that was played.
        rules: of the plant.
        unreadable: places of the session that cannot be read.
        timed: the replay kept the pace, so that the time left to the deadline means something.
    """
    compared = [row for row in rows if row.change not in (Change.UNKNOWN, Change.UNANSWERED)]
    yield Finding(
        rule="parts_min",
        text=f"{len(compared)} parts compared, {rules.parts_min} asked for",
        holds=len(compared) >= rules.parts_min,
    )
    # what became of the parts that were recorded there is what the whole replay was to find out
    yield Finding(rule="readable", text=f"{unreadable} places of the session cannot be read", holds=unreadable == 0)
    unanswered = sum(row.change is Change.UNANSWERED for row in rows)
    yield Finding(rule="answers", text=f"{unanswered} parts got no verdict", holds=unanswered == 0)
    damaged = [row for row in compared if row.expected is Decision.DAMAGED]
    good = [row for row in compared if row.expected is Decision.OK]
    yield _share("escapes_max", "damaged parts called OK", Change.ESCAPE, damaged, rules.escapes_max)
    yield _share("over_rejects_max", "OK parts called damaged", Change.OVER_REJECT, good, rules.over_rejects_max)
    lost = "parts end as ERROR where OK or damaged was due"
    yield _share("errors_max", lost, Change.ERROR, compared, rules.errors_max)
    if rules.score_shift_max is not None:
        shifts = [abs(row.shift) / row.tau_recorded for row in rows if row.shift is not None and row.tau_recorded]
        shift = percentile(shifts, 95)
        yield Finding(
            rule="score_shift_max",
            text=f"95% of the scores shift by up to {_told(shift, '.2%')} of tau, {rules.score_shift_max:.2%} allowed",
            holds=shift is not None and shift <= rules.score_shift_max,
        )
    if rules.box_iou_min:
        both = [row.iou for row in rows if row.iou is not None and row.boxes and row.boxes_recorded]
        iou = percentile(both, 50)
        yield Finding(
            rule="box_iou_min",
            text=f"boxes overlap by {_told(iou, '.3f')} in the median, {rules.box_iou_min:.3f} asked for",
            holds=iou is None or iou >= rules.box_iou_min,
        )
    if rules.slack_min_ms is not None and timed:
        slack = percentile([row.slack_ms for row in rows if row.slack_ms is not None], 1)
        yield Finding(
            rule="slack_min_ms",
            text=f"99% of the parts have {_told(slack, '.0f')} ms left or more, {rules.slack_min_ms:.0f} asked for",
            holds=slack is not None and slack >= rules.slack_min_ms,
        )


def count_changes(changes: Iterable[Change]) -> dict[Change, int]:
    """Return how often each change occurs."""
    counts = dict.fromkeys(Change, 0)
    for one in changes:
        counts[one] += 1
    return counts


def scores_moved(rows: Iterable[ComparedPart]) -> int:
    """Return how many scores are not the recorded ones."""
    return sum(row.shift is not None and abs(row.shift) > _SCORE_TOLERANCE for row in rows)


def _share(rule: str, what: str, kind: Change, among: Sequence[ComparedPart], allowed: float) -> Finding:
    now, before = (sum(row_change is kind for row_change in changes) for changes in _both(among))
    limit = before + allowed * len(among)
    text = f"{now} of {len(among)} {what}, {before} in the recording; up to {limit:.4g} allowed"
    return Finding(rule=rule, text=text, holds=now <= limit + 1e-9)


def _both(rows: Sequence[ComparedPart]) -> tuple[list[Change], list[Change]]:
    return [row.change for row in rows], [row.before for row in rows]


def _told(value: float | None, how: str) -> str:
    return "nothing" if value is None else format(value, how)
