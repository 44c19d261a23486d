"""Inspections in the words that everyone shares, and as a verdict rounds them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from schemas.messages import Box, Decision, Gate, ImageEvent, JudgedImage, Reason, StagesMs, Verdict
from service.compute import Judged
from service.judged import boxes_of, decision_of, stages_of
from service.pipeline.types import DamageBox, Inspection, StageTimes
from service.ports import Arrival
from service.verdicts import make_verdict
from tests.support.hmi import MODEL, SHIFT_START, make_frame, make_inspection
from tests.support.hmi import make_verdict as verdict_of

TIMES = StageTimes(roi=1.00049, normalize=2.0, embed=3.0, score=4.0, boxes=5.0)


def inspection_of(decision: Decision, *boxes: DamageBox) -> Inspection:
    return replace(make_inspection(make_frame(), verdict_of(1, decision)), boxes=boxes, times=TIMES)


@pytest.mark.parametrize(
    ("decision", "reason"),
    [(Decision.OK, Reason.SCORE_BELOW_THRESHOLD), (Decision.DAMAGED, Reason.SCORE_AT_OR_ABOVE_THRESHOLD)],
)
def test_inspection_without_boxes_has_a_decision_and_no_boxes(decision: Decision, reason: Reason) -> None:
    """Also a damaged part may have none."""
    inspection = inspection_of(decision)
    assert decision_of(inspection) == (decision, reason)
    assert boxes_of(inspection) == ()


def test_numbers_are_those_that_were_computed() -> None:
    """Reports and tables round where they show them."""
    inspection = inspection_of(Decision.DAMAGED, DamageBox((1, 2, 3, 4), 0.123456789))
    assert boxes_of(inspection) == (Box(x1=1, y1=2, x2=3, y2=4, score=0.123456789),)
    assert stages_of(inspection, 0.5) == StagesMs(load=0.5, roi=1.00049, normalize=2, embed=3, score=4, boxes=5)


def test_verdict_rounds_what_travels() -> None:
    """Scores of boxes to six places, times to a microsecond."""
    inspection = inspection_of(Decision.DAMAGED, DamageBox((1, 2, 3, 4), 0.123456789))
    verdict = make_verdict(
        Judged(inspection, MODEL, 0.12345),
        Arrival(ImageEvent(event_id="e1"), None, SHIFT_START, 0.0, "test"),
        station="line1",
        seq=1,
        gate_on_error=Gate.REJECT,
        decided_at=SHIFT_START,
        latency_ms=1.0,
    )
    assert verdict.boxes == (Box(x1=1, y1=2, x2=3, y2=4, score=0.123457),)
    assert verdict.stages_ms == StagesMs(load=0.123, roi=1.0, normalize=2, embed=3, score=4, boxes=5)


def test_verdict_says_all_that_is_known_of_its_part() -> None:
    """Every word of the contract; a wall clock that was set back meanwhile makes no negative time of it."""
    inspection = replace(inspection_of(Decision.DAMAGED), uncertain=True)
    frame = replace(inspection.prepared.frame, uri="file:///frames/1.png")
    inspection = replace(inspection, prepared=replace(inspection.prepared, frame=frame))
    event = ImageEvent(
        event_id="e1",
        part_id="C-1",
        trigger_id=7,
        captured_at=SHIFT_START,
        deadline_ms=500,
        simulated=True,
        replayed=True,
    )
    received_at, decided_at = SHIFT_START + timedelta(seconds=1), SHIFT_START + timedelta(seconds=2)
    assert make_verdict(
        Judged(inspection, MODEL, 0.5),
        Arrival(event, None, received_at, 0.0, "test"),
        station="line1",
        seq=3,
        gate_on_error=Gate.PASS,
        decided_at=decided_at,
        latency_ms=-4.0,
        late=True,
    ) == Verdict(
        station="line1",
        event_id="e1",
        part_id="C-1",
        trigger_id=7,
        seq=3,
        decision=Decision.DAMAGED,
        gate=Gate.REJECT,
        reason=Reason.SCORE_AT_OR_ABOVE_THRESHOLD,
        uncertain=True,
        score=inspection.score,
        threshold=inspection.threshold,
        boxes=(),
        image=JudgedImage(width=frame.width, height=frame.height, uri="file:///frames/1.png"),
        model=MODEL,
        captured_at=SHIFT_START,
        received_at=received_at,
        decided_at=decided_at,
        latency_ms=0.0,
        stages_ms=StagesMs(load=0.5, roi=1.0, normalize=2, embed=3, score=4, boxes=5),
        simulated=True,
        replayed=True,
        late=True,
    )
