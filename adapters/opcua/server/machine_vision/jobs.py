"""Jobs: what StartSingleJob and StartContinuous were given, and which results belong to them."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from adapters.opcua.server.machine_vision.data_types import MeasIdDataType, PartIdDataType, ProductIdDataType
from schemas.messages import Verdict

_REMEMBERED: Final = 16
"""Jobs whose results may still come; a part takes milliseconds, so this is plenty."""


@dataclass(frozen=True, slots=True)
class Job:
    """What marks the results of one job.

    ended_at: from when on parts no longer belong to it; None while it runs. aborted: results that come after that say
    so; the gate gets its decision all the same.
    """

    id: str
    started_at: datetime
    meas_id: MeasIdDataType | None = None
    part_id: PartIdDataType | None = None
    product_id: ProductIdDataType | None = None
    ended_at: datetime | None = None
    aborted: bool = False

    def covers(self, received_at: datetime) -> bool:
        """Tell whether a part that was received at that moment belongs to this continuous job."""
        return self.started_at <= received_at and (self.ended_at is None or received_at < self.ended_at)


class Jobs:
    """The running job, and those that ended a moment ago."""

    def __init__(self, station: str, start: datetime) -> None:
        self._name = f"{station}-job-{{}}-{start:%Y%m%dT%H%M%S.%fZ}"
        self._count = 0
        self._single: OrderedDict[str, Job] = OrderedDict()
        self._continuous: deque[Job] = deque(maxlen=_REMEMBERED)
        self.current: Job | None = None

    def next_id(self) -> str:
        """Return an id that no job had."""
        self._count += 1
        return self._name.format(self._count)

    def begin(self, job: Job, *, single: bool) -> None:
        """Make `job` the running one. The part of a single job has the job's id as its event id."""
        self.current = job
        if single:
            self._single[job.id] = job
            while len(self._single) > _REMEMBERED:
                self._single.popitem(last=False)
        else:
            self._continuous.append(job)

    def end(self, at: datetime, *, aborted: bool = False) -> None:
        """End the running job, if there is one."""
        job, self.current = self.current, None
        if job is None:
            return
        ended = replace(job, ended_at=at, aborted=aborted)
        if job.id in self._single:
            self._single[job.id] = ended
        else:
            self._continuous = deque(
                (ended if one.id == job.id else one for one in self._continuous), maxlen=_REMEMBERED
            )

    def of(self, verdict: Verdict) -> Job | None:
        """Return the job that a verdict belongs to; None for a part that came by itself."""
        job = self._single.pop(verdict.event_id, None)
        if job is not None:
            return job
        return next((one for one in self._continuous if one.covers(verdict.received_at)), None)
