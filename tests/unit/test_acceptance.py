"""Rules of acceptance: every one alone, and what a part counts as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from schemas.messages import Box, Decision, Gate, Reason, Verdict
from schemas.settings import AcceptanceSettings, DeadlineSettings, DeadlineStart
from service.replay.acceptance import (
    Change,
    ComparedPart,
    Expectation,
    box_overlap,
    change,
    compare_part,
    findings,
    slack_ms,
)
from service.replay.player import Played
from service.replay.report import as_csv
from tests.support.recordings import BEGIN, recorded_part

OK, DAMAGED, ERROR = Decision.OK, Decision.DAMAGED, Decision.ERROR


def said(decision: Decision, *, score: float = 0.5, boxes: Sequence[tuple[int, int, int, int]] = ()) -> Verdict:
    """Return what a replay said of part 0."""
    before = recorded_part(0).verdict
    assert before is not None
    drawn = tuple(Box(x1=x1, y1=y1, x2=x2, y2=y2, score=1.0) for x1, y1, x2, y2 in boxes)
    return before.model_copy(update={"decision": decision, "score": score, "boxes": drawn, "replayed": True})


def row(
    recorded: Decision | None, replayed: Decision | None, *, label: Decision | None = None, score: float = 0.25
) -> ComparedPart:
    """Return the comparison of one part; held against its label where it has one."""
    part = recorded_part(0)
    before = None if recorded is None else said(recorded, score=0.25)
    played = Played(
        part=replace(part, verdict=before),
        verdict=None if replayed is None else said(replayed, score=score),
        spacing_error_ms=None,
        round_trip_ms=12.0,
    )
    expect = Expectation.RECORDED if label is None else Expectation.LABELS
    truth = label if label in (OK, DAMAGED) else None
    return compare_part(played, 1, BEGIN, expect=expect, label=truth, deadline=DeadlineSettings())  # type: ignore[arg-type] # narrowed


def broken(rows: Sequence[ComparedPart], *, unreadable: int = 0, timed: bool = False, **rules: object) -> list[str]:
    """Return the names of the rules that do not hold."""
    settings = AcceptanceSettings.model_validate(rules)
    return [
        finding.rule for finding in findings(rows, settings, unreadable=unreadable, timed=timed) if not finding.holds
    ]


@pytest.mark.parametrize(
    ("expected", "decision", "means"),
    [
        (OK, OK, Change.SAME),
        (ERROR, ERROR, Change.SAME),
        (DAMAGED, OK, Change.ESCAPE),
        (OK, DAMAGED, Change.OVER_REJECT),
        (OK, ERROR, Change.ERROR),
        (DAMAGED, ERROR, Change.ERROR),
        (ERROR, OK, Change.RECOVERED),
        (ERROR, DAMAGED, Change.RECOVERED),
        (None, OK, Change.UNKNOWN),
    ],
)
def test_change_is_named_by_what_it_means_for_the_line(
    expected: Decision | None, decision: Decision, means: Change
) -> None:
    """An escape is what a customer gets, an over-reject what the plant loses."""
    assert change(expected, decision) is means


def test_equal_replay_breaks_no_rule() -> None:
    """Also where part of the recording could not be judged."""
    assert broken([row(OK, OK), row(DAMAGED, DAMAGED), row(ERROR, ERROR), row(ERROR, OK)]) == []


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ([row(OK, OK), row(DAMAGED, OK)], "escapes_max"),
        ([row(OK, DAMAGED), row(OK, OK)], "over_rejects_max"),
        ([row(OK, ERROR)], "errors_max"),
        ([row(OK, OK), row(OK, None)], "answers"),
        ([], "parts_min"),
        ([row(None, OK)], "parts_min"),
    ],
)
def test_one_worse_part_breaks_one_rule(rows: list[ComparedPart], rule: str) -> None:
    """With the defaults nothing may be worse than the recording."""
    assert broken(rows) == [rule]


def test_errors_are_told_as_they_are_counted() -> None:
    """A part that was ERROR and still is had nothing to lose: it is not called one that could be judged."""
    rows = [row(OK, OK), row(ERROR, ERROR), row(ERROR, ERROR)]
    texts = {each.rule: each.text for each in findings(rows, AcceptanceSettings(), unreadable=0, timed=False)}
    due = "parts end as ERROR where OK or damaged was due"
    assert texts["errors_max"] == f"0 of 3 {due}, 0 in the recording; up to 0 allowed"


def test_what_cannot_be_read_proves_nothing() -> None:
    """However well the parts do that are left."""
    assert broken([row(OK, OK), row(DAMAGED, DAMAGED)], unreadable=1) == ["readable"]


def test_rules_allow_shares() -> None:
    """A share counts over the parts that can fall short: damaged ones for escapes, OK ones for over-rejects."""
    rows = [row(DAMAGED, OK), *[row(DAMAGED, DAMAGED)] * 9, row(OK, DAMAGED), *[row(OK, OK)] * 99]
    assert broken(rows, escapes_max=0.1, over_rejects_max=0.01) == []
    assert broken(rows, escapes_max=0.09, over_rejects_max=0.009) == ["escapes_max", "over_rejects_max"]


def test_labels_allow_what_the_recording_missed_itself() -> None:
    """Held against the truth, an update may miss as many as what runs, and not one more."""
    missed = row(OK, OK, label=DAMAGED)
    caught = row(OK, DAMAGED, label=DAMAGED)
    lost = row(DAMAGED, OK, label=DAMAGED)
    assert (missed.before, missed.change) == (Change.ESCAPE, Change.ESCAPE)
    assert broken([missed, caught]) == []
    assert broken([missed, lost]) == ["escapes_max"]
    assert broken([caught, lost]) == []


def test_rules_that_are_off_do_not_appear() -> None:
    """What nobody asked for is no finding; asked for, it is one even where nothing can be said of it."""
    names = [finding.rule for finding in findings([row(OK, OK)], AcceptanceSettings(), unreadable=0, timed=True)]
    assert names == ["parts_min", "readable", "answers", "escapes_max", "over_rejects_max", "errors_max"]
    assert broken([row(OK, OK)], score_shift_max=0.01, box_iou_min=0.9, slack_min_ms=0, timed=True) == []
    assert broken([row(ERROR, ERROR).model_copy(update={"s": None})], score_shift_max=0.01) == ["score_shift_max"]


def test_score_shift_is_a_share_of_tau() -> None:
    """Recorded 0.25, replayed 0.29, tau 1: four percent."""
    rows = [row(OK, OK, score=0.29)] * 20
    assert broken(rows, score_shift_max=0.0401) == []
    assert broken(rows, score_shift_max=0.0399) == ["score_shift_max"]


def test_slack_counts_where_the_pace_was_kept() -> None:
    """At full speed no part has a deadline, so there is nothing to fall short of."""
    rows = [row(OK, OK).model_copy(update={"slack_ms": slack}) for slack in (90.0, 40.0)]
    assert broken(rows, slack_min_ms=50.0, timed=True) == ["slack_min_ms"]
    assert broken(rows, slack_min_ms=50.0, timed=False) == []


def test_slack_runs_from_the_capture() -> None:
    """Deadline 5000 ms, captured now, decided at once."""
    one = row(OK, OK)
    assert one.slack_ms is not None
    assert one.slack_ms == pytest.approx(5000, abs=5)


@pytest.mark.parametrize(
    ("start", "age_ms", "left_ms"),
    [
        (DeadlineStart.CAPTURED_AT, 150, 230),
        (DeadlineStart.CAPTURED_AT, -900, 1280),
        (DeadlineStart.CAPTURED_AT, -1100, 380),
        (DeadlineStart.CAPTURED_AT, None, 380),
        (DeadlineStart.RECEIVED, 150, 380),
    ],
)
def test_slack_runs_as_the_deadline_did(start: DeadlineStart, age_ms: float | None, left_ms: float) -> None:
    """From the capture where the station goes by it and believes it, else from receipt; decided 20 ms after that."""
    captured_at = None if age_ms is None else BEGIN - timedelta(milliseconds=age_ms)
    times = {"captured_at": captured_at, "received_at": BEGIN, "decided_at": BEGIN + timedelta(milliseconds=20)}
    assert slack_ms(said(OK).model_copy(update=times), 400, DeadlineSettings(start=start)) == pytest.approx(left_ms)


def test_boxes_overlap_as_unions() -> None:
    """Half of the boxes in common; nothing on both sides is full agreement, nothing on one side is none."""
    whole, half, none = (
        said(DAMAGED, boxes=boxes) for boxes in ([(0, 0, 20, 10)], [(0, 0, 10, 10)], list[tuple[int, int, int, int]]())
    )
    assert box_overlap(whole, half) == 0.5
    assert box_overlap(whole, said(DAMAGED, boxes=[(0, 0, 10, 10), (10, 0, 20, 10)])) == 1.0
    assert (box_overlap(none, none), box_overlap(none, half)) == (1.0, 0.0)
    assert box_overlap(whole, whole.model_copy(update={"image": None})) is None


def test_csv_has_a_row_a_part() -> None:
    """Also for parts with nothing but a reason."""
    failed = said(ERROR).model_copy(update={"score": None, "reason": Reason.FRAME_MISSING, "gate": Gate.REJECT})
    played = Played(recorded_part(3), failed, None, None)
    lost = compare_part(played, 2, BEGIN, expect=Expectation.RECORDED, label=None, deadline=DeadlineSettings())
    header, first, second = as_csv([row(OK, OK), lost]).splitlines()
    assert header.startswith("number,event_id,part_id,arrived_at,expected,change")
    assert header.endswith("shift,differs")
    assert first.startswith("1,e0,C-000000,2026-01-31T08:00:00.000Z,OK,same")
    assert ",OK,error,same,OK,ERROR,frame_missing," in second
