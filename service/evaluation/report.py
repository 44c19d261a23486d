"""An evaluation as files: `results.csv`, `metrics.json`, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from schemas.base import rfc3339
from schemas.messages import Decision, StagesMs
from service.evaluation.evaluator import Galleries
from service.evaluation.gallery import Exhibit, Gallery
from service.evaluation.metrics import EvaluatedFrame, Evaluation, Label, SetCounts, scores_of
from service.evaluation.page import definitions, figure, note, page, percent, picture, table
from service.evaluation.plots import histogram_svg, roc_svg
from service.evaluation.truth import COVERED
from service.judged import boxes_text

RESULTS, METRICS, PAGE = "results.csv", "metrics.json", "report.html"
STAGES = tuple(StagesMs.model_fields)
COLUMNS = (
    *("filename", "s", "decision", "label", "tau", "reason", "uncertain", "box_count", "box_area", "boxes"),
    *("width", "height", "roi", "trained_on", "copy_of", "mask", "mask_refused"),
    *("components", "components_found", "boxes_right", "iou"),
    *(f"{stage}_ms" for stage in STAGES),
    *("detail", "path"),
)
LISTED = 100
"""Troubles listed on the page; the CSV has them all."""


def write_report(
    directory: Path, evaluation: Evaluation, frames: Sequence[EvaluatedFrame], galleries: Galleries
) -> None:
    """Write the three files into a directory. Raises OSError."""
    (directory / RESULTS).write_text(as_csv(frames, evaluation.tau), encoding="utf-8", newline="")
    (directory / METRICS).write_text(evaluation.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (directory / PAGE).write_text(as_html(evaluation, frames, galleries), encoding="utf-8")


def as_csv(frames: Sequence[EvaluatedFrame], tau: float) -> str:
    """Return the rows as CSV, `filename,s,decision,label` first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for frame in frames:
        boxes = boxes_text(frame.boxes)
        match = {} if frame.match is None else frame.match.model_dump()
        stages = {f"{stage}_ms": getattr(frame.stages_ms, stage) for stage in STAGES}
        row = frame.model_dump(mode="json") | match | stages
        writer.writerow(row | {"tau": tau, "boxes": boxes, "box_count": len(frame.boxes)})
    return text.getvalue()


def as_html(evaluation: Evaluation, frames: Sequence[EvaluatedFrame], galleries: Galleries) -> str:
    """Return the report as one page: style, plots and pictures are inside, and there is no script."""
    model = evaluation.model.reference
    body = [
        f"<h1>Evaluation of {escape(model)}</h1>",
        _about(evaluation, len(frames)),
        *_notes(evaluation),
        f'<div class="tiles">{"".join(_tiles(evaluation))}</div>',
        *_plots(evaluation, frames),
        "<h2>How the frames were judged</h2>",
        _sets(evaluation),
        *_gallery(
            "Escapes", "Damaged frames called OK, lowest score first", galleries.escapes, Label.DAMAGED, evaluation
        ),
        *_gallery(
            "Over-rejects",
            "OK frames called damaged, highest score first",
            galleries.over_rejects,
            Label.OK,
            evaluation,
        ),
        *_gallery("Highest scores", "Frames without a label", galleries.suspects, Label.UNKNOWN, evaluation),
        *_troubles(frames),
        "<h2>Time</h2>",
        _times(evaluation.median_ms),
        "<h2>What the figures mean</h2>",
        _meanings(),
    ]
    return page(f"{model}: evaluation", body)


def _about(evaluation: Evaluation, frames: int) -> str:
    return (
        f'<p class="muted">{frames} frames, {rfc3339(evaluation.created_at)}; embedder {escape(evaluation.embedder)}, '
        f"statistic {evaluation.statistic}, tau {evaluation.tau:.4f}<br>"
        f"package <code>{evaluation.model.sha256}</code></p>"
    )


def _notes(evaluation: Evaluation) -> Iterable[str]:
    trained_on = sum(counts.trained_on for counts in evaluation.sets.values())
    if trained_on:
        yield note(f"Frames of the model's own training set: {trained_on}; the figures flatter.")
    copies = sum(counts.copies for counts in evaluation.sets.values())
    if copies:
        yield note(f"Copies of frames judged before, perhaps under another label: {copies}; they count like others.")
    errors = sum(counts.error for counts in evaluation.sets.values())
    if errors:
        yield note(
            f"Frames that could not be judged: {errors}; they are in none of the figures below, and rejected on a line."
        )
    if evaluation.masks_refused:
        yield note(f"Masks that do not fit: {evaluation.masks_refused}; their frames have no pixel or box figures.")


def _tiles(evaluation: Evaluation) -> Iterable[str]:
    image, pixel, boxes = evaluation.image, evaluation.pixel, evaluation.boxes
    ok, damaged = evaluation.sets.get(Label.OK), evaluation.sets.get(Label.DAMAGED)
    between = f"; 95%: {figure(image.auroc_low)} to {figure(image.auroc_high)}" if image.auroc is not None else ""
    yield _tile("Image AUROC", figure(image.auroc), f"chance that a damaged frame outscores an OK one{between}")
    yield _tile("Image AUPRC", figure(image.auprc), "average precision")
    yield _tile(
        "Recall at 1% false rejects", percent(image.recall_at_1pct_false_reject), "with tau where it would have to be"
    )
    yield _tile("False rejects at tau", percent(image.false_reject_at_tau), _of(ok, "OK frames"))
    yield _tile("Recall at tau", percent(image.recall_at_tau), _of(damaged, "damaged frames"))
    if pixel is not None:
        yield _tile("Pixel AUROC", figure(pixel.auroc), f"{pixel.frames} frames")
        yield _tile("AUPRO", figure(pixel.aupro), f"{pixel.regions} regions, up to 30% false positives")
    if boxes is not None:
        yield _tile("Box precision", percent(boxes.precision), f"{boxes.boxes} boxes on damaged frames")
        yield _tile("Box recall", percent(boxes.recall), f"{boxes.components} components of masks")
        yield _tile("Box IoU", figure(boxes.iou_median), "median over damaged frames")
    unknown = evaluation.sets.get(Label.UNKNOWN)
    if unknown is not None:
        judged = unknown.ok + unknown.damaged
        share = unknown.damaged / judged if judged else None
        yield _tile("Called damaged", percent(share), _of(unknown, "frames without a label"))


def _plots(evaluation: Evaluation, frames: Sequence[EvaluatedFrame]) -> Iterable[str]:
    scores = {label: scores_of(frames, label) for label in Label}
    key = "".join(f'<span><i class="{label}"></i>{label}</span>' for label, members in scores.items() if members)
    histogram = histogram_svg(scores, evaluation.tau)
    if not histogram:
        return
    plots = f'<div class="panel">{histogram}<div class="key">{key}</div></div>'
    roc = roc_svg(scores[Label.OK], scores[Label.DAMAGED], evaluation.tau)
    if roc:
        plots += f'<div class="panel">{roc}</div>'
    yield "<h2>Scores</h2>"
    yield f'<div class="plots">{plots}</div>'


def _sets(evaluation: Evaluation) -> str:
    head = (
        "label",
        "frames",
        "OK",
        "damaged",
        "error",
        "uncertain",
        "median s",
        "with boxes",
        "boxes a frame",
        "box area",
    )
    rows = [
        (
            str(label),
            *(str(count) for count in (counts.frames, counts.ok, counts.damaged, counts.error, counts.uncertain)),
            figure(counts.score_median, 4),
            str(counts.frames_with_boxes),
            figure(counts.boxes_per_frame, 2),
            percent(counts.box_area_per_frame, 2),
        )
        for label, counts in evaluation.sets.items()
    ]
    return table(head, rows)


def _gallery(
    title: str, what: str, gallery: Gallery[EvaluatedFrame], label: Label, evaluation: Evaluation
) -> Iterable[str]:
    if label not in evaluation.sets:
        return
    yield f"<h2>{title}: {gallery.seen}</h2>"
    if not gallery.seen:
        yield "<p>None.</p>"
        return
    exhibits = gallery.exhibits()
    shown = f"; the first {len(exhibits)} of {gallery.seen}" if len(exhibits) < gallery.seen else ""
    outline = ", true damage outlined in green" if any(exhibit.frame.match for exhibit in exhibits) else ""
    yield (f'<p class="muted">{what}{shown}. Left the part with its boxes{outline}, right the anomaly map.</p>')
    yield f'<div class="gallery">{"".join(_exhibit(exhibit, evaluation.tau) for exhibit in exhibits)}</div>'


def _exhibit(exhibit: Exhibit[EvaluatedFrame], tau: float) -> str:
    frame = exhibit.frame
    relation = "≥" if frame.decision is Decision.DAMAGED else "&lt;"
    return (
        f"<figure>{picture(exhibit.jpeg, frame.filename)}"
        f"<figcaption>{escape(frame.filename)}<br><span>s {frame.s:.4f} {relation} tau {tau:.4f}, {len(frame.boxes)} "
        f"{'box' if len(frame.boxes) == 1 else 'boxes'}{', uncertain' * frame.uncertain}</span></figcaption></figure>"
    )


def _troubles(frames: Sequence[EvaluatedFrame]) -> Iterable[str]:
    rows = [
        (frame.filename, frame.label, f"{frame.reason}: {frame.detail}")
        for frame in frames
        if frame.decision is Decision.ERROR
    ]
    rows += [
        (frame.filename, frame.label, f"mask {frame.mask}: {frame.mask_refused}")
        for frame in frames
        if frame.mask_refused
    ]
    if rows:
        yield f"<h2>Not judged, or judged without their mask: {len(rows)}</h2>"
        yield table(("file", "label", "why"), rows[:LISTED], kind="words")
        if len(rows) > LISTED:
            yield f'<p class="muted">The first {LISTED}; results.csv has them all.</p>'


def _times(times: StagesMs) -> str:
    present = {stage: ms for stage in STAGES if (ms := getattr(times, stage)) is not None}
    if not present:
        return "<p>No frame was judged.</p>"
    return table(
        ("median, ms", *present, "sum"),
        [("a frame", *(f"{ms:.1f}" for ms in present.values()), f"{times.total():.1f}")],
    )


def _meanings() -> str:
    meanings = {
        "AUROC, AUPRC": (
            "Of the image scores; damaged is positive. Frames that could not be judged have no score. The 95% interval "
            "says how far the AUROC may be off with so many frames (Newcombe 2006, method 5); it takes frames for "
            "independent, and ten pictures of one part are one frame."
        ),
        "recall at 1% false rejects": (
            "Share of the damaged frames above the lowest limit that at most 1% of the OK frames exceed."
        ),
        "pixel AUROC, AUPRO": (
            "Of the map that boxes are taken from, laid over the full frame; pixels outside the part count with "
            "distance 0. OK frames and damaged frames with a mask take part. AUPRO is the overlap with each region of "
            "the masks, averaged over the regions and integrated to a false-positive rate of 0.3 (MVTec AD; Bergmann "
            "et al., arXiv 1911.02357)."
        ),
        "box precision, recall": (
            "On damaged frames with a mask: a box is right where it holds damage, a component of the mask is found "
            f"where {COVERED:.0%} of it lies inside the boxes. Box IoU compares all boxes of a frame with the "
            "bounds of all components."
        ),
        "time": "Of this machine, one frame after another.",
    }
    return definitions(meanings)


def _tile(name: str, value: str, what: str) -> str:
    return f'<div class="tile"><small>{name}</small><b>{value}</b><small>{what}</small></div>'


def _of(counts: SetCounts | None, what: str) -> str:
    return f"of {what}: none given" if counts is None else f"{counts.damaged} of {counts.ok + counts.damaged} {what}"
