"""A small line for tests of the service: arrivals, a scripted pipeline, a sink that remembers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import numpy as np

from adapters.clock import SystemClock
from schemas.messages import ImageEvent, ImageRef, ModelRef, Status
from service.compute import LoadedModel
from service.errors import FrameError, SinkUnavailable
from service.pipeline.types import DamageBox, Frame, Inspection, NormalizedRoi, Prepared, Roi, StageTimes
from service.ports import Answer, Arrival, Refusal

if TYPE_CHECKING:
    from service.pipeline.pipeline import Pipeline

MODEL = ModelRef(name="canister", version="1", sha256="0" * 64)


def arrival(
    event_id: str = "e1",
    *,
    deadline_ms: int | None = None,
    age_ms: float | None = None,
    uri: str | None = "file:///frame.png",
    refusal: Refusal | None = None,
    answered: Callable[[], None] = lambda: None,
    trigger_id: int | None = None,
    comes_again: bool = False,
    replayed: bool = False,
) -> Arrival:
    """Return an event as an adapter would hand it over; `age_ms` is the time since its capture."""
    now = datetime.now(UTC)
    captured_at = None if age_ms is None else now - timedelta(milliseconds=age_ms)
    return Arrival(
        event=ImageEvent(
            event_id=event_id,
            part_id=f"P-{event_id}",
            trigger_id=trigger_id,
            captured_at=captured_at,
            deadline_ms=deadline_ms,
            replayed=replayed,
        ),
        image=None if uri is None else ImageRef(uri=uri),
        received_at=now,
        received_monotonic=time.monotonic(),
        source=RecordingSink.name,
        refusal=refusal,
        comes_again=comes_again,
        answered=answered,
    )


class OneFrame:
    """Loads the same frame for every event, or raises what it is given."""

    ENCODED = b"as it came"

    def __init__(self, error: FrameError | None = None) -> None:
        self.error = error
        self.loads = 0
        self.until = 0.0

    def load(self, image: ImageRef | None, frame_bytes: bytes | None, *, until: float) -> Frame:  # noqa: ARG002 - the port's signature
        self.loads += 1
        self.until = until
        if self.error is not None:
            raise self.error
        return Frame(np.full((40, 60, 3), 128, np.uint8), None if image is None else image.uri, self.ENCODED)


class ScriptedPipeline:
    """Judges every frame the same; `hold()` keeps it in work until `release()`."""

    def __init__(self, *, score: float = 0.5, threshold: float = 1.0, error: Exception | None = None) -> None:
        self.score = score
        self.threshold = threshold
        self.error = error
        self.judged = 0
        self.done = threading.Event()
        self.waiting = False
        self._free = threading.Event()
        self._free.set()

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def prepare(self, frame: Frame) -> Prepared:
        mask = np.ones((frame.height, frame.width), np.bool_)
        return Prepared(
            frame,
            Roi(mask, (0, 0, frame.width, frame.height), "none"),
            NormalizedRoi(frame.bgr, mask, (0.0, 0.0), 1.0),
            StageTimes(roi=1.0, normalize=1.0),
        )

    def judge(self, prepared: Sequence[Prepared]) -> list[Inspection]:
        self.waiting = True
        assert self._free.wait(20)
        if self.error is not None:
            raise self.error
        self.judged += len(prepared)
        self.done.set()
        damaged = self.score >= self.threshold
        return [
            Inspection(
                prepared=one,
                score=self.score,
                threshold=self.threshold,
                damaged=damaged,
                uncertain=False,
                boxes=(DamageBox((1, 2, 11, 12), 1.5),) if damaged else (),
                anomaly_map=np.zeros((4, 4), np.float32),
                times=StageTimes(1.0, 1.0, 1.0, 1.0, 1.0),
            )
            for one in prepared
        ]

    @property
    def loaded(self) -> LoadedModel:
        """Return the pipeline as the service holds one."""
        return LoadedModel(cast("Pipeline", self), MODEL)


class RecordingSink:
    """Remembers what was published; refuses while `down`."""

    name = "recorder"

    def __init__(self) -> None:
        self.published: list[Answer] = []
        self.down = False
        self.attempts = 0
        self._news = asyncio.Condition()

    @property
    def fault(self) -> str | None:
        return "down" if self.down else None

    async def publish(self, answer: Answer) -> None:
        self.attempts += 1
        if self.down:
            raise SinkUnavailable("down")
        self.published.append(answer)
        async with self._news:
            self._news.notify_all()

    async def publish_status(self, status: Status, *, ready: bool) -> None:
        pass

    async def wait_for(self, count: int, timeout_s: float = 10.0) -> list[Answer]:
        """Return the answers as soon as there are `count`."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: len(self.published) >= count)
        return self.published


CLOCK = SystemClock()
