"""Several models on the same recorded parts: where they agree, what each lets pass, what each costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from typing import Literal

from scipy.stats import binomtest

from schemas.base import UtcDatetime, Value
from schemas.messages import Box, Decision, ModelRef
from service.errors import FrameError, FrameMissing
from service.evaluation.gallery import Gallery
from service.evaluation.metrics import Label, image_metrics
from service.judged import boxes_of, decision_of
from service.model.dataset import Decode
from service.model.package import InspectionPipeline
from service.pipeline.types import BgrImage, Frame
from service.replay.acceptance import Percentiles
from service.replay.evidence import side_by_side
from service.replay.labels import Labels
from service.replay.parts import RecordedPart


class Judgement(Value):
    """What one model says of one part; cost is the time of its pipeline after decoding."""

    decision: Decision
    reason: str
    s: float | None = None
    boxes: tuple[Box, ...] = ()
    cost_ms: float = 0.0


class ComparedFrame(Value):
    """One part under every model, in the order of the models."""

    number: int
    event_id: str
    part_id: str
    label: Decision | None
    recorded: Decision | None
    by: tuple[Judgement, ...]

    @property
    def agreed(self) -> bool:
        """Tell whether all models say the same."""
        return len({judgement.decision for judgement in self.by}) == 1


class ModelFigures(Value):
    """One model over the session. Escapes and over-rejects count labelled parts; None where there is no label."""

    model: ModelRef
    embedder: str
    tau: float
    ok: int
    damaged: int
    error: int
    escapes: int | None
    over_rejects: int | None
    auroc: float | None
    cost_ms: Percentiles


class PairFigures(Value):
    """Two models, by their place in the list.

    better: labelled parts that only the first, and only the second, judges rightly. p_value: how likely a difference
    like that is if both were equally good (exact McNemar test); None without labels.
    """

    pair: tuple[int, int]
    agreement: float | None
    better: tuple[int, int]
    p_value: float | None


class SessionComparison(Value):
    """`comparison.json`. troubles: places of the session that cannot be read; nobody knows how many parts they held."""

    format: Literal["cangate/session-comparison/1"] = "cangate/session-comparison/1"
    created_at: UtcDatetime
    session: str
    parts: int
    skipped: int
    troubles: tuple[str, ...] = ()
    labelled_ok: int
    labelled_damaged: int
    models: tuple[ModelFigures, ...]
    pairs: tuple[PairFigures, ...]


@dataclass(slots=True)
class Comparer:
    """Judges part after part with every model; keeps rows, and pictures of the parts that divide the models most.

    decode: turns an image file into pixels. labels: what parts really were, where the session does not say it.
    """

    pipelines: Sequence[InspectionPipeline]
    decode: Decode
    labels: Labels
    rows: list[ComparedFrame] = field(default_factory=list)
    skipped: int = 0
    divided: Gallery[ComparedFrame] = field(default_factory=Gallery)

    def take(self, part: RecordedPart) -> None:
        """Judge one part with every model; one whose frame was not recorded is counted as skipped."""
        if part.event.frame_dropped:
            self.skipped += 1
            return
        frame: Frame | FrameError
        try:
            if part.frame is None:
                raise FrameMissing("no frame was recorded")
            frame = Frame(self.decode(part.frame))
        except FrameError as exc:
            frame = exc
        row = ComparedFrame(
            number=len(self.rows) + 1,
            event_id=part.event.event_id,
            part_id=part.event.part_id or "",
            label=self.labels.of(part),
            recorded=part.decision,
            by=tuple(_judge(pipeline, frame) for pipeline in self.pipelines),
        )
        self.rows.append(row)
        if not row.agreed and isinstance(frame, Frame):
            self.divided.offer(self._distance(row), row, lambda: _picture(frame.bgr, row))

    def summary(self, session: str, troubles: Sequence[str]) -> SessionComparison:
        """Return the figures over everything judged so far. troubles: what of the session cannot be read."""
        labels = [row.label for row in self.rows]
        return SessionComparison(
            created_at=datetime.now(UTC),
            session=session,
            parts=len(self.rows),
            skipped=self.skipped,
            troubles=tuple(troubles),
            labelled_ok=labels.count(Decision.OK),
            labelled_damaged=labels.count(Decision.DAMAGED),
            models=tuple(self._figures(index, pipeline) for index, pipeline in enumerate(self.pipelines)),
            pairs=tuple(_pair(self.rows, pair) for pair in combinations(range(len(self.pipelines)), 2)),
        )

    def scores(self, index: int, label: Label) -> list[float]:
        """Return the scores of one model on the parts of a label."""
        return [s for row in self.rows if Label.of(row.label) is label and (s := row.by[index].s) is not None]

    def _figures(self, index: int, pipeline: InspectionPipeline) -> ModelFigures:
        said = [row.by[index].decision for row in self.rows]
        known = any(row.label is not None for row in self.rows)
        wrong = [(row.label, row.by[index].decision) for row in self.rows]
        ok, damaged = self.scores(index, Label.OK), self.scores(index, Label.DAMAGED)
        return ModelFigures(
            model=pipeline.ref,
            embedder=pipeline.embedder.name,
            tau=pipeline.tau,
            ok=said.count(Decision.OK),
            damaged=said.count(Decision.DAMAGED),
            error=said.count(Decision.ERROR),
            escapes=wrong.count((Decision.DAMAGED, Decision.OK)) if known else None,
            over_rejects=wrong.count((Decision.OK, Decision.DAMAGED)) if known else None,
            auroc=image_metrics(ok, damaged, pipeline.tau).auroc,
            cost_ms=Percentiles.of(row.by[index].cost_ms for row in self.rows if row.by[index].s is not None),
        )

    def _distance(self, row: ComparedFrame) -> float:
        """Return how far the scores lie apart, each in units of its model's tau."""
        shares = [
            judgement.s / pipeline.tau
            for judgement, pipeline in zip(row.by, self.pipelines, strict=True)
            if judgement.s is not None and pipeline.tau
        ]
        return max(shares) - min(shares) if shares else 0.0


def _judge(pipeline: InspectionPipeline, frame: Frame | FrameError) -> Judgement:
    if isinstance(frame, FrameError):
        return Judgement(decision=Decision.ERROR, reason=f"{frame.reason}: {frame}")
    began = time.perf_counter()
    try:
        (inspection,) = pipeline.inspect([frame])
    except FrameError as exc:
        cost_ms = 1e3 * (time.perf_counter() - began)
        return Judgement(decision=Decision.ERROR, reason=f"{exc.reason}: {exc}", cost_ms=cost_ms)
    cost_ms = 1e3 * (time.perf_counter() - began)
    decision, _ = decision_of(inspection)
    return Judgement(
        decision=decision,
        reason="uncertain" if inspection.uncertain else "",
        s=inspection.score,
        boxes=boxes_of(inspection),
        cost_ms=cost_ms,
    )


def _pair(rows: Sequence[ComparedFrame], pair: tuple[int, int]) -> PairFigures:
    first, second = pair
    same = [row.by[first].decision is row.by[second].decision for row in rows]
    right = [
        (row.by[first].decision is row.label, row.by[second].decision is row.label)
        for row in rows
        if row.label is not None
    ]
    better = (right.count((True, False)), right.count((False, True)))
    p_value = mcnemar_p(*better) if right else None
    return PairFigures(pair=pair, agreement=sum(same) / len(same) if same else None, better=better, p_value=p_value)


def mcnemar_p(first: int, second: int) -> float:
    """Return the two-sided p of the exact McNemar test: `first` and `second` parts that only one of two is right on."""
    return float(binomtest(min(first, second), first + second).pvalue) if first or second else 1.0


def _picture(bgr: BgrImage, row: ComparedFrame) -> bytes:
    return side_by_side(bgr, [judgement.boxes for judgement in row.by])
