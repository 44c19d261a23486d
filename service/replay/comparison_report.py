"""A comparison as files: `parts.csv`, `comparison.json`, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from schemas.base import rfc3339
from service.evaluation.gallery import Gallery
from service.evaluation.metrics import Label
from service.evaluation.page import definitions, figure, note, page, percent, picture, table
from service.replay.comparison import ComparedFrame, SessionComparison
from service.replay.report import unreadable
from service.replay.scatter import scatter_panel

PARTS, COMPARISON, PAGE = "parts.csv", "comparison.json", "report.html"


def write_comparison(
    directory: Path, comparison: SessionComparison, rows: Sequence[ComparedFrame], divided: Gallery[ComparedFrame]
) -> None:
    """Write the three files into a directory. Raises OSError."""
    (directory / PARTS).write_text(as_csv(comparison, rows), encoding="utf-8", newline="")
    (directory / COMPARISON).write_text(comparison.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (directory / PAGE).write_text(as_html(comparison, rows, divided), encoding="utf-8")


def as_csv(comparison: SessionComparison, rows: Sequence[ComparedFrame]) -> str:
    """Return one row a part: what is known of it, then decision, score, boxes and cost by each model."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [
        f"{kind} {figures.model.reference}"
        for figures in comparison.models
        for kind in ("decision", "s", "boxes", "cost_ms", "reason")
    ]
    writer.writerow(["number", "event_id", "part_id", "label", "recorded", "agreed", *columns])
    for row in rows:
        said = [
            cell
            for by in row.by
            for cell in (by.decision, "" if by.s is None else by.s, len(by.boxes), round(by.cost_ms, 3), by.reason)
        ]
        known = (row.number, row.event_id, row.part_id, row.label or "", row.recorded or "", row.agreed)
        writer.writerow([*known, *said])
    return text.getvalue()


def as_html(comparison: SessionComparison, rows: Sequence[ComparedFrame], divided: Gallery[ComparedFrame]) -> str:
    """Return the report as one page."""
    names = [figures.model.reference for figures in comparison.models]
    body = [
        f"<h1>{escape(' against '.join(names))}</h1>",
        _about(comparison),
        *_notes(comparison),
        "<h2>Models</h2>",
        _models(comparison),
        "<h2>Agreement</h2>",
        _agreement(comparison, names),
        *_scatters(comparison, rows, names),
        *unreadable(comparison.troubles),
        *_divided(divided, names),
        "<h2>What the figures mean</h2>",
        _meanings(),
    ]
    return page(" against ".join(names), body)


def _about(comparison: SessionComparison) -> str:
    return (
        f'<p class="muted">{comparison.parts} parts of {escape(comparison.session)}, '
        f"{rfc3339(comparison.created_at)}; known to be OK: {comparison.labelled_ok}, "
        f"damaged: {comparison.labelled_damaged}</p>"
    )


def _notes(comparison: SessionComparison) -> Iterable[str]:
    if comparison.skipped:
        yield note(f"Parts whose frame was not recorded: {comparison.skipped}; nobody can judge them now.")
    if comparison.troubles:
        yield note(f"Places of the session that cannot be read: {len(comparison.troubles)}; their parts are missing.")
    if not comparison.labelled_ok and not comparison.labelled_damaged:
        yield note("Nobody knows what these parts really were: where models differ, this page cannot say who is right.")


def _models(comparison: SessionComparison) -> str:
    head = ("model", "tau", "OK", "damaged", "error", "escapes", "over-rejects", "AUROC", "ms p50", "ms p95", "ms p99")
    return table(
        head,
        [
            (
                model.model.reference,
                figure(model.tau, 4),
                *(str(count) for count in (model.ok, model.damaged, model.error)),
                _of(model.escapes, comparison.labelled_damaged),
                _of(model.over_rejects, comparison.labelled_ok),
                figure(model.auroc),
                *(figure(value, 1) for value in (model.cost_ms.p50, model.cost_ms.p95, model.cost_ms.p99)),
            )
            for model in comparison.models
        ],
    )


def _agreement(comparison: SessionComparison, names: Sequence[str]) -> str:
    shares = {pair.pair: pair.agreement for pair in comparison.pairs}
    return table(
        ("same decision", *names),
        [
            (
                name,
                *(
                    percent(1.0 if across == down else shares[min(down, across), max(down, across)])
                    for across in range(len(names))
                ),
            )
            for down, name in enumerate(names)
        ],
    )


def _pairs(comparison: SessionComparison, names: Sequence[str]) -> str:
    rows = [
        (
            f"{names[pair.pair[0]]} and {names[pair.pair[1]]}",
            str(pair.better[0]),
            str(pair.better[1]),
            figure(pair.p_value, 4),
        )
        for pair in comparison.pairs
        if pair.p_value is not None
    ]
    return table(("labelled parts", "only first right", "only second right", "p"), rows) if rows else ""


def _scatters(comparison: SessionComparison, rows: Sequence[ComparedFrame], names: Sequence[str]) -> Iterable[str]:
    panels = []
    for first, second in (pair.pair for pair in comparison.pairs):
        points = [
            (across, up, Label.of(row.label))
            for row in rows
            if (across := row.by[first].s) is not None and (up := row.by[second].s) is not None
        ]
        taus = (comparison.models[first].tau, comparison.models[second].tau)
        panels.append(scatter_panel(points, taus, (f"score of {names[first]}", f"score of {names[second]}")))
    yield "<h2>Two by two</h2>"
    yield f'<div class="plots">{"".join(panels)}</div>'
    yield _pairs(comparison, names)


def _divided(divided: Gallery[ComparedFrame], names: Sequence[str]) -> Iterable[str]:
    yield f"<h2>Parts that divide the models: {divided.seen}</h2>"
    if not divided.seen:
        yield "<p>None.</p>"
        return
    exhibits = divided.exhibits()
    order = escape(", ".join(names))
    yield f'<p class="muted">Scores furthest apart first, measured in tau. From left to right: {order}.</p>'
    figures = []
    for exhibit in exhibits:
        row = exhibit.frame
        name = row.part_id or row.event_id
        said = ", ".join(f"{by.decision} {figure(by.s, 4)}" for by in row.by)
        figures.append(
            f"<figure>{picture(exhibit.jpeg, name)}<figcaption>{escape(name)}, part {row.number}<br>"
            f"<span>{escape(said)}; really {row.label or 'unknown'}</span></figcaption></figure>"
        )
    yield f'<div class="gallery">{"".join(figures)}</div>'


def _meanings() -> str:
    return definitions(
        {
            "escapes, over-rejects": "Parts known to be damaged and called OK; known to be OK and called damaged.",
            "ms": "Cost of a frame: ROI to boxes, without decoding, one frame after another on this machine.",
            "p": (
                "Exact McNemar test: how likely a difference like this is by chance, if both models were equally good. "
                "Parts that both judge rightly or both wrongly do not count."
            ),
        }
    )


def _of(count: int | None, total: int) -> str:
    return "n/a" if count is None else f"{count} of {total}"
