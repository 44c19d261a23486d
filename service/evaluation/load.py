"""A line that is always ready for the next part: it keeps the service's compute busy, and times every part."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Self

from schemas.base import Value
from schemas.messages import Reason
from service.compute import Compute, Failed, Job, LoadedModel
from service.errors import EvaluationFailed
from service.model.dataset import FrameFile
from service.percentiles import percentile
from service.pipeline.types import Progress, StageProgress

_HELD_BYTES = 512 * 1024 * 1024
"""Encoded frames that are held: some hundred frames of a camera are as good as all of them."""

_WARM_S, _WARM_PARTS = 1.0, 3
"""How long each kind of load is tried before anything counts, and on how many parts at least."""


class Spread(Value):
    """How long something took, ms."""

    median: float
    p95: float
    p99: float
    slowest: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Self:
        """Return the spread of what was measured, which is something."""
        median, p95, p99, slowest = (percentile(milliseconds, percent) or 0.0 for percent in (50, 95, 99, 100))
        return cls(median=median, p95=p95, p99=p99, slowest=slowest)


class FramesUsed(Value):
    """What was judged, over and over. left_out: pictures that were not read, for their sheer mass."""

    count: int
    left_out: int
    encoded_bytes: int
    sizes_wh: tuple[tuple[int, int], ...]


class RefusedFrame(Value):
    """A frame that cannot be judged; it was tried once."""

    name: str
    reason: Reason
    detail: str


class Load(Value):
    """Parts judged, so many at the same time. whole_ms: of one of them, from its bytes to its boxes."""

    at_a_time: int
    parts: int
    seconds: float
    parts_per_s: float
    whole_ms: Spread


@dataclass(frozen=True, slots=True)
class _Encoded:
    name: str
    encoded: bytes


class Frames:
    """Frames in turn, again and again; one that cannot be judged is named and does not come again."""

    def __init__(self) -> None:
        self.refused: dict[str, RefusedFrame] = {}
        self._turn: deque[_Encoded] = deque()
        self._sizes_wh: set[tuple[int, int]] = set()

    def read(self, files: Sequence[FrameFile], max_bytes: int, progress: Progress) -> None:
        """Read files into memory while there is room, one at least."""
        held = 0
        for done, file in enumerate(files, 1):
            if held > _HELD_BYTES:
                break
            try:
                with file.path.open("rb") as opened:
                    encoded = opened.read(max_bytes + 1)  # one more: the loader refuses it, as it would the whole
            except OSError as exc:
                self._refuse(file.name, Reason.FRAME_MISSING, f"cannot be read: {exc.strerror}")
                continue
            held += len(encoded)
            self._turn.append(_Encoded(file.name, encoded))
            progress(done, len(files))

    def next(self) -> _Encoded:
        """Return whose turn it is. Raises EvaluationFailed where none is left."""
        if not self._turn:
            first = next(iter(self.refused.values()))
            raise EvaluationFailed(
                f"none of {len(self.refused)} frames can be judged; {first.name}: {first.reason}: {first.detail}"
            )
        self._turn.rotate(-1)
        return self._turn[-1]

    def judged(self, size_wh: tuple[int, int]) -> None:
        """Note what size a frame has."""
        self._sizes_wh.add(size_wh)

    def drop(self, frame: _Encoded, failed: Failed) -> None:
        """Take a frame out that could not be judged."""
        if frame in self._turn:  # else it was in work twice
            self._turn.remove(frame)
            self._refuse(frame.name, failed.reason, failed.detail)

    def used(self, files: int) -> FramesUsed:
        """Return what was judged out of so many files."""
        return FramesUsed(
            count=len(self._turn),
            left_out=files - len(self._turn) - len(self.refused),
            encoded_bytes=sum(len(frame.encoded) for frame in self._turn),
            sizes_wh=tuple(sorted(self._sizes_wh)),
        )

    def _refuse(self, name: str, reason: Reason, detail: str) -> None:
        self.refused[name] = RefusedFrame(name=name, reason=reason, detail=detail)


@dataclass(frozen=True, slots=True)
class TimedPart:
    """How long one part took. stages_ms: by the names of StagesMs."""

    stages_ms: dict[str, float]
    whole_ms: float


@dataclass(slots=True)
class Shift:
    """Parts that were judged, `width` at a time."""

    width: int
    began: float
    ended: float
    parts: list[TimedPart] = field(default_factory=list)

    def as_load(self) -> Load:
        """Return the figures."""
        seconds = self.ended - self.began
        return Load(
            at_a_time=self.width,
            parts=len(self.parts),
            seconds=seconds,
            parts_per_s=len(self.parts) / seconds,
            whole_ms=Spread.of([part.whole_ms for part in self.parts]),
        )


class Line:
    """Hands frames to the service's compute as a line would that is always ready for the next part."""

    def __init__(self, compute: Compute, model: LoadedModel, frames: Frames) -> None:
        self._compute = compute
        self._model = model
        self._frames = frames

    async def work(self, seconds: float, width: int, progress: Progress, *, parts_min: int = 1) -> Shift:
        """Keep `width` parts in work for so long, and until `parts_min` are judged; progress is told in percent."""
        shift = Shift(width, began=(now := time.perf_counter()), ended=now)
        told = -1

        async def keep_one_in_work() -> None:
            nonlocal told
            while shift.ended < shift.began + seconds or len(shift.parts) < parts_min:
                part = await self._judge(self._frames.next())
                shift.ended = time.perf_counter()
                if part is not None:
                    shift.parts.append(part)
                percent = min(100, int(100 * (shift.ended - shift.began) / seconds))
                if percent > told:
                    told = percent
                    progress(percent, 100)

        await asyncio.gather(*(keep_one_in_work() for _ in range(width)))
        return shift

    async def _judge(self, frame: _Encoded) -> TimedPart | None:
        began = time.perf_counter()
        outcome = await self._compute.judge(Job.undated(None, frame.encoded, self._model))
        whole_ms = 1000 * (time.perf_counter() - began)
        if isinstance(outcome, Failed):
            self._frames.drop(frame, outcome)
            return None
        self._frames.judged((outcome.frame.width, outcome.frame.height))
        return TimedPart({"load": outcome.load_ms, **asdict(outcome.inspection.times)}, whole_ms)


async def both_loads(line: Line, seconds: float, places: int, progress: StageProgress) -> tuple[Shift, Shift]:
    """Work half of the time on one part at a time, then on `places`, warmed up before. Raises EvaluationFailed."""
    warm_s = min(_WARM_S, seconds / 4)
    for width in (1, places):
        await line.work(warm_s, width, partial(progress, "warm up"), parts_min=_WARM_PARTS)
    # as in the service: the collector need not look at what was made up to here
    gc.collect()
    gc.freeze()
    alone = await line.work(seconds / 2, 1, partial(progress, "one at a time, %"))
    return alone, await line.work(seconds / 2, places, partial(progress, "full load, %"))
