"""One part of a drill: what its plant asked, and what it heard of it, way by way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from schemas.messages import Decision, Gate, GateCommand, Verdict

LATE_S = 0.05
"""An answer this long after its deadline still counts as heard by it: it was on its way."""

GOOD_TIME_S = 0.25
"""So long before its deadline nothing keeps a PASS back: the service's own margin is 200 ms at most."""


class Way(StrEnum):
    """How a gate hears what to do: the gate topic, the station's own tags, the nodes of a PLC."""

    MQTT = "mqtt"
    TAGS = "opc ua"
    PLC = "plc"


@dataclass(frozen=True, slots=True)
class GateHeard:
    """What a gate was told, and when. command: its words on MQTT. held_up: a frozen broker had them in time."""

    way: Way
    gate: Gate
    at: float
    command: bytes = b""
    held_up: bool = False


@dataclass(slots=True)
class Outage:
    """A time in which something was broken on purpose, or in which the plant itself could hear nothing."""

    began: float
    ended: float = math.inf

    def meets(self, first: float, last: float) -> bool:
        """Tell whether any of it lies between two times."""
        return self.began <= last and first <= self.ended


@dataclass(slots=True)
class DrilledPart:
    """One event as the plant knows it; times on the plant's monotonic clock, s.

    verdicts: each distinct text with the time at which it was first heard. decision: the first one's. gates: all that
    its gates were told.
    """

    deadline: float
    asked: int = 1
    verdicts: dict[bytes, float] = field(default_factory=dict)
    decision: Decision | None = None
    gates: list[GateHeard] = field(default_factory=list)

    @property
    def heard(self) -> float | None:
        """Return when the first verdict was heard."""
        return min(self.verdicts.values(), default=None)

    @property
    def opened(self) -> list[tuple[float, Way]]:
        """Return when which gate was told to open, by no fault of a frozen broker."""
        return [(heard.at, heard.way) for heard in self.gates if heard.gate is Gate.PASS and not heard.held_up]

    @property
    def silent_since(self) -> float | None:
        """Return when a command had to follow on MQTT that never did; REJECT always has to, PASS only in good time."""
        if self.heard is None or any(heard.way is Way.MQTT for heard in self.gates):
            return None
        latest = self.deadline - GOOD_TIME_S if self.decision is Decision.OK else self.deadline + LATE_S
        return self.heard if self.heard <= latest else None

    def contradictions(self, verdicts: Sequence[Verdict]) -> list[str]:
        """Return how its gates contradict its verdicts or themselves, at most one text for each way."""
        found = []
        for way in Way:
            said = sorted((heard for heard in self.gates if heard.way is way), key=lambda heard: heard.at)
            wrong = [text for heard in said if (text := self._unfit(heard, verdicts))]
            for earlier, later in pairwise(said):
                # tags take a PASS back when it would come too late; nothing ever takes a REJECT back
                if earlier.gate is not later.gate and (way is Way.MQTT or later.gate is Gate.PASS):
                    wrong.append(f"{earlier.gate}, then {later.gate}")
            found += [f"{way} {text}" for text in wrong[:1]]
        return found

    def _unfit(self, heard: GateHeard, verdicts: Sequence[Verdict]) -> str | None:
        if not verdicts:
            return None  # it is lost already, or its verdict is still on its way
        decisions = [verdict.decision for verdict in verdicts]
        only_ok = all(decision is Decision.OK for decision in decisions)
        if heard.gate is Gate.PASS and not only_ok:
            return f"PASS for {'/'.join(decisions)}"
        # contract section 8: a PASS that would be late is not said on MQTT, and tags say Reject instead
        may_be_late = heard.way is not Way.MQTT and heard.at > self.deadline - GOOD_TIME_S
        if heard.gate is Gate.REJECT and only_ok and not may_be_late:
            return "REJECT for OK"
        if heard.command:
            command = GateCommand.model_validate_json(heard.command)
            if any(command != GateCommand.of(verdict) for verdict in verdicts):
                return f"{heard.gate} in other words than the verdict's"
        return None
