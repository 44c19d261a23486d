"""Several models judged on the same frames: their figures side by side, the trade-off, and where they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from schemas.base import UtcDatetime, Value
from schemas.messages import Decision, ModelRef
from service.evaluation.metrics import EvaluatedFrame, Evaluation, Label, scores_of
from service.evaluation.trial import Cost, TrialResult
from service.evaluation.uncertainty import auroc_difference

Point = tuple[float | None, float | None]
"""What a model costs and what it is worth, as far as known."""


class Accuracy(StrEnum):
    """What models are ranked by: the most that the labels at hand allow."""

    AUROC = "image AUROC"
    OK_PASSED = "OK frames passed at tau"
    DAMAGED_FOUND = "damaged frames found at tau"


class Beater(Value):
    """The model that is at least as accurate and as fast as another.

    lead: by how much its AUROC is larger, over the frames that both could judge, with the 95% interval; null where the
    models are not ranked by AUROC, or there are too few frames to say. quicker_on: on which share of
    these frames it took less time; null where there are none.
    """

    reference: str
    lead: float | None = None
    lead_low: float | None = None
    lead_high: float | None = None
    quicker_on: float | None = None


class ComparedModel(Value):
    """One model: its figures, its cost, and what beats it."""

    reference: str = Field(description="name@version, unique in the comparison; its folder of the report")
    evaluation: Evaluation
    cost: Cost
    accuracy: float | None
    pareto: bool = Field(description="no other model is at least as accurate and as fast")
    beaten_by: Beater | None = Field(description="the most accurate of those that beat it")


class Opinion(Value):
    """What one model says of a frame."""

    decision: Decision
    s: float | None


class Disagreement(Value):
    """A frame that one model calls OK and another damaged; opinions in the order of the models.

    spread: how far the models lie apart, in units of their own tau: the largest s / tau less the smallest.
    """

    filename: str
    label: Label
    spread: float
    opinions: tuple[Opinion, ...]


class Comparison(Value):
    """`comparison.json`."""

    format: Literal["cangate/comparison/1"] = "cangate/comparison/1"
    created_at: UtcDatetime
    frames: dict[Label, int]
    ranked_by: Accuracy | None = Field(description="none without labels")
    models: tuple[ComparedModel, ...]
    disagreements: tuple[Disagreement, ...] = Field(description="largest spread first")


def compare(results: Mapping[str, TrialResult]) -> Comparison:
    """Put the results of models, by their reference, side by side; all of them judged the same frames."""
    references = list(results)
    evaluations = [result.evaluation for result in results.values()]
    frames = {label: counts.frames for label, counts in evaluations[0].sets.items()}
    ranked_by = _ranked_by(frames)
    points = [(result.cost.frame_ms, _accuracy(result.evaluation, ranked_by)) for result in results.values()]
    front = pareto_front(points)
    models = []
    for place, (reference, result) in enumerate(results.items()):
        beater = None if place in front else _most_accurate_beater(points, front, place)
        models.append(
            ComparedModel(
                reference=reference,
                evaluation=result.evaluation,
                cost=result.cost,
                accuracy=points[place][1],
                pareto=place in front,
                beaten_by=None
                if beater is None
                else _beater(references[beater], results[references[beater]], result, ranked_by),
            )
        )
    return Comparison(
        created_at=datetime.now(UTC),
        frames=frames,
        ranked_by=ranked_by,
        models=tuple(models),
        disagreements=tuple(
            disagreements(
                [result.frames for result in results.values()], [evaluation.tau for evaluation in evaluations]
            )
        ),
    )


def unique_references(refs: Sequence[ModelRef]) -> list[str]:
    """Return name@version of each package; where two share it, with the beginning of their ids."""
    plain = [ref.reference for ref in refs]
    return [
        reference if plain.count(reference) == 1 else f"{reference}-{ref.sha256[:8]}"
        for reference, ref in zip(plain, refs, strict=True)
    ]


def pareto_front(points: Sequence[Point]) -> set[int]:
    """Return which points no other beats. Of equal ones all are in front; one that is not known in full is not."""
    return {
        place
        for place, point in enumerate(points)
        if None not in point and not any(_beats(other, point) for other in points)
    }


def disagreements(judged: Sequence[Sequence[EvaluatedFrame]], taus: Sequence[float]) -> list[Disagreement]:
    """Return the frames that one model calls OK and another damaged, those first on which they lie farthest apart.

    judged: the frames of each model, all in the same order. taus: of each model. Frames that a model could not judge
    say nothing of agreement; the others may still disagree.
    """
    found = []
    for opinions in zip(*judged, strict=True):
        if {Decision.OK, Decision.DAMAGED} <= {frame.decision for frame in opinions}:
            ratios = [frame.s / tau for frame, tau in zip(opinions, taus, strict=True) if frame.s is not None]
            found.append(
                Disagreement(
                    filename=opinions[0].filename,
                    label=opinions[0].label,
                    spread=max(ratios) - min(ratios),
                    opinions=tuple(Opinion(decision=frame.decision, s=frame.s) for frame in opinions),
                )
            )
    return sorted(found, key=lambda disagreement: -disagreement.spread)


def right_in(place: int, found: Sequence[Disagreement]) -> tuple[int, int]:
    """Return in how many of the labelled disagreements the model at `place` is right, and in how many it is wrong."""
    said = [
        (each.opinions[place].decision, truth)
        for each in found
        if (truth := each.label.decision) is not None and each.opinions[place].decision is not Decision.ERROR
    ]
    right = sum(decision is truth for decision, truth in said)
    return right, len(said) - right


def _ranked_by(frames: Mapping[Label, int]) -> Accuracy | None:
    if Label.OK in frames:
        return Accuracy.AUROC if Label.DAMAGED in frames else Accuracy.OK_PASSED
    return Accuracy.DAMAGED_FOUND if Label.DAMAGED in frames else None


def _accuracy(evaluation: Evaluation, by: Accuracy | None) -> float | None:
    image = evaluation.image
    match by:
        case Accuracy.AUROC:
            return image.auroc
        case Accuracy.OK_PASSED:
            return None if image.false_reject_at_tau is None else 1 - image.false_reject_at_tau
        case Accuracy.DAMAGED_FOUND:
            return image.recall_at_tau
        case None:
            return None


def _beats(one: Point, other: Point) -> bool:
    """Tell whether `one` costs at most as much and is worth at least as much, and is not equal."""
    (cost, worth), (other_cost, other_worth) = one, other
    if cost is None or worth is None or other_cost is None or other_worth is None:
        return False
    return cost <= other_cost and worth >= other_worth and one != other


def _most_accurate_beater(points: Sequence[Point], front: set[int], place: int) -> int | None:
    beaters = [each for each in front if _beats(points[each], points[place])]
    return max(beaters, key=lambda each: (points[each][1] or 0.0, -each), default=None)


def _beater(reference: str, better: TrialResult, beaten: TrialResult, by: Accuracy | None) -> Beater:
    """Return by how much one model beats another, over the frames that both could judge."""
    judged = [
        (frame, twin)
        for frame, twin in zip(better.frames, beaten.frames, strict=True)
        if frame.s is not None and twin.s is not None
    ]
    if not judged:
        return Beater(reference=reference)
    quicker = sum(frame.stages_ms.total() < twin.stages_ms.total() for frame, twin in judged)
    beater = Beater(reference=reference, quicker_on=quicker / len(judged))
    first, second = (
        (scores_of(frames, Label.OK), scores_of(frames, Label.DAMAGED)) for frames in zip(*judged, strict=True)
    )
    if by is not Accuracy.AUROC or min(map(len, first)) < 2:
        return beater
    lead, (low, high) = auroc_difference(first, second)
    return beater.model_copy(update={"lead": lead, "lead_low": low, "lead_high": high})
