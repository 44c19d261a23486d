"""Figures over image scores and rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import Box, Decision, Reason, StagesMs
from service.evaluation.metrics import (
    BoxMatch,
    EvaluatedFrame,
    Label,
    box_metrics,
    image_metrics,
    median_times,
    scores_of,
    set_counts,
)

scores = st.lists(st.floats(0, 2, width=32), max_size=40)


def row(
    score: float | None, *, label: Label = Label.OK, match: BoxMatch | None = None, boxes: int = 0
) -> EvaluatedFrame:
    """Return a row; one without a score could not be judged."""
    box = Box(x1=0, y1=0, x2=4, y2=4, score=1.0)
    decision = Decision.ERROR if score is None else Decision.DAMAGED if score >= 1 else Decision.OK
    return EvaluatedFrame(
        filename="a.png",
        path="a.png",
        label=label,
        s=score,
        decision=decision,
        reason=Reason.FRAME_CORRUPT if score is None else Reason.SCORE_BELOW_THRESHOLD,
        boxes=(box,) * boxes,
        match=match,
        stages_ms=StagesMs() if score is None else StagesMs(load=score, roi=2.0),
    )


def test_separated_scores_are_perfect() -> None:
    """Every damaged frame above every OK one."""
    figures = image_metrics([0.1, 0.2], [0.8, 0.9, 1.0], tau=0.85)
    assert (figures.auroc, figures.auprc, figures.recall_at_1pct_false_reject) == (1.0, 1.0, 1.0)
    assert figures.false_reject_at_tau == 0.0
    assert figures.recall_at_tau == pytest.approx(2 / 3)


def test_a_score_at_tau_is_damaged() -> None:
    """As the line decides."""
    figures = image_metrics([0.5], [0.5], tau=0.5)
    assert (figures.false_reject_at_tau, figures.recall_at_tau) == (1.0, 1.0)
    assert figures.auroc == 0.5


def test_one_in_a_hundred_may_be_rejected() -> None:
    """With 200 OK frames two may lie above the limit, with 99 none."""
    ok = [i / 1000 for i in range(200)]
    figures = image_metrics(ok, [0.1975, 0.198, 0.5], tau=1.0)
    assert figures.threshold_at_1pct_false_reject == 0.197
    assert figures.recall_at_1pct_false_reject == 1.0
    assert image_metrics(ok[:99], [0.098, 0.0985], tau=1.0).recall_at_1pct_false_reject == 0.5


def test_missing_labels_leave_their_figures_out() -> None:
    """Only OK, only damaged, nothing."""
    ok, damaged, nothing = image_metrics([0.1], [], 0.5), image_metrics([], [0.9], 0.5), image_metrics([], [], 0.5)
    assert (ok.auroc, ok.recall_at_1pct_false_reject, ok.false_reject_at_tau, ok.recall_at_tau) == (
        None,
        None,
        0.0,
        None,
    )
    assert (damaged.auprc, damaged.recall_at_1pct_false_reject, damaged.recall_at_tau) == (None, None, 1.0)
    assert set(nothing.model_dump().values()) == {None}


@given(ok=scores, damaged=scores, tau=st.floats(0.01, 2))
def test_figures_are_shares(ok: list[float], damaged: list[float], tau: float) -> None:
    """Whatever the scores, every figure is in 0..1 and the limit rejects at most one in a hundred."""
    figures = image_metrics(ok, damaged, tau)
    assert all(value is None or 0 <= value <= 1.0000001 for name, value in figures if "threshold" not in name)
    limit = figures.threshold_at_1pct_false_reject
    assert (limit is None) == (not ok)
    assert limit is None or sum(s > limit for s in ok) <= 0.01 * len(ok)


def test_counts_keep_frames_that_were_not_judged_apart() -> None:
    """They are counted, and no mean is taken over them."""
    counts = set_counts([row(0.5), row(1.5, boxes=3), row(None)])
    assert (counts.frames, counts.ok, counts.damaged, counts.error) == (3, 1, 1, 1)
    assert (counts.score_median, counts.boxes_per_frame, counts.frames_with_boxes) == (1.0, 1.5, 1)
    assert set_counts([]).boxes_per_frame is None


def test_scores_of_a_label_are_those_of_judged_frames() -> None:
    """In order, without errors and other labels."""
    assert scores_of([row(0.2), row(None), row(0.1), row(0.3, label=Label.DAMAGED)], Label.OK) == [0.2, 0.1]


def test_box_figures_sum_over_frames() -> None:
    """Precision over boxes, recall over components, the median IoU over frames."""
    right = BoxMatch(components=3, components_found=2, boxes_right=1, iou=0.5)
    silent = BoxMatch(components=1, components_found=0, boxes_right=0, iou=0.0)
    figures = box_metrics([row(1.2, match=right, boxes=2), row(0.5, match=silent), row(1.4, boxes=5)])
    assert figures is not None
    assert (figures.frames, figures.boxes, figures.components) == (2, 2, 4)
    assert (figures.precision, figures.recall, figures.iou_median) == (0.5, 0.5, 0.25)
    none_drawn = box_metrics([row(0.5, match=silent)])
    assert none_drawn is not None
    assert none_drawn.precision is None
    assert box_metrics([row(1.0)]) is None


def test_times_are_medians_of_the_stages_that_ran() -> None:
    """A frame that was not judged took part in none."""
    times = median_times([row(0.1), row(0.2), row(0.9), row(None)])
    assert (times.load, times.roi, times.embed) == (0.2, 2.0, None)
    assert median_times([]) == StagesMs()
