"""Judges folders of frames with a model, one frame at a time, and sums up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from schemas.messages import Decision
from service.errors import FrameError
from service.evaluation.evidence import evidence_jpeg
from service.evaluation.gallery import Gallery
from service.evaluation.metrics import (
    EvaluatedFrame,
    Evaluation,
    Label,
    PixelMetrics,
    box_metrics,
    image_metrics,
    median_times,
    scores_of,
    set_counts,
)
from service.evaluation.pixels import PixelStatistics, frame_scores
from service.evaluation.truth import MaskFolder, MaskRefused, box_union, match_boxes, read_mask
from service.judged import boxes_of
from service.model.dataset import Decode, FrameFile, ReadFrame, read_frame
from service.model.package import ModelPackage
from service.pipeline.pipeline import Pipeline
from service.pipeline.types import Inspection, Mask, Progress


@dataclass(slots=True)
class Galleries:
    """The frames that somebody should look at.

    escapes: damaged frames called OK, lowest score first. over_rejects: OK frames called damaged, highest score first.
    suspects: frames without a label, highest score first.
    """

    escapes: Gallery[EvaluatedFrame] = field(default_factory=Gallery)
    over_rejects: Gallery[EvaluatedFrame] = field(default_factory=Gallery)
    suspects: Gallery[EvaluatedFrame] = field(default_factory=Gallery)

    def offer(self, frame: EvaluatedFrame, score: float, draw: Callable[[], bytes]) -> None:
        """Show a judged frame to the gallery that it belongs to."""
        if frame.label is Label.UNKNOWN:
            self.suspects.offer(score, frame, draw)
        elif frame.label is Label.DAMAGED and frame.decision is Decision.OK:
            self.escapes.offer(-score, frame, draw)
        elif frame.label is Label.OK and frame.decision is Decision.DAMAGED:
            self.over_rejects.offer(score, frame, draw)


class Evaluator:
    """Takes frames one after another; rows and counts are kept, pictures and maps are not."""

    def __init__(
        self, package: ModelPackage, pipeline: Pipeline, *, decode: Decode, masks: MaskFolder | None = None
    ) -> None:
        self._package = package
        self._pipeline = pipeline
        self._decode = decode
        self._masks = masks
        self._trained_on = {frame.sha256 for frame in package.manifest.training.frames}
        self._seen: dict[str, str] = {}  # SHA-256 of a file to the first frame with it
        self._pixels = PixelStatistics()
        self.frames: list[EvaluatedFrame] = []
        self.galleries = Galleries()

    def judge_all(self, files: Sequence[FrameFile], label: Label, progress: Progress) -> None:
        """Judge every file; one that cannot be judged becomes a row with its reason."""
        for done, file in enumerate(files, 1):
            self.frames.append(self._judge(file, label))
            progress(done, len(files))

    def summary(self) -> Evaluation:
        """Return the figures over everything judged so far."""
        manifest = self._package.manifest
        frames = self.frames
        by_label = {label: [frame for frame in frames if frame.label is label] for label in Label}
        return Evaluation(
            created_at=datetime.now(UTC),
            model=self._package.ref,
            embedder=manifest.embedder.name,
            statistic=manifest.recipe.score.statistic,
            tau=manifest.tau,
            tau_false_reject=None if manifest.calibration.sweep else manifest.calibration.false_reject,
            sets={label: set_counts(members) for label, members in by_label.items() if members},
            image=image_metrics(scores_of(frames, Label.OK), scores_of(frames, Label.DAMAGED), manifest.tau),
            pixel=PixelMetrics(
                frames=self._pixels.frames,
                regions=self._pixels.regions,
                auroc=self._pixels.auroc(),
                aupro=self._pixels.aupro(),
            )
            if self._pixels.regions
            else None,
            boxes=box_metrics(frames),
            masks_refused=sum(bool(frame.mask_refused) for frame in frames),
            median_ms=median_times(frames),
        )

    def evidence(self, file: FrameFile, label: Label) -> bytes:
        """Return the picture of a frame, as a JPEG file; it is counted nowhere. Raises FrameError."""
        _, inspection, _ = self._inspect(file)
        mask_file = self._mask_of(file, label)
        truth, _ = self._truth(mask_file, inspection) if mask_file else (None, "")
        return evidence_jpeg(inspection, truth, patch_tau=self._pipeline.patch_tau)

    def _judge(self, file: FrameFile, label: Label) -> EvaluatedFrame:
        try:
            read, inspection, load_ms = self._inspect(file)
        except FrameError as exc:
            return EvaluatedFrame.unjudged(file, exc, label=label)
        mask_file = self._mask_of(file, label)
        truth, refused = self._truth(mask_file, inspection) if mask_file else (None, "")
        name = f"{label}/{file.name}"
        first = self._seen.setdefault(read.sha256, name)
        boxes = boxes_of(inspection)
        frame = EvaluatedFrame.of(
            file,
            inspection,
            load_ms,
            label=label,
            box_area=float(box_union(boxes, (read.frame.width, read.frame.height)).mean()) if boxes else 0.0,
            trained_on=read.sha256 in self._trained_on,
            copy_of="" if first == name else first,
            mask=mask_file.name if mask_file else "",
            mask_refused=refused,
            match=None if truth is None else match_boxes(boxes, truth),
        )
        self._count_pixels(inspection, label, truth)
        tau = self._pipeline.patch_tau
        self.galleries.offer(frame, inspection.score, lambda: evidence_jpeg(inspection, truth, patch_tau=tau))
        return frame

    def _inspect(self, file: FrameFile) -> tuple[ReadFrame, Inspection, float]:
        """Return the frame, what the pipeline says of it, and the milliseconds that loading took."""
        began = time.perf_counter()
        read = read_frame(file, self._decode)
        load_ms = 1e3 * (time.perf_counter() - began)
        (inspection,) = self._pipeline.inspect([read.frame])
        return read, inspection, load_ms

    def _mask_of(self, file: FrameFile, label: Label) -> FrameFile | None:
        return self._masks.find(file.name) if self._masks is not None and label is Label.DAMAGED else None

    def _truth(self, file: FrameFile, inspection: Inspection) -> tuple[Mask | None, str]:
        """Return the mask, or None and why it is left out."""
        prepared = inspection.prepared.frame
        try:
            return read_mask(file, self._decode, (prepared.width, prepared.height)), ""
        except (FrameError, MaskRefused) as exc:
            return None, str(exc)

    def _count_pixels(self, inspection: Inspection, label: Label, truth: Mask | None) -> None:
        """Count the pixels of a frame whose every pixel is known; without masks nobody asks."""
        if self._masks is None or (truth is None and label is not Label.OK):
            return
        scores = frame_scores(inspection, self._pipeline.recipe.boxes.blur_sigma)
        self._pixels.add(scores, np.zeros(scores.shape, bool) if truth is None else truth)
