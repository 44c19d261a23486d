"""A comparison as files: `comparison.csv`, `comparison.json`, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from schemas.base import rfc3339
from schemas.messages import Decision
from service.evaluation.comparison import Accuracy, Beater, ComparedModel, Comparison, Disagreement, right_in
from service.evaluation.comparison_figures import GROUPS, figures_of, milliseconds
from service.evaluation.metrics import Label
from service.evaluation.page import definitions, figure, note, page, picture, table
from service.evaluation.report import LISTED, PAGE
from service.evaluation.tradeoff_plot import Mark, tradeoff_svg
from service.evaluation.trial import FrameKey

COMPARISON_CSV, COMPARISON_JSON, COMPARISON_PAGE = "comparison.csv", "comparison.json", "comparison.html"
ABOUT = ("model", "embedder", "statistic", "input_px", "tau", "pareto", "sha256")
EXHIBITED = 12
"""Disagreements shown with their pictures."""
FASTER_ON = 0.75
"""Share of the frames on which a faster model takes less time: of two that are alike it is about half."""

Pictures = Sequence[Mapping[FrameKey, bytes]]
"""For each model, its pictures of frames, as JPEG files."""


def write_comparison(directory: Path, comparison: Comparison, pictures: Pictures) -> None:
    """Write the three files into a directory. Raises OSError."""
    (directory / COMPARISON_CSV).write_text(as_csv(comparison), encoding="utf-8", newline="")
    (directory / COMPARISON_JSON).write_text(comparison.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (directory / COMPARISON_PAGE).write_text(as_html(comparison, pictures), encoding="utf-8")


def as_csv(comparison: Comparison) -> str:
    """Return one row a model, every figure at full precision; an empty cell is a figure that cannot be had."""
    text = io.StringIO()
    columns = [column for group in GROUPS for each in group.figures for column in each.columns]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*ABOUT, *(column.key for column in columns)])
    for model in comparison.models:
        evaluation = model.evaluation
        about = (model.reference, evaluation.embedder, evaluation.statistic, model.cost.input_side, evaluation.tau)
        writer.writerow([*about, model.pareto, evaluation.model.sha256, *(column.of(model) for column in columns)])
    return text.getvalue()


def as_html(comparison: Comparison, pictures: Pictures) -> str:
    """Return the comparison as one page: style, plot and pictures are inside, and there is no script."""
    body = [
        f"<h1>Comparison of {len(comparison.models)} models</h1>",
        _about(comparison),
        *(note(escape(remark) + ".") for remark in remarks(comparison)),
        *_tradeoff(comparison),
        "<h2>Figures</h2>",
        _figures(comparison),
        *_disagreements(comparison, pictures),
        "<h2>What the figures mean</h2>",
        _meanings(),
    ]
    return page("Comparison: " + ", ".join(model.reference for model in comparison.models), body)


def in_words(comparison: Comparison) -> list[str]:
    """Return a sentence for each model on its trade-off; none where there are no labels to rank by."""
    if comparison.ranked_by is None:
        return []
    by_reference = {model.reference: model for model in comparison.models}
    sentences = []
    for model in comparison.models:
        if model.pareto:
            sentences.append(f"{model.reference}: no other model is as accurate and as fast")
        elif model.beaten_by is not None:
            better = by_reference[model.beaten_by.reference]
            sentences.append(f"{model.reference}: {better.reference} is {_advantage(better, model, model.beaten_by)}")
        else:
            sentences.append(f"{model.reference} cannot be ranked: too few of its frames could be judged")
    return sentences


def remarks(comparison: Comparison) -> Iterable[str]:
    """Yield what must be known before the figures are believed."""
    for model in comparison.models:
        counts = model.evaluation.sets.values()
        trained_on = sum(each.trained_on for each in counts)
        errors, frames = sum(each.error for each in counts), sum(each.frames for each in counts)
        if trained_on:
            yield f"{model.reference} was made from {trained_on} of these frames; its figures flatter"
        if errors:
            yield f"{model.reference} could not judge {errors} of {frames} frames; they are in none of its figures"
        if model.evaluation.masks_refused:
            yield f"{model.reference}: {model.evaluation.masks_refused} masks do not fit their frames, see its report"
    if comparison.ranked_by is not None and len(comparison.frames.keys() & {Label.OK, Label.DAMAGED}) == 1:
        only = "OK" if Label.OK in comparison.frames else "damaged"
        yield f"there are no frames of the other label: a model that calls everything {only} would come out best"


def _advantage(better: ComparedModel, model: ComparedModel, beater: Beater) -> str:
    accuracy = "as accurate"
    if (better.accuracy or 0.0) > (model.accuracy or 0.0):
        accuracy = "more accurate"
        if beater.lead is not None and beater.lead_low is not None and beater.lead_high is not None:
            chance = ", so it may be chance" if beater.lead_low <= 0 else ""
            accuracy += f" by {beater.lead:.3f} (95%: {beater.lead_low:.3f} to {beater.lead_high:.3f}{chance})"
    is_faster = beater.quicker_on is not None and beater.quicker_on >= FASTER_ON
    return f"{accuracy} and {'faster' if is_faster else 'faster by no more than the noise'}"


def _about(comparison: Comparison) -> str:
    frames = ", ".join(f"{count} {label}" for label, count in comparison.frames.items())
    cost = comparison.models[0].cost
    threads = f"{cost.threads} thread{'s' * (cost.threads != 1)}"
    return (
        f'<p class="muted">The same frames for each: {frames}; {rfc3339(comparison.created_at)}; one model after '
        f"another, each in a process of its own, on {escape(cost.device)}, {threads}</p>"
    )


def _tradeoff(comparison: Comparison) -> Iterable[str]:
    marks = [
        Mark(
            name=model.reference,
            ms=model.cost.frame_ms,
            accuracy=model.accuracy,
            memory_bytes=_memory(model),
            interval=_interval(comparison, model),
            pareto=model.pareto,
            words=_words(model),
        )
        for model in comparison.models
        if model.accuracy is not None and model.cost.frame_ms is not None
    ]
    if not marks or comparison.ranked_by is None:
        return
    key = (
        '<span><i class="front"></i>Pareto front: not beaten</span>'
        '<span><i class="beaten"></i>beaten: another model is at least as accurate and as fast</span>'
        "<span>area of a mark: peak memory</span>"
        + "<span>upright line: 95% interval</span>"
        * any(mark.interval for mark in marks)
    )
    yield "<h2>Accuracy against time</h2>"
    yield f'<div class="panel">{tradeoff_svg(marks, comparison.ranked_by.value)}<div class="key">{key}</div></div>'
    yield f'<ul class="words">{"".join(f"<li>{escape(sentence)}</li>" for sentence in in_words(comparison))}</ul>'


def _interval(comparison: Comparison, model: ComparedModel) -> tuple[float, float] | None:
    """Return the interval of what models are ranked by, where there is one."""
    low, high = model.evaluation.image.auroc_low, model.evaluation.image.auroc_high
    return (low, high) if comparison.ranked_by is Accuracy.AUROC and low is not None and high is not None else None


def _memory(model: ComparedModel) -> int | None:
    """Return the memory of a model on the CPU and on the GPU."""
    if model.cost.peak_memory_bytes is None:
        return None
    return model.cost.peak_memory_bytes + (model.cost.peak_gpu_bytes or 0)


def _words(model: ComparedModel) -> str:
    memory = _memory(model)
    size = "" if memory is None else f", {memory / 2**20:.0f} MiB"
    return f"{figure(model.accuracy)}, {milliseconds(model.cost.frame_ms)} ms{size}"


def _figures(comparison: Comparison) -> str:
    models = comparison.models
    head = "".join(
        f'<th><a href="{escape(quote(model.reference))}/{PAGE}">{escape(model.reference)}</a></th>' for model in models
    )
    rows = [
        _row("embedder", [model.evaluation.embedder for model in models]),
        _row("input, px", [str(model.cost.input_side) for model in models]),
        _row("statistic", [model.evaluation.statistic.value for model in models]),
    ]
    for group in figures_of(comparison):
        rows.append(f'<tr class="group"><th colspan="{len(models) + 1}">{escape(group.name)}</th></tr>')
        rows += [_row(each.name, [each.cell(model) for model in models], each.best(models)) for each in group.figures]
    return (
        f'<div class="panel"><table class="figures" style="min-width: {240 + 150 * len(models)}px">'
        f"<tr><th></th>{head}</tr>{''.join(rows)}</table></div>"
    )


def _row(name: str, cells: Sequence[str], best: set[int] | None = None) -> str:
    values = "".join(
        f'<td class="best">{escape(cell)}</td>' if place in (best or ()) else f"<td>{escape(cell)}</td>"
        for place, cell in enumerate(cells)
    )
    return f"<tr><td>{escape(name)}</td>{values}</tr>"


def _disagreements(comparison: Comparison, pictures: Pictures) -> Iterable[str]:
    found, models = comparison.disagreements, comparison.models
    total = sum(comparison.frames.values())
    yield f"<h2>Where they disagree: {len(found)} of {total} frames</h2>"
    if not found:
        yield "<p>No frame is OK for one model and damaged for another.</p>"
        return
    if any(each.label is not Label.UNKNOWN for each in found):
        counts = [right_in(place, found) for place in range(len(models))]
        yield table(
            ("of these", *(model.reference for model in models)),
            [("right", *(str(right) for right, _ in counts)), ("wrong", *(str(wrong) for _, wrong in counts))],
        )
    shown = f"; the first {EXHIBITED} of {len(found)}" if len(found) > EXHIBITED else ""
    yield (
        '<p class="muted">Frames that one model calls OK and another damaged, those first on which the scores lie '
        f"farthest apart in units of tau{shown}. Each picture: left the part with its boxes, and true damage in green "
        "where its mask is known; right the anomaly map.</p>"
    )
    for disagreement in found[:EXHIBITED]:
        yield _exhibit(disagreement, models, pictures)
    if len(found) > EXHIBITED:
        yield f"<h2>The other {len(found) - EXHIBITED}</h2>"
        yield table(
            ("file", "label", *(model.reference for model in models)),
            [
                (each.filename, each.label, *(_opinion(each, place, model) for place, model in enumerate(models)))
                for each in found[EXHIBITED : EXHIBITED + LISTED]
            ],
            kind="words",
        )
        if len(found) > EXHIBITED + LISTED:
            yield f'<p class="muted">The first {LISTED} of them; {COMPARISON_JSON} has them all.</p>'


def _exhibit(disagreement: Disagreement, models: Sequence[ComparedModel], pictures: Pictures) -> str:
    key = (disagreement.label, disagreement.filename)
    known = "without a label" if disagreement.label is Label.UNKNOWN else f"labelled {disagreement.label}"
    figures = []
    for place, (model, drawn) in enumerate(zip(models, pictures, strict=True)):
        decision = disagreement.opinions[place].decision
        shown = picture(drawn[key], disagreement.filename) if key in drawn else '<div class="blank"></div>'
        figures.append(
            f'<figure class="{_verdict_class(decision)}">{shown}<figcaption><b>{escape(model.reference)}</b>'
            f"<br><span>{escape(_opinion(disagreement, place, model))}</span></figcaption></figure>"
        )
    return (
        f'<section class="pair"><h3>{escape(disagreement.filename)} <small>{known}</small></h3>'
        f'<div class="gallery">{"".join(figures)}</div></section>'
    )


def _verdict_class(decision: Decision) -> str:
    return {Decision.OK: "called-ok", Decision.DAMAGED: "called-damaged", Decision.ERROR: "called-nothing"}[decision]


def _opinion(disagreement: Disagreement, place: int, model: ComparedModel) -> str:
    opinion = disagreement.opinions[place]
    if opinion.s is None:
        return "not judged"
    word, relation = ("damaged", "≥") if opinion.decision is Decision.DAMAGED else ("OK", "<")
    right = disagreement.label.decision
    judged = "" if right is None else ", right" if right is opinion.decision else ", wrong"
    return f"{word}{judged}: s {opinion.s:.4f} {relation} tau {model.evaluation.tau:.4f}"


def _meanings() -> str:
    return definitions(
        {
            "accuracy": (
                "Figures as in the report of each model, which its name leads to. All models saw the same frames. "
                "The best of a row is bold; on few frames a small difference is chance."
            ),
            "Pareto front": (
                "The models that no other beats: none is at least as accurate and at least as fast. By how much one is "
                "more accurate is told over the frames that both judged, with the 95% interval of the difference "
                "(DeLong 1988): of models that find the same frames hard it is narrower than their own intervals. "
                f"One is called faster where it took less time on {FASTER_ON:.0%} of these frames or more."
            ),
            "time": (
                "Of this machine, one frame after another; the median of the sum of all stages, and of each stage. "
                "Reading and decoding the file is the stage load."
            ),
            "weights": "Of the embedder, in memory.",
            "peak memory": (
                "Most memory that the process had resident while it judged, above what the imported libraries take; "
                "pictures and figures of this report included. The whole process is with the libraries."
            ),
        }
    )
