"""The last verdicts that the tags have shown: their texts, and what was said of them when they were new."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from schemas.messages import Reason, Verdict
from schemas.tags import RESULT_RING
from service.ports import Answer


@dataclass(frozen=True, slots=True)
class Shown:
    """What the tags say of a verdict beside its own words; latency_ms until it was first written."""

    text: str
    deadline_missed: bool
    latency_ms: float


class ResultRing:
    """Keeps the verdicts with the highest `seq`: one that is said again is no newer for that.

    earlier: the last ones that earlier runs said.
    """

    def __init__(self, earlier: Iterable[bytes] = ()) -> None:
        self._shown: dict[int, Shown] = {}
        for text in earlier:
            with contextlib.suppress(ValueError):  # what the journal can no longer read
                verdict = Verdict.model_validate_json(text)
                missed = verdict.reason is Reason.DEADLINE_MISSED
                self._shown[verdict.seq] = Shown(text.decode(), missed, verdict.latency_ms)

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the JSON texts, newest first."""
        return tuple(self._shown[seq].text for seq in sorted(self._shown, reverse=True))

    def show(self, answer: Answer, monotonic: float) -> Shown:
        """Take in an answer that is written now; of a repeated one return what was said first, where that is known."""
        verdict = answer.verdict
        if answer.repeated and verdict.seq in self._shown:
            return self._shown[verdict.seq]
        missed, since_decided_s = verdict.reason is Reason.DEADLINE_MISSED, 0.0
        if not answer.repeated:
            missed |= monotonic > answer.deadline_monotonic
            if answer.decided_monotonic is not None:  # not from the wall clock, which may have been set since
                since_decided_s = max(0.0, monotonic - answer.decided_monotonic)
        shown = Shown(answer.verdict_json.decode(), missed, verdict.latency_ms + since_decided_s * 1000.0)
        self._shown[verdict.seq] = shown
        if len(self._shown) > RESULT_RING:
            del self._shown[min(self._shown)]
        return shown
