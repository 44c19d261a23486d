"""Keeps pictures of judged parts for people, off the critical path."""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import cv2
import numpy as np
import numpy.typing as npt
import structlog

from adapters.telemetry import Metrics
from schemas.messages import Verdict
from service.evaluation.pictures import draw_boxes, draw_heatmap
from service.pipeline.types import BgrImage, FloatArray, Frame, Inspection

log = structlog.get_logger(__name__)

_MAX_SIDE = 1920
"""Longer pictures are reduced: no screen shows more, and a JPEG of this size takes 11 ms."""
_QUEUE = 4
"""Pictures waiting for the disk; each holds a whole decoded frame."""
_KEY = re.compile(r"[0-9a-f]{40}")


class Overlay(StrEnum):
    """What is drawn over a picture."""

    BOXES = "boxes"
    HEATMAP = "heatmap"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class _Findings:
    """What may be drawn: boxes (K, 4) int32 and map_xyxy in full-frame pixels, anomaly_map (rows, cols) float32."""

    frame_width: int
    threshold: float
    boxes: npt.NDArray[np.int32]
    anomaly_map: FloatArray
    map_xyxy: tuple[float, float, float, float]

    @classmethod
    def of(cls, verdict: Verdict, inspection: Inspection | None, frame: Frame) -> Self:
        boxes = np.array([box.xyxy for box in verdict.boxes], np.int32).reshape(-1, 4)
        if inspection is None:
            return cls(frame.width, 0.0, boxes, np.empty((0, 0), np.float32), (0.0, 0.0, 0.0, 0.0))
        map_xyxy = inspection.prepared.normalized.square_xyxy
        return cls(frame.width, inspection.threshold, boxes, inspection.anomaly_map, map_xyxy)

    def save(self, path: Path) -> None:
        np.savez(
            path,
            frame_width=np.int64(self.frame_width),
            threshold=np.float64(self.threshold),
            boxes=self.boxes,
            anomaly_map=self.anomaly_map.astype(np.float16),
            map_xyxy=np.array(self.map_xyxy, dtype=np.float64),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as arrays:
            x1, y1, x2, y2 = arrays["map_xyxy"].tolist()
            return cls(
                int(arrays["frame_width"]),
                float(arrays["threshold"]),
                arrays["boxes"],
                arrays["anomaly_map"].astype(np.float32),
                (x1, y1, x2, y2),
            )

    def draw(self, bgr: BgrImage, overlay: Overlay) -> BgrImage:
        """Return `bgr`, the frame at any size, with what was asked for on top."""
        scale = bgr.shape[1] / self.frame_width
        if overlay is Overlay.BOXES:
            return draw_boxes(bgr, np.rint(self.boxes * scale).astype(np.int32))
        x1, y1, x2, y2 = (scale * value for value in self.map_xyxy)
        return draw_heatmap(bgr, self.anomaly_map, (x1, y1, x2, y2), tau=self.threshold)


class PictureStore:
    """A directory with the pictures of the last `keep` parts, written by one thread of its own.

    A picture is `KEY.jpg` beside `KEY.npz` (what may be drawn over it); KEY is a digest of the event id, which may hold
    anything. The JPEG is put in place last, so a picture exists when its JPEG does. What does not fit into the queue is
    dropped and counted; what cannot be written becomes `fault`. Pictures still in the queue can already be seen.
    """

    def __init__(self, root: Path, *, keep: int, metrics: Metrics | None = None) -> None:
        self._root = root
        self._keep = keep
        self._metrics = metrics or Metrics()
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, tuple[Frame, _Findings]] = OrderedDict()
        self._kept = OrderedDict.fromkeys(_find_kept(root))
        self._writer: threading.Thread | None = None
        self._closing = False
        self.fault: str | None = None
        self.dropped = 0

    def offer(self, verdict: Verdict, inspection: Inspection | None, frame: Frame | None) -> None:
        """Take a picture, or drop it where there is no room. Never blocks."""
        if frame is None or self._keep == 0:
            return
        findings = _Findings.of(verdict, inspection, frame)
        with self._changed:
            if len(self._waiting) >= _QUEUE or self._closing:
                self.dropped += 1
                self._metrics.pictures_dropped.inc()
                return
            self._waiting[_key(verdict.event_id)] = (frame, findings)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_all, name="pictures", daemon=True)
                self._writer.start()
            self._changed.notify_all()

    def has(self, event_id: str) -> bool:
        """Tell whether there is a picture of an event."""
        key = _key(event_id)
        with self._changed:
            return key in self._waiting or key in self._kept

    async def image(self, event_id: str, overlay: Overlay) -> bytes | None:
        """Return the picture of an event as JPEG with `overlay` drawn on it, None where none is kept."""
        return await asyncio.to_thread(self._image, _key(event_id), overlay)

    def close(self, patience_s: float = 1.0) -> None:
        """Write what waits, for `patience_s` seconds at most, and take no more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._writer is not None:
            self._writer.join(patience_s)

    def _image(self, key: str, overlay: Overlay) -> bytes | None:
        with self._changed:
            waiting = self._waiting.get(key)
            if waiting is None and key not in self._kept:
                return None
        if waiting is not None:
            frame, findings = waiting
            bgr = _reduce(frame.bgr)
            return self._encode(bgr if overlay is Overlay.NONE else findings.draw(bgr, overlay))
        try:
            jpeg = self._path(key, ".jpg").read_bytes()
            if overlay is Overlay.NONE:
                return jpeg
            findings = _Findings.load(self._path(key, ".npz"))
            return self._encode(findings.draw(_decode(jpeg), overlay))
        except (OSError, ValueError, KeyError, BadZipFile, cv2.error) as exc:
            # deleted or damaged by somebody else: for the reader there is no picture
            if isinstance(exc, FileNotFoundError):  # other errors may pass, as too many open files do
                with self._changed:
                    self._kept.pop(key, None)
            log.warning("picture_unreadable", path=str(self._path(key, ".jpg")), error=str(exc))
            return None

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                key, (frame, findings) = next(iter(self._waiting.items()))
            try:
                self._write(key, frame, findings)
                fault = None
            except Exception as exc:  # the supervised boundary: whatever it was, the next picture may be written
                fault = f"{self._root}: {getattr(exc, 'strerror', None) or str(exc) or type(exc).__name__}"
                if self.fault is None:
                    log.error("picture_not_written", error=fault, exc_info=not isinstance(exc, OSError | cv2.error))
            self.fault = fault
            with self._changed:
                del self._waiting[key]
                if fault is None:
                    self._kept[key] = None
                surplus = [self._kept.popitem(last=False)[0] for _ in range(len(self._kept) - self._keep)]
                self._changed.notify_all()
            for old in surplus:
                self._remove(old)

    def _write(self, key: str, frame: Frame, findings: _Findings) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        unfinished = self._path(key, ".part")
        with ExitStack() as undo:  # half a picture is none
            undo.callback(self._remove, key)
            unfinished.write_bytes(self._encode(_reduce(frame.bgr)))
            findings.save(self._path(key, ".npz"))
            unfinished.replace(self._path(key, ".jpg"))
            undo.pop_all()

    def _remove(self, key: str) -> None:
        for suffix in (".jpg", ".npz", ".part"):
            _remove(self._path(key, suffix))

    def _encode(self, bgr: BgrImage) -> bytes:
        _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])
        return jpeg.tobytes()

    def _path(self, key: str, suffix: str) -> Path:
        return self._root / f"{key}{suffix}"


def _key(event_id: str) -> str:
    return hashlib.sha256(event_id.encode()).hexdigest()[:40]


def _decode(jpeg: bytes) -> BgrImage:
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError("no JPEG")
    return bgr.astype(np.uint8, copy=False)


def _reduce(bgr: BgrImage) -> BgrImage:
    height, width = bgr.shape[:2]
    scale = _MAX_SIDE / max(height, width)
    if scale >= 1:
        return bgr
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(bgr, size_wh, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _find_kept(root: Path) -> list[str]:
    """Return the keys of the pictures in `root`, oldest first, and remove what a crash left of others.

    What else lies there is not ours to delete.
    """
    try:
        ours = [path for path in root.iterdir() if _KEY.fullmatch(path.stem)]
        aged = sorted((path.stat().st_mtime_ns, path.stem) for path in ours if path.suffix == ".jpg")
    except OSError:
        return []
    kept = [key for _, key in aged]
    whole = set(kept)
    for path in ours:
        if path.suffix == ".part" or (path.suffix == ".npz" and path.stem not in whole):
            _remove(path)
    return kept


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("picture_not_removed", path=str(path), error=str(exc))
