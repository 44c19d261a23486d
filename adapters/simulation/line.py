"""A simulated line: stations with a camera, a belt with an encoder, and a gate that goes by what it hears in time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from adapters.clock import SystemClock
from adapters.mqtt.plant import PlantConnection
from adapters.simulation.damage import random_damage
from adapters.simulation.line_plan import Belt, Fault, LineRates, PlannedPart, plan_line
from adapters.simulation.renderer import fast_png, render_canister
from schemas.base import whole_ms
from schemas.messages import Decision, Gate, ImageEvent, ImageRef, Verdict
from schemas.settings import MqttSettings
from service.errors import SinkUnavailable
from service.pipeline.types import Progress

_PATIENCE_S: Final = 5.0
"""How long a verdict is waited for when its part has passed the gate, to tell late from never."""

_MARGIN: Final = 0.9
"""Deadline that a part asks for, as a share of its time to the gate while the belt moves."""

_POOL: Final = 12
"""Pictures of good parts, and as many of damaged ones."""


@dataclass(frozen=True, slots=True)
class PicturePool:
    """Encoded pictures that parts are shown with; rendering one takes longer than a fast line gives."""

    good: Sequence[bytes]
    damaged: Sequence[bytes]
    blank: bytes

    @classmethod
    def render(cls, seed: int, size_wh: tuple[int, int], progress: Progress) -> PicturePool:
        """Render canisters."""
        pictures = []
        for number in range(2 * _POOL):
            damage = random_damage(np.random.default_rng([seed, number])) if number >= _POOL else None
            picture = render_canister(seed * 1000 + number, damage=damage, resolution_wh=size_wh).bgr
            pictures.append(fast_png(picture))
            progress(number + 1, 2 * _POOL)
        nothing = np.full((size_wh[1], size_wh[0], 3), 128, np.uint8)
        return cls(pictures[:_POOL], pictures[_POOL:], fast_png(nothing))

    def of(self, part: PlannedPart) -> bytes | None:
        """Return what the camera sends of a part, None where its frame never comes."""
        if part.fault is Fault.MISSING:
            return None
        if part.fault is Fault.BLANK:
            return self.blank
        pool = self.damaged if part.damaged else self.good
        picture = pool[part.picture % len(pool)]
        return picture[: len(picture) // 2] if part.fault is Fault.CUT_OFF else picture


@dataclass(slots=True)
class GateCount:
    """What became of the parts of one station at its gate.

    An escape is a damaged part with a whole frame that passed, an over-reject a good one that did not although it was
    judged. late: parts without a verdict when they were at the gate; never: those whose verdict did not come at all.
    """

    parts: int = 0
    passed: int = 0
    rejected: int = 0
    escapes: int = 0
    over_rejects: int = 0
    errors: int = 0
    late: int = 0
    never: int = 0
    slack_s: list[float] = field(default_factory=list)

    def take(self, part: PlannedPart, verdict: Verdict | None, *, opened: bool) -> None:
        """Count a part at the gate; `verdict` is what was known of it then."""
        self.parts += 1
        self.passed += opened
        self.rejected += not opened
        if verdict is None:
            self.late += 1
            return
        whole = part.fault is Fault.NONE
        self.errors += verdict.decision is Decision.ERROR
        self.escapes += opened and part.damaged and whole
        self.over_rejects += verdict.decision is Decision.DAMAGED and not part.damaged and whole


class SimulatedStation:
    """One camera and one gate. Events are marked `simulated`; images go inside their messages.

    Args:
        settings: the broker, the same as the station's.
        station: id of the station.
        pool: what its camera sees.
        missing: where a frame that never comes would lie.
    """

    def __init__(self, settings: MqttSettings, station: str, *, pool: PicturePool, missing: Path) -> None:
        self.station = station
        self.count = GateCount()
        self._plant = PlantConnection(settings, station=station, role="line")
        self._pool = pool
        self._missing = missing
        self._clock = SystemClock()

    async def run(
        self, *, seed: int, rates: LineRates, belt: Belt, parts: int, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Show `parts` parts (0: without end) and act at the gate. Raises SinkUnavailable where the broker is lost."""
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        plan = plan_line(seed, self.station, rates, belt)
        async with self._plant:
            async with asyncio.TaskGroup() as group:
                begun = self._clock.monotonic()
                for part in itertools.islice(plan, parts or None):
                    await asyncio.sleep(begun + part.at_s - self._clock.monotonic())
                    if self._plant.lost.done():
                        break
                    event_id = f"{self.station}-{started}-{seed}-{part.number}"
                    self._show(part, event_id, belt)
                    group.create_task(self._gate(part, event_id, begun + part.gate_at_s, changed))
            if self._plant.lost.done():
                raise SinkUnavailable(self._plant.lost.result())

    def _show(self, part: PlannedPart, event_id: str, belt: Belt) -> None:
        now = self._clock.now()
        event = ImageEvent(
            event_id=event_id,
            part_id=f"{self.station}-{part.number:06d}",
            trigger_id=part.encoder,
            captured_at=whole_ms(now),
            deadline_ms=max(1, round(belt.to_gate_s * 1000 * _MARGIN)),
            simulated=True,
        )
        self._plant.expect(event_id)
        encoded = self._pool.of(part)
        if encoded is None:
            self._plant.publish(event, ImageRef(uri=(self._missing / f"{event_id}.png").as_uri()), None)
        else:
            self._plant.publish(event, None, encoded)

    async def _gate(self, part: PlannedPart, event_id: str, at: float, changed: Callable[[], None]) -> None:
        """Act when the part is here, on what is known by then: nothing known rejects."""
        heard = self._plant.expect(event_id)
        await asyncio.sleep(at - self._clock.monotonic())
        verdict = heard.result().verdict if heard.done() else None
        tracked = verdict is not None and verdict.trigger_id == part.encoder
        opened = verdict is not None and tracked and verdict.gate is Gate.PASS
        self.count.take(part, verdict if tracked else None, opened=opened)
        if heard.done():
            self.count.slack_s.append(at - heard.result().arrived_monotonic)
        else:
            await asyncio.wait([heard], timeout=_PATIENCE_S)
            self.count.never += not heard.done()
        self._plant.forget(event_id)
        changed()
