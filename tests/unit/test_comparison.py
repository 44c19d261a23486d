"""Models side by side: front, disagreements, table, page, picture."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import Decision, ModelRef, Reason, StagesMs
from schemas.recipe import ScoreStatistic
from service.evaluation.comparison import (
    Accuracy,
    Comparison,
    compare,
    disagreements,
    pareto_front,
    right_in,
    unique_references,
)
from service.evaluation.comparison_figures import GROUPS
from service.evaluation.comparison_report import as_csv, as_html, in_words, remarks
from service.evaluation.evaluator import Galleries
from service.evaluation.metrics import (
    EvaluatedFrame,
    Evaluation,
    Label,
    image_metrics,
    median_times,
    scores_of,
    set_counts,
)
from service.evaluation.tradeoff_plot import SIZE_WH, Mark, tradeoff_svg
from service.evaluation.trial import Cost, TrialResult, median_frame_ms

TAU = 0.5
points = st.lists(st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)), max_size=8)


def frames_of(label: Label, scores: list[float | None], *, ms: float = 10.0) -> list[EvaluatedFrame]:
    """Return rows named 1.png, 2.png ...; one without a score could not be judged."""
    return [
        EvaluatedFrame(
            filename=f"{number}.png",
            path=f"{number}.png",
            label=label,
            s=score,
            decision=Decision.ERROR if score is None else Decision.DAMAGED if score >= TAU else Decision.OK,
            reason=Reason.ROI_NOT_FOUND if score is None else Reason.SCORE_BELOW_THRESHOLD,
            stages_ms=StagesMs(load=1.0) if score is None else StagesMs(load=1.0, embed=ms - 1.0),
        )
        for number, score in enumerate(scores, 1)
    ]


def result_of(
    frames: list[EvaluatedFrame], *, name: str = "bars", peak: int | None = 100 << 20, version: str = "1"
) -> TrialResult:
    """Return what a trial with these rows gives."""
    by_label = {label: [frame for frame in frames if frame.label is label] for label in Label}
    evaluation = Evaluation(
        created_at=datetime.now(UTC),
        model=ModelRef(name=name, version=version, sha256=version * 64),
        embedder="starter",
        statistic=ScoreStatistic.MAX,
        tau=TAU,
        tau_false_reject=0.01,
        sets={label: set_counts(members) for label, members in by_label.items() if members},
        image=image_metrics(scores_of(frames, Label.OK), scores_of(frames, Label.DAMAGED), TAU),
        pixel=None,
        boxes=None,
        masks_refused=0,
        median_ms=median_times(frames),
    )
    cost = Cost(
        device="cpu",
        threads=1,
        input_side=320,
        bank_size=3000,
        weights_bytes=0,
        frame_ms=median_frame_ms(frames),
        peak_memory_bytes=peak,
        peak_process_bytes=peak,
        peak_gpu_bytes=None,
    )
    return TrialResult(evaluation, tuple(frames), Galleries(), cost)


def three_models() -> Comparison:
    """Return a quick one, a slower better one, and one that is beaten by both."""
    return compare(
        {
            "quick@1": result_of(frames_of(Label.OK, [0.1, 0.6, 0.3]) + frames_of(Label.DAMAGED, [0.5, 0.8, 0.9])),
            "good@1": result_of(
                frames_of(Label.OK, [0.1, 0.2, 0.3], ms=50) + frames_of(Label.DAMAGED, [0.7, 0.4, 0.9], ms=50)
            ),
            "<poor>@1": result_of(
                frames_of(Label.OK, [0.1, 0.9, 0.6], ms=90) + frames_of(Label.DAMAGED, [0.7, 0.2, None], ms=90)
            ),
        }
    )


@given(points)
def test_front_is_what_nothing_beats(known: list[tuple[float | None, float | None]]) -> None:
    """Whatever is not on it is beaten by something that is; nothing on it is beaten."""
    front = pareto_front(known)
    for place, (cost, worth) in enumerate(known):
        if cost is None or worth is None:
            assert place not in front
            continue
        beaten = any(
            other[0] is not None
            and other[1] is not None
            and other[0] <= cost
            and other[1] >= worth
            and other != (cost, worth)
            for other in (known[each] for each in front)
        )
        assert (place in front) != beaten


def test_models_of_one_name_are_told_apart() -> None:
    """Two stores may hold the same name and version."""
    refs = [
        ModelRef(name="bars", version=version, sha256=digit * 64)
        for version, digit in (("1", "a"), ("2", "b"), ("1", "c"))
    ]
    assert unique_references(refs) == ["bars@1-aaaaaaaa", "bars@2", "bars@1-cccccccc"]


def test_disagreements_are_sorted_by_how_far_the_models_lie_apart() -> None:
    """In units of their own tau; a frame that one could not judge is one on which the others may still disagree."""
    judged = [
        frames_of(Label.DAMAGED, [0.6, 0.9, 0.1, None, 0.6]),
        frames_of(Label.DAMAGED, [0.4, 0.2, 0.2, 0.3, None]),
        frames_of(Label.DAMAGED, [0.4, 0.2, 0.2, 0.9, 0.7]),
    ]
    found = disagreements(judged, [TAU, TAU, TAU])
    assert [each.filename for each in found] == ["2.png", "4.png", "1.png"]
    assert [each.spread for each in found] == pytest.approx([1.4, 1.2, 0.4])
    assert [right_in(place, found) for place in range(3)] == [(2, 0), (0, 3), (1, 2)]
    assert disagreements(judged[:1], [TAU]) == []
    assert right_in(0, disagreements([frames_of(Label.UNKNOWN, [score]) for score in (0.1, 0.9)], [TAU, TAU])) == (0, 0)


@pytest.mark.parametrize(
    ("frames", "ranked_by", "accuracy"),
    [
        (frames_of(Label.OK, [0.1, 0.6]) + frames_of(Label.DAMAGED, [0.7]), Accuracy.AUROC, 1.0),
        (frames_of(Label.OK, [0.1, 0.6]), Accuracy.OK_PASSED, 0.5),
        (frames_of(Label.DAMAGED, [0.7, 0.1, None]), Accuracy.DAMAGED_FOUND, 0.5),
        (frames_of(Label.UNKNOWN, [0.7]), None, None),
        (frames_of(Label.OK, [None]), Accuracy.OK_PASSED, None),
    ],
)
def test_models_are_ranked_by_what_the_labels_allow(
    frames: list[EvaluatedFrame], ranked_by: Accuracy | None, accuracy: float | None
) -> None:
    """Without labels by nothing, and still there is a table and a page."""
    comparison = compare({"a@1": result_of(frames), "b@1": result_of(frames, peak=None)})
    assert comparison.ranked_by == ranked_by
    assert [model.accuracy for model in comparison.models] == [accuracy] * 2
    assert [model.pareto for model in comparison.models] == [accuracy is not None] * 2
    assert len(list(csv.DictReader(io.StringIO(as_csv(comparison))))) == 2
    assert ("<svg" in as_html(comparison, [{}, {}])) == (accuracy is not None)


def test_comparison_says_what_beats_a_model_and_whether_that_is_chance() -> None:
    """The most accurate of those that beat it, with the difference over the frames that both judged."""
    comparison = three_models()
    quick, good, poor = comparison.models
    assert [model.pareto for model in comparison.models] == [True, True, False]
    assert quick.beaten_by is None
    assert good.beaten_by is None
    assert poor.beaten_by is not None
    assert poor.beaten_by.reference == "good@1"
    assert poor.beaten_by.lead == pytest.approx(1 - 3 / 6)
    sentences = in_words(comparison)
    assert sentences[0] == "quick@1: no other model is as accurate and as fast"
    assert re.fullmatch(
        r"<poor>@1: good@1 is more accurate by 0\.500 \(95%: -\d\.\d{3} to \d\.\d{3}, so it may be chance\) and faster",
        sentences[2],
    )
    assert list(remarks(comparison)) == ["<poor>@1 could not judge 1 of 6 frames; they are in none of its figures"]


@pytest.mark.parametrize(
    ("spent_ms", "said"),
    [
        ([9.8, 9.9, 9.9, 10.4], "as accurate and faster"),
        ([9.7, 9.8, 10.1, 10.4], "as accurate and faster by no more than the noise"),
    ],
)
def test_model_is_called_faster_only_beyond_the_noise(spent_ms: list[float], said: str) -> None:
    """Medians of the same model differ from one run to the next; what is faster takes less time on most frames."""
    scores = (0.1, 0.2, 0.7, 0.8)
    steady = [frame for score in scores for frame in frames_of(Label.DAMAGED, [score], ms=10.0)]
    varying = [
        frame for score, ms in zip(scores, spent_ms, strict=True) for frame in frames_of(Label.DAMAGED, [score], ms=ms)
    ]
    sentences = in_words(compare({"a@1": result_of(varying), "b@1": result_of(steady)}))
    assert sentences[1] == f"b@1: a@1 is {said}"


def test_csv_has_every_figure_of_every_model() -> None:
    """One row a model; what cannot be had is an empty cell."""
    rows = list(csv.DictReader(io.StringIO(as_csv(three_models()))))
    assert [row["model"] for row in rows] == ["quick@1", "good@1", "<poor>@1"]
    columns = {column.key for group in GROUPS for each in group.figures for column in each.columns}
    assert columns < rows[0].keys()
    assert [float(row["frame_ms"]) for row in rows] == [10, 50, 90]
    assert [row["not_judged"] for row in rows] == ["0", "0", "1"]
    assert {row["aupro"] for row in rows} == {""}
    assert [row["pareto"] for row in rows] == ["True", "True", "False"]


def test_page_is_whole_and_escaped() -> None:
    """Names are text; pictures stand beside each other, and a blank where a model could not judge."""
    comparison = three_models()
    key = (Label.DAMAGED, comparison.disagreements[0].filename)
    document = as_html(comparison, [{key: b"one"}, {key: b"two"}, {}])
    assert "<poor>" not in document
    assert 'href="%3Cpoor%3E%401/report.html"' in document
    assert document.count("data:image/jpeg;base64,") == 2
    assert f"Where they disagree: {len(comparison.disagreements)} of 6 frames" in document
    assert '<td class="best">1.000</td>' in document


@given(
    st.lists(
        st.builds(
            Mark,
            name=st.text(st.characters(codec="ascii", categories=["L", "N", "S"]), min_size=1, max_size=24),
            ms=st.floats(0, 1e5),
            accuracy=st.floats(0, 1),
            interval=st.none() | st.just((0.2, 0.9)),
            memory_bytes=st.none() | st.floats(0, 1e11),
            pareto=st.booleans(),
            words=st.just("0.943, 38 ms, 412 MiB"),
        ),
        max_size=8,
    )
)
def test_picture_is_well_formed_and_shows_every_model(marks: list[Mark]) -> None:
    """Whatever the figures: one circle a model, inside the picture; nothing without models."""
    svg = tradeoff_svg(marks, "image AUROC")
    if not marks:
        assert svg == ""
        return
    circles = list(ET.fromstring(svg).iter("circle"))
    assert len(circles) == len(marks)
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= SIZE_WH[0]
        assert 0 <= float(circle.attrib["cy"]) <= SIZE_WH[1]
    radii = [float(circle.attrib["r"]) for circle in circles]
    assert radii == sorted(radii, reverse=True)
