"""What the pages show: the newest parts, kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from schemas.messages import Decision, Gate, StationState, Verdict
from service.ports import Answer

log = structlog.get_logger(__name__)

LENGTH = 100
"""Verdicts that a page can show: the length of its trend."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part as a page shows it.

    gate: what was to be said to the gate when the verdict went out, REJECT where it was too late for a PASS; None where
    the gate has nothing to do with this part in this run: it is replayed, or `past`, judged before the restart. Whether
    the gate heard it is up to broker and PLC; that they are away shows in the header.
    """

    verdict: Verdict
    gate: Gate | None = None
    past: bool = False

    @property
    def too_late(self) -> bool:
        """Tell whether the gate was to open for this part, and was never told."""
        return self.gate is Gate.REJECT and self.verdict.gate is Gate.PASS

    def is_before_fault(self, state: StationState) -> bool:
        """Tell whether the part was judged before the station could judge none: since then every answer is ERROR."""
        return state is StationState.FAULT and self.verdict.decision is not Decision.ERROR


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest parts, oldest first, and those of the gate; `version` rises with each: a page sees when to redraw."""

    version: int = 0
    parts: tuple[Part, ...] = ()
    at_gate: tuple[Part, ...] = ()

    @property
    def newest(self) -> Part | None:
        """The newest part, None before the first."""
        return self.parts[-1] if self.parts else None

    def find(self, seq: int) -> Part | None:
        """Return the part with number `seq`, None where it is no longer here."""
        return next((part for part in self.parts if part.verdict.seq == seq), None)


class Feed:
    """Written by the loop of the service, read by the thread of the pages: `recent` is replaced, never changed."""

    def __init__(self) -> None:
        self.recent = Recent()

    def add(self, answer: Answer, monotonic: float) -> None:
        """Append a new verdict, and what its gate was told at `monotonic`."""
        gate = None
        if answer.for_gate:
            gate = Gate.PASS if answer.gate_at(monotonic) is Gate.PASS else Gate.REJECT
        part, recent = Part(answer.verdict, gate), self.recent
        at_gate = recent.at_gate if gate is None else (*recent.at_gate, part)
        self._show((*recent.parts, part), at_gate)

    def start(self, verdicts: Iterable[Verdict]) -> None:
        """Begin with what is known from before this run, oldest first."""
        recent = self.recent
        past = [Part(verdict, past=True) for verdict in verdicts if recent.find(verdict.seq) is None]
        self._show((*past, *recent.parts), recent.at_gate)

    def _show(self, parts: Sequence[Part], at_gate: Sequence[Part]) -> None:
        self.recent = Recent(self.recent.version + 1, tuple(parts[-LENGTH:]), tuple(at_gate[-LENGTH:]))


def read_verdicts(rows: Iterable[bytes]) -> list[Verdict]:
    """Return what stored rows say; one that is rotten is passed over."""
    verdicts = []
    for row in rows:
        try:
            verdicts.append(Verdict.model_validate_json(row))
        except ValidationError as exc:
            log.warning("verdict_unreadable", error=str(exc.errors()[0]["msg"]))
    return verdicts
