"""What `replay`, `compare` and `models activate` share: which parts, through what, at which pace."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from pathlib import Path

from adapters.clock import SystemClock
from adapters.frames import AllowListedFrames
from adapters.recordings.reader import Session
from schemas.messages import Decision
from schemas.settings import IntakeSettings, Settings
from service.cli.common import some
from service.cli.from_settings import device_of, registry_of
from service.compute import Compute, LoadedModel
from service.errors import UsageError
from service.model.package import read_package
from service.replay.direct import DirectStation
from service.replay.labels import Labels, read_labels
from service.replay.parts import RecordedPart
from service.replay.player import Pace, Played, ReplayTarget, play
from service.replay.tally import Tally


@dataclass(frozen=True, slots=True)
class Selection:
    """Which parts of a session are played.

    only: what was said of a part; of one without a recorded verdict, its label.
    """

    from_ns: int | None = None
    to_ns: int | None = None
    only: Decision | None = None

    def of(self, session: Session, tally: Tally) -> Iterator[RecordedPart]:
        """Yield the parts meant; one whose frame was not recorded is counted as skipped."""
        for part in session.parts(from_ns=self.from_ns, to_ns=self.to_ns):
            if self.only is not None and (part.decision or part.label) is not self.only:
                continue
            if part.event.frame_dropped:
                tally.skipped += 1
                continue
            yield part


def known_labels(session: Session, path: Path | None) -> Labels:
    """Return what a CSV says of the parts of a session. Raises UsageError for rows that are about none of them."""
    if path is None:
        return Labels()
    labels = read_labels(path)
    whole = Session.open(session.path)  # looked at apart: what counts of a replay is what is read for it
    strangers = labels.strangers(whole.parts())
    if strangers and not whole.troubles:  # they may be the parts that cannot be read
        raise UsageError(f"{path}: no part of {session.name} is {some(strangers)}")
    return labels


async def played_parts(
    session: Session,
    selection: Selection,
    target: AbstractAsyncContextManager[ReplayTarget],
    pace: Pace,
    tally: Tally,
    *,
    loop: bool = False,
) -> AsyncGenerator[Played, None]:
    """Play what is selected of a session, again and again where asked to, and yield each part with its verdict."""
    async with target as station:
        while True:
            before = tally.parts
            async with aclosing(play(selection.of(session, tally), station, pace, clock=SystemClock())) as playing:
                async for played in playing:
                    yield played
            if not loop or tally.parts == before:
                return


def direct_station(settings: Settings, store: Path | None, model: str | None) -> DirectStation:
    """Return a station that judges in this process. Raises UsageError where there is no such model."""
    reference = model or settings.model.reference
    if not (model or settings.model.name):
        raise UsageError("nothing to judge with: give --model, or model.name in the configuration")
    package = read_package(registry_of(settings, store).resolve(reference))
    device = device_of(settings)
    pipeline = package.build_pipeline(device)
    clock = SystemClock()
    # nothing has a deadline here: whatever is played waits for its turn
    intake = IntakeSettings(capacity=sys.maxsize)
    compute = Compute.of(settings.compute, intake, AllowListedFrames.for_inline(settings.images), device, clock)
    return DirectStation(
        compute,
        LoadedModel(pipeline, package.ref),
        station=settings.station.id,
        gate_on_error=settings.gate.on_error,
        clock=clock,
    )
