"""Takes the parts of a replay one after the other and judges the replay in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from schemas.messages import ModelRef, Verdict
from schemas.settings import AcceptanceSettings, DeadlineSettings
from service.errors import FrameError
from service.evaluation.gallery import Gallery
from service.model.dataset import Decode
from service.replay.acceptance import (
    Acceptance,
    Change,
    ComparedPart,
    Expectation,
    Percentiles,
    compare_part,
    count_changes,
    findings,
    scores_moved,
)
from service.replay.evidence import side_by_side
from service.replay.labels import Labels
from service.replay.player import Played

_NO_FRAME = np.full((180, 240, 3), 90, np.uint8)


@dataclass(slots=True)
class AcceptanceJudge:
    """Keeps one row a part, and pictures of the few most telling parts of each kind.

    Args:
        expect: what parts are held against.
        labels: what parts really were, where the session does not say it.
        rules: of the plant.
        deadline: of the station.
        decode: reads the frames that are shown.
    """

    expect: Expectation
    labels: Labels
    rules: AcceptanceSettings
    deadline: DeadlineSettings
    decode: Decode
    rows: list[ComparedPart] = field(default_factory=list)
    galleries: dict[Change, Gallery[ComparedPart]] = field(default_factory=dict)
    _models: dict[str, ModelRef] = field(default_factory=dict)
    _models_recorded: dict[str, ModelRef] = field(default_factory=dict)

    def take(self, played: Played) -> None:
        """Compare one part."""
        row = compare_part(
            played,
            len(self.rows) + 1,
            datetime.fromtimestamp(played.part.arrived_ns / 1e9, UTC),
            expect=self.expect,
            label=self.labels.of(played.part),
            deadline=self.deadline,
        )
        self.rows.append(row)
        _note(self._models_recorded, played.part.verdict)
        _note(self._models, played.verdict)
        if row.differs or row.change not in (Change.SAME, Change.UNKNOWN):
            gallery = self.galleries.setdefault(row.change, Gallery())
            gallery.offer(abs(row.shift or 0.0), row, lambda: self._picture(played))

    def judge(
        self, session: str, *, via: str, speed: str, skipped: int, troubles: Sequence[str], timed: bool
    ) -> Acceptance:
        """Return the judgement over all parts so far.

        troubles: what of the session cannot be read. timed: the replay kept the recorded pace, with deadlines.
        """
        rows = self.rows
        found = tuple(findings(rows, self.rules, unreadable=len(troubles), timed=timed))
        return Acceptance(
            created_at=datetime.now(UTC),
            session=session,
            via=via,
            speed=speed,
            expect=self.expect,
            models_recorded=tuple(self._models_recorded.values()),
            models=tuple(self._models.values()),
            parts=len(rows),
            skipped=skipped,
            troubles=tuple(troubles),
            compared=sum(row.change not in (Change.UNKNOWN, Change.UNANSWERED) for row in rows),
            changes=count_changes(row.change for row in rows),
            changes_recorded=count_changes(row.before for row in rows),
            differing=sum(row.differs for row in rows),
            scores_moved=scores_moved(rows),
            score_shift=Percentiles.of(None if row.shift is None else abs(row.shift) for row in rows),
            iou=Percentiles.of(row.iou if row.boxes and row.boxes_recorded else None for row in rows),
            latency_recorded_ms=Percentiles.of(row.latency_recorded_ms for row in rows),
            latency_ms=Percentiles.of(row.latency_ms for row in rows),
            round_trip_ms=Percentiles.of(row.round_trip_ms for row in rows),
            slack_recorded_ms=Percentiles.of(row.slack_recorded_ms for row in rows),
            slack_ms=Percentiles.of(row.slack_ms for row in rows) if timed else Percentiles.of(()),
            findings=found,
            accepted=all(finding.holds for finding in found),
        )

    def _picture(self, played: Played) -> bytes:
        try:
            bgr = _NO_FRAME if played.part.frame is None else self.decode(played.part.frame)
        except FrameError:
            bgr = _NO_FRAME
        both = (played.part.verdict, played.verdict)
        return side_by_side(bgr, [() if verdict is None else verdict.boxes for verdict in both])


def _note(models: dict[str, ModelRef], verdict: Verdict | None) -> None:
    if verdict is not None and verdict.model is not None:
        models.setdefault(verdict.model.sha256, verdict.model)
