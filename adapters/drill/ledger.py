"""What a plant asked and heard, and whether the promise was kept. Counts only; knows no transport."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from pydantic import ValidationError

from adapters.drill.part import LATE_S, DrilledPart, GateHeard, Outage, Way
from schemas.messages import Decision, Gate, GateCommand, Verdict

_NEAR_S = 1.0
"""A command and its verdict leave together: an outage that is further from the verdict has not swallowed it."""

_RECOVERY_S = 5.0
"""So long after something was broken an answer may be late on account of it."""

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Findings:
    """What became of all parts.

    lost: never answered. contradictory: answered by two different texts. late_passes: a gate was told to open after the
    deadline and 50 ms: which, and how long after. just_late: within those 50 ms, which a busy machine needs to hear of
    what left in time. held_up: the same, where the broker had the command in time and was frozen: no
    service can call it back, a gate keeps a timer of its own. gate_contradictory: a gate was told what does not fit the
    verdict, or first one thing and then the other, or to open for a part that nobody asked about. gate_silent: events
    whose verdict came in good time and whose gate command was never heard on MQTT. silent_in_outage: how many more,
    whose command an outage may have swallowed. unreadable: verdicts and commands that are none. seq_twice: numbers that
    two verdicts share. seq_back: new verdicts that were heard behind a later one. asked_again: events that the plant
    had to send once more, since a broker forgot them or their answer. in_time: share of the events whose answer was
    heard by the deadline and 50 ms. late_alone: answers later than that although nothing had been broken for 5 s.
    worst_ms: how late the last one was.
    """

    events: int
    lost: int
    contradictory: int
    late_passes: tuple[str, ...]
    just_late: int
    held_up: int
    gate_contradictory: tuple[str, ...]
    gate_silent: tuple[str, ...]
    silent_in_outage: int
    unreadable: int
    seq_twice: int
    seq_back: int
    asked_again: int
    in_time: float
    late_alone: int
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
        for name in ("lost", "contradictory", "unreadable", "seq_twice", "seq_back"):
            count = getattr(self, name) - (getattr(before, name) if before is not None else 0)
            if count:
                found.append(f"{name.replace('_', ' ')} {count}")
        for name in ("gate_contradictory", "gate_silent"):
            known = set(getattr(before, name)) if before is not None else set()
            if new := [one for one in getattr(self, name) if one not in known]:
                more = ", ..." if len(new) > _EXAMPLES else ""
                found.append(f"{name.replace('_', ' ')} {len(new)} ({', '.join(new[:_EXAMPLES])}{more})")
        late = self.late_passes[len(before.late_passes) if before is not None else 0 :]
        return found + [f"PASS after the deadline: {one}" for one in late]

    def __str__(self) -> str:
        said = ", ".join(f"{count} {name}" for name, count in sorted(self.decisions.items()))
        return (
            f"{self.events} events ({said}), lost {self.lost}, contradictory {self.contradictory}, "
            f"PASS after the deadline {len(self.late_passes)} "
            f"(and {self.just_late} within 50 ms of it, {self.held_up} that a frozen broker held up), "
            f"gate contradictory {len(self.gate_contradictory)}, silent {len(self.gate_silent)} "
            f"(and {self.silent_in_outage} in an outage), "
            f"seq used twice {self.seq_twice}, out of order {self.seq_back}, asked again {self.asked_again}"
        )


class Ledger:
    """Takes down what is asked and heard, from any thread."""

    def __init__(self) -> None:
        self.parts: dict[str, DrilledPart] = {}
        self.unreadable = 0
        self._seqs: list[tuple[int, str]] = []
        self._opened_unasked: list[str] = []
        self._outages: list[Outage] = []
        self._broker_frozen = False
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
            if not part.verdicts:
                part.decision = verdict.decision
                if part.asked == 1:
                    self._seqs.append((verdict.seq, verdict.event_id))
            part.verdicts.setdefault(payload, at)

    def hear_gate(self, payload: bytes, at: float) -> None:
        """Note a gate command that was heard on MQTT at `at`."""
        try:
            command = GateCommand.model_validate_json(payload)
        except ValidationError:
            self.unreadable += 1
            return
        part = self.parts.get(command.event_id)
        late = part is not None and at > part.deadline
        held_up = self._broker_frozen and command.gate is Gate.PASS and late
        self._note(command.event_id, GateHeard(Way.MQTT, command.gate, at, payload, held_up))

    def hear_nodes(self, event_id: str, gate: Gate, at: float, way: Way = Way.TAGS) -> None:
        """Note what the tags, or a PLC's nodes, told a gate about a part at `at`."""
        self._note(event_id, GateHeard(way, gate, at))

    def freeze_broker(self, *, frozen: bool) -> None:
        """Note that the broker does not answer, or does again."""
        self._broker_frozen = frozen

    def begin_outage(self, at: float) -> Outage:
        """Note that from `at` on something is broken; whoever mends it notes the end."""
        outage = Outage(at)
        with self._lock:
            self._outages.append(outage)
        return outage

    def unanswered(self) -> list[str]:
        """Return the events that were not answered yet."""
        with self._lock:
            return [event_id for event_id, part in self.parts.items() if not part.verdicts]

    def silent(self) -> list[str]:
        """Return the events whose gate command was not heard on MQTT yet, without an outage to blame."""
        return [event_id for event_id, in_outage in self._silent() if not in_outage]

    def findings(self) -> Findings:
        """Return what became of all parts so far."""
        silent = self._silent()
        with self._lock:
            parts = dict(self.parts)
            order = [seq for seq, _ in self._seqs]
            contradictory = list(self._opened_unasked)
            outages = list(self._outages)
        uses, decisions, reasons = Counter[int](), Counter[str](), Counter[str]()
        for event_id, part in parts.items():
            # hours of verdicts are not held at once: as models they are ten times their text
            verdicts = [Verdict.model_validate_json(text) for text in part.verdicts]
            contradictory += [f"{text}, {event_id}" for text in part.contradictions(verdicts)]
            for verdict in verdicts:
                uses[verdict.seq] += 1
                decisions[verdict.decision.value] += 1
                reasons[verdict.reason.value] += verdict.decision is Decision.ERROR
        answered = [(part, part.heard) for part in parts.values() if part.heard is not None]
        late_s = [heard - part.deadline for part, heard in answered]
        late_passes = [
            f"{gate} {(at - part.deadline) * 1000:.0f} ms"
            for part in parts.values()
            for at, gate in part.opened
            if at > part.deadline + LATE_S
        ]
        just_late = sum(
            part.deadline < at <= part.deadline + LATE_S for part in parts.values() for at, _ in part.opened
        )
        late_alone = sum(
            heard > part.deadline + LATE_S
            and not any(outage.meets(part.deadline - _RECOVERY_S, heard) for outage in outages)
            for part, heard in answered
        )
        return Findings(
            events=len(parts),
            lost=sum(not part.verdicts for part in parts.values()),
            contradictory=sum(len(part.verdicts) > 1 for part in parts.values()),
            late_passes=tuple(late_passes),
            just_late=just_late,
            held_up=sum(heard.held_up for part in parts.values() for heard in part.gates),
            gate_contradictory=tuple(contradictory),
            gate_silent=tuple(event_id for event_id, in_outage in silent if not in_outage),
            silent_in_outage=sum(in_outage for _, in_outage in silent),
            unreadable=self.unreadable,
            seq_twice=sum(count > 1 for count in uses.values()),
            seq_back=sum(later <= earlier for earlier, later in pairwise(order)),
            asked_again=sum(part.asked > 1 for part in parts.values()),
            in_time=sum(late <= LATE_S for late in late_s) / max(1, len(parts)),
            late_alone=late_alone,
            worst_ms=max(late_s, default=0.0) * 1000,
            decisions=dict(decisions),
            reasons={reason: count for reason, count in reasons.items() if count},
        )

    def _note(self, event_id: str, heard: GateHeard) -> None:
        with self._lock:
            part = self.parts.get(event_id)
            if part is not None:
                part.gates.append(heard)
            elif heard.gate is Gate.PASS:
                self._opened_unasked.append(f"{heard.way} PASS for {event_id!r} that nobody asked about")

    def _silent(self) -> list[tuple[str, bool]]:
        """Return the events without a gate command on MQTT, and whether an outage may have swallowed it."""
        with self._lock:
            return [
                (event_id, any(outage.meets(since - _NEAR_S, since + _NEAR_S) for outage in self._outages))
                for event_id, part in self.parts.items()
                if (since := part.silent_since) is not None
            ]
