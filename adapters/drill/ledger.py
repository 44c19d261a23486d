"""What a plant asked and heard, and whether the promise was kept. Counts only; knows no transport."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from pydantic import ValidationError

from schemas.messages import Decision, Gate, GateCommand, Verdict

LATE_S = 0.05
"""An answer this long after its deadline still counts as heard by it: it was on its way."""


@dataclass(slots=True)
class DrilledPart:
    """One event as the plant knows it; times on the plant's monotonic clock, s.

    verdicts: each distinct text with the time at which it was first heard. opened: when which gate was told to open.
    """

    deadline: float
    asked: int = 1
    verdicts: dict[bytes, float] = field(default_factory=dict)
    opened: list[tuple[float, str]] = field(default_factory=list)

    @property
    def heard(self) -> float | None:
        """Return when the first verdict was heard."""
        return min(self.verdicts.values(), default=None)


@dataclass(frozen=True, slots=True)
class Findings:
    """What became of all parts.

    lost: never answered. contradictory: answered by two different texts. late_passes: a gate was told to open after the
    deadline and 50 ms: which, and how long after. just_late: within those 50 ms, which a busy machine needs to hear of
    what left in time. held_up: the same, where the broker had the command in time and was frozen: no
    service can call it back, a gate keeps a timer of its own. seq_twice: numbers that two verdicts share. seq_back: new
    verdicts that were heard behind a later one. asked_again: events that the plant had to send once more, since a
    broker forgot them or their answer. in_time: share of the events whose answer was heard by the deadline and 50 ms.
    worst_ms: how late the last one was.
    """

    events: int
    lost: int
    contradictory: int
    late_passes: tuple[str, ...]
    just_late: int
    held_up: int
    seq_twice: int
    seq_back: int
    asked_again: int
    in_time: float
    worst_ms: float
    decisions: dict[str, int]
    reasons: dict[str, int]

    @property
    def kept(self) -> bool:
        """Tell whether the promise was kept."""
        return not self.broken()

    def broken(self, before: Findings | None = None) -> list[str]:
        """Return how the promise was broken, by what was not there `before`; empty where it was kept."""
        found = []
        for name in ("lost", "contradictory", "seq_twice", "seq_back"):
            count = getattr(self, name) - (getattr(before, name) if before is not None else 0)
            if count:
                found.append(f"{name.replace('_', ' ')} {count}")
        late = self.late_passes[len(before.late_passes) if before is not None else 0 :]
        return found + [f"PASS after the deadline: {one}" for one in late]

    def __str__(self) -> str:
        said = ", ".join(f"{count} {name}" for name, count in sorted(self.decisions.items()))
        return (
            f"{self.events} events ({said}), lost {self.lost}, contradictory {self.contradictory}, "
            f"PASS after the deadline {len(self.late_passes)} "
            f"(and {self.just_late} within 50 ms of it, {self.held_up} that a frozen broker held up), "
            f"seq used twice {self.seq_twice}, out of order {self.seq_back}, asked again {self.asked_again}"
        )


class Ledger:
    """Takes down what is asked and heard, from any thread."""

    def __init__(self) -> None:
        self.parts: dict[str, DrilledPart] = {}
        self.unreadable = 0
        self._seqs: list[tuple[int, str]] = []
        self._broker_frozen = False
        self._held_up = 0
        self._lock = threading.Lock()

    def ask(self, event_id: str, deadline: float) -> None:
        """Note an event, or that it is sent once more."""
        with self._lock:
            known = self.parts.get(event_id)
            if known is None:
                self.parts[event_id] = DrilledPart(deadline)
            else:
                known.asked += 1

    def hear_verdict(self, payload: bytes, at: float) -> None:
        """Note a verdict that was heard at `at`."""
        try:
            verdict = Verdict.model_validate_json(payload)
        except ValidationError:
            self.unreadable += 1
            return
        with self._lock:
            part = self.parts.get(verdict.event_id)
            if part is None:
                return
            if not part.verdicts and part.asked == 1:
                self._seqs.append((verdict.seq, verdict.event_id))
            part.verdicts.setdefault(payload, at)

    def hear_gate(self, payload: bytes, at: float) -> None:
        """Note a gate command that was heard at `at`."""
        try:
            command = GateCommand.model_validate_json(payload)
        except ValidationError:
            self.unreadable += 1
            return
        if command.gate is not Gate.PASS:
            return
        part = self.parts.get(command.event_id)
        if self._broker_frozen and part is not None and at > part.deadline:
            self._held_up += 1
        else:
            self.open_gate(command.event_id, at, "mqtt")

    def freeze_broker(self, *, frozen: bool) -> None:
        """Note that the broker does not answer, or does again."""
        self._broker_frozen = frozen

    def open_gate(self, event_id: str, at: float, gate: str) -> None:
        """Note that a gate was opened for a part."""
        with self._lock:
            part = self.parts.get(event_id)
            if part is not None:
                part.opened.append((at, gate))

    def unanswered(self) -> list[str]:
        """Return the events that were not answered yet."""
        with self._lock:
            return [event_id for event_id, part in self.parts.items() if not part.verdicts]

    def findings(self) -> Findings:
        """Return what became of all parts so far."""
        with self._lock:
            parts = list(self.parts.values())
            order = [seq for seq, _ in self._seqs]
        said = [Verdict.model_validate_json(text) for part in parts for text in part.verdicts]
        late_s = [part.heard - part.deadline for part in parts if part.heard is not None]
        late_passes = [
            f"{gate} {(at - part.deadline) * 1000:.0f} ms"
            for part in parts
            for at, gate in part.opened
            if at > part.deadline + LATE_S
        ]
        just_late = sum(part.deadline < at <= part.deadline + LATE_S for part in parts for at, _ in part.opened)
        uses = Counter(verdict.seq for verdict in said)
        return Findings(
            events=len(parts),
            lost=sum(not part.verdicts for part in parts),
            contradictory=sum(len(part.verdicts) > 1 for part in parts),
            late_passes=tuple(late_passes),
            just_late=just_late,
            held_up=self._held_up,
            seq_twice=sum(count > 1 for count in uses.values()),
            seq_back=sum(later <= earlier for earlier, later in pairwise(order)),
            asked_again=sum(part.asked > 1 for part in parts),
            in_time=sum(late <= LATE_S for late in late_s) / max(1, len(parts)),
            worst_ms=max(late_s, default=0.0) * 1000,
            decisions=dict(Counter(verdict.decision.value for verdict in said)),
            reasons=dict(Counter(verdict.reason.value for verdict in said if verdict.decision is Decision.ERROR)),
        )
