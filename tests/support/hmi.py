"""A station to look at over HTTP: fakes behind a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from adapters.hmi.server import HmiServer
from adapters.pictures import PictureStore
from schemas.messages import (
    Box,
    Counts,
    Decision,
    Fault,
    Gate,
    ImageEvent,
    JudgedImage,
    ModelRef,
    Reason,
    StagesMs,
    StationState,
    Status,
    Verdict,
)
from schemas.settings import HttpSettings
from service.pipeline.types import BgrImage, Frame, Inspection, NormalizedRoi, Prepared, Roi, StageTimes
from service.ports import Answer, Arrival, Asker
from tests.support.fakes import RecordingCommands, RecordingIntake
from tests.support.memory_journal import MemoryJournal

MODEL = ModelRef(name="canister", version="3", sha256="ab" * 32)
SHIFT_START = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
_REASON = {
    Decision.OK: Reason.SCORE_BELOW_THRESHOLD,
    Decision.DAMAGED: Reason.SCORE_AT_OR_ABOVE_THRESHOLD,
    Decision.ERROR: Reason.FRAME_MISSING,
}


def make_verdict(
    seq: int,
    decision: Decision = Decision.OK,
    *,
    event_id: str | None = None,
    part_id: str | None = None,
    score: float | None = None,
    boxes: Sequence[tuple[int, int, int, int]] = (),
    size_wh: tuple[int, int] = (320, 240),
    decided_at: datetime | None = None,
    replayed: bool = False,
) -> Verdict:
    """Return the verdict number `seq`, unless told otherwise of a long past shift with a part every second."""
    judged = decision is not Decision.ERROR
    moment = decided_at or SHIFT_START + timedelta(seconds=seq)
    default_score = 0.9 if decision is Decision.DAMAGED else 0.4
    return Verdict(
        station="line1",
        event_id=event_id or f"e{seq}",
        part_id=part_id or f"C-{seq:06d}",
        trigger_id=seq,
        seq=seq,
        decision=decision,
        gate=Gate.PASS if decision is Decision.OK else Gate.REJECT,
        reason=_REASON[decision],
        uncertain=False,
        score=(score if score is not None else default_score) if judged else None,
        threshold=0.736 if judged else None,
        boxes=tuple(Box(x1=x1, y1=y1, x2=x2, y2=y2, score=1.31) for x1, y1, x2, y2 in boxes),
        image=JudgedImage(width=size_wh[0], height=size_wh[1], uri=None) if judged else None,
        model=MODEL if judged else None,
        captured_at=moment,
        received_at=moment,
        decided_at=moment,
        latency_ms=41.7,
        stages_ms=StagesMs(load=6.1, roi=12.0, normalize=2.2, embed=15.3, score=1.9, boxes=0.4)
        if judged
        else StagesMs(),
        replayed=replayed,
    )


def make_answer(verdict: Verdict, *, repeated: bool = False, left_s: float = 0.5) -> Answer:
    """Return `verdict` on its way to the sinks, `left_s` before its deadline."""
    deadline = time.monotonic() + left_s
    return Answer(verdict, verdict.to_json(), deadline, Asker("mqtt"), repeated=repeated, for_gate=not verdict.replayed)


def make_frame(width: int = 320, height: int = 240, grey: int = 128) -> Frame:
    """Return an even grey frame."""
    return Frame(np.full((height, width, 3), grey, np.uint8))


def make_inspection(frame: Frame, verdict: Verdict, anomaly_map: np.ndarray | None = None) -> Inspection:
    """Return what the pipeline would have said, with a map that covers the square at the frame's left."""
    side = min(frame.width, frame.height)
    bgr: BgrImage = frame.bgr[:side, :side]
    mask = np.ones((side, side), np.bool_)
    full = np.ones((frame.height, frame.width), np.bool_)
    prepared = Prepared(
        frame,
        Roi(full, (0, 0, side, side), "none"),
        NormalizedRoi(bgr, mask, (0.0, 0.0), 1.0),
        StageTimes(),
    )
    return Inspection(
        prepared=prepared,
        score=verdict.score or 0.0,
        threshold=verdict.threshold or 0.0,
        damaged=verdict.decision is Decision.DAMAGED,
        uncertain=False,
        boxes=(),
        anomaly_map=np.zeros((8, 8), np.float32) if anomaly_map is None else anomaly_map.astype(np.float32),
        times=StageTimes(),
    )


class FakeView:
    """A station whose state the test sets."""

    def __init__(self) -> None:
        self.state = StationState.READY
        self.fault: Fault | None = None
        self.reasons: list[str] = []
        self.counts = dict.fromkeys(Decision, 0)

    def status(self) -> Status:
        return Status(
            station="line1",
            state=self.state,
            since=SHIFT_START,
            version="0.1.0",
            model=MODEL,
            counts=Counts(
                ok=self.counts[Decision.OK],
                damaged=self.counts[Decision.DAMAGED],
                error=self.counts[Decision.ERROR],
            ),
            fault=self.fault,
        )

    def not_ready(self) -> Sequence[str]:
        return self.reasons


class HmiBench:
    """A served station; `judge` is what the line does with a part."""

    def __init__(self, store: Path) -> None:
        self.view = FakeView()
        self.journal = MemoryJournal()
        self.pictures = PictureStore(store, keep=100)
        self.server = self.new_server()

    def new_server(self, port: int = 0, *, take_free_port: bool = False, **settings: Any) -> HmiServer:
        """Return a server for this station; port 0 is any free one, `settings` as in the configuration."""
        given: dict[str, Any] = {"host": "127.0.0.1", "port": port} | settings
        return HmiServer(
            HttpSettings.model_construct(**given),
            view=self.view,
            journal=self.journal,
            pictures=self.pictures,
            station="line1",
            take_free_port=take_free_port,
        )

    async def judge(
        self,
        verdict: Verdict,
        frame: Frame | None = None,
        anomaly_map: np.ndarray | None = None,
        *,
        left_s: float = 0.5,
    ) -> None:
        """Store, picture and publish a verdict, `left_s` before its deadline."""
        self.view.counts[verdict.decision] += not verdict.replayed
        if frame is not None:
            judged = verdict.decision is not Decision.ERROR
            self.pictures.offer(verdict, make_inspection(frame, verdict, anomaly_map) if judged else None, frame)
        answer = make_answer(verdict, left_s=left_s)
        event = ImageEvent(event_id=verdict.event_id, part_id=verdict.part_id)
        arrival = Arrival(event, None, verdict.received_at, time.monotonic(), "test")
        await self.journal.accept(arrival, verdict.received_at)
        await self.journal.store([(answer, arrival)])
        await self.server.publish(answer)


@asynccontextmanager
async def serving(server: HmiServer) -> AsyncIterator[HmiServer]:
    """Run `server` as the service does, until the block ends."""
    await server.open()
    running = asyncio.create_task(server.run(RecordingIntake(), RecordingCommands()))
    try:
        yield server
    finally:
        running.cancel()
        await asyncio.wait({running})
        await server.close()
    assert running.cancelled()


@asynccontextmanager
async def served(bench: HmiBench) -> AsyncIterator[httpx.AsyncClient]:
    """Serve `bench` and return a client of it."""
    async with (
        serving(bench.server) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=10) as client,
    ):
        yield client
    await asyncio.to_thread(bench.pictures.close)
