"""An acceptance as files: `parts.csv`, `acceptance.json`, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from schemas.base import rfc3339
from schemas.messages import Decision, ModelRef
from service.evaluation.gallery import Exhibit, Gallery
from service.evaluation.metrics import Label
from service.evaluation.page import definitions, figure, note, page, picture, table
from service.evaluation.report import LISTED
from service.replay.acceptance import Acceptance, Change, ComparedPart, Percentiles
from service.replay.scatter import scatter_panel

PARTS, ACCEPTANCE, PAGE = "parts.csv", "acceptance.json", "report.html"
COLUMNS = (*ComparedPart.model_fields, "shift", "differs")

Galleries = Mapping[Change, Gallery[ComparedPart]]
"""What is shown of each kind of change."""

_KINDS: Mapping[Change, str] = {
    Change.ESCAPE: "Escapes: damaged parts called OK",
    Change.OVER_REJECT: "Over-rejects: OK parts called damaged",
    Change.ERROR: "Parts that can no longer be judged",
    Change.UNANSWERED: "Parts without a verdict",
    Change.RECOVERED: "Parts that can be judged now",
    Change.SAME: "Right now, other than recorded",
    Change.UNKNOWN: "Other than recorded, truth unknown",
}


def write_report(
    directory: Path,
    acceptance: Acceptance,
    rows: Sequence[ComparedPart],
    galleries: Galleries,
) -> None:
    """Write the three files into a directory. Raises OSError."""
    (directory / PARTS).write_text(as_csv(rows), encoding="utf-8", newline="")
    (directory / ACCEPTANCE).write_text(acceptance.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (directory / PAGE).write_text(as_html(acceptance, rows, galleries), encoding="utf-8")


def as_csv(rows: Sequence[ComparedPart]) -> str:
    """Return one row a part; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row.model_dump(mode="json") | {"shift": row.shift, "differs": row.differs})
    return text.getvalue()


def as_html(acceptance: Acceptance, rows: Sequence[ComparedPart], galleries: Galleries) -> str:
    """Return the report as one page."""
    verdict = "accepted" if acceptance.accepted else "not accepted"
    body = [
        f"<h1>Replay of {escape(acceptance.session)}: {verdict}</h1>",
        _about(acceptance),
        *_notes(acceptance),
        "<h2>Rules</h2>",
        table(
            ("rule", "", "found"),
            [(finding.rule, "holds" if finding.holds else "BROKEN", finding.text) for finding in acceptance.findings],
            kind="words rules",
        ),
        "<h2>Decisions</h2>",
        _decisions(rows),
        *_scores(acceptance, rows),
        "<h2>Time</h2>",
        _times(acceptance),
        *unreadable(acceptance.troubles),
        *(part for change in _KINDS if change in galleries for part in _gallery(change, galleries[change])),
        "<h2>What the figures mean</h2>",
        _meanings(),
    ]
    return page(f"{acceptance.session}: {verdict}", body)


def _about(acceptance: Acceptance) -> str:
    return (
        f'<p class="muted">{acceptance.parts} parts by {acceptance.via} at speed {acceptance.speed}, '
        f"{rfc3339(acceptance.created_at)}; held against {acceptance.expect}<br>"
        f"recorded with {_named(acceptance.models_recorded)}, "
        f"replayed with {_named(acceptance.models)}</p>"
    )


def _named(models: Sequence[ModelRef]) -> str:
    return escape(", ".join(model.reference for model in models) or "none")


def _notes(acceptance: Acceptance) -> Iterable[str]:
    if acceptance.skipped:
        yield note(f"Parts whose frame was not recorded, and which could not be played: {acceptance.skipped}.")
    unknown = acceptance.changes[Change.UNKNOWN]
    if unknown:
        yield note(f"Parts of which nothing is known to hold them against: {unknown}; no rule looks at them.")
    if len(acceptance.models) > 1:
        yield note("More than one model judged while this was played.")


def unreadable(troubles: Sequence[str]) -> Iterable[str]:
    """Yield the part of a page that names what of a session cannot be read, where there is something."""
    if troubles:
        yield f"<h2>What cannot be read of the session: {len(troubles)}</h2>"
        yield table(("place",), [(trouble,) for trouble in troubles[:LISTED]], kind="words")
        if len(troubles) > LISTED:
            yield f'<p class="muted">The first {LISTED}.</p>'


def _decisions(rows: Sequence[ComparedPart]) -> str:
    recorded: tuple[Decision | None, ...] = (*Decision, None)
    return table(
        ("recorded, down; replayed, across", *(str(decision) for decision in Decision), "no verdict"),
        [
            (
                "no verdict" if then is None else str(then),
                *(str(sum((row.recorded, row.decision) == (then, now) for row in rows)) for now in (*Decision, None)),
            )
            for then in recorded
            if any(row.recorded is then for row in rows)
        ],
    )


def _scores(acceptance: Acceptance, rows: Sequence[ComparedPart]) -> Iterable[str]:
    pairs = [
        (row.s_recorded, row.s, Label.of(row.expected))
        for row in rows
        if row.s is not None and row.s_recorded is not None
    ]
    if not pairs:
        return
    yield "<h2>Scores and boxes</h2>"
    taus = (
        next((row.tau_recorded for row in rows if row.tau_recorded is not None), None),
        next((row.tau for row in rows if row.tau is not None), None),
    )
    moved = table(
        ("", "p50", "p95", "p99"),
        [
            ("shift of the score, absolute", *_three(acceptance.score_shift, 5)),
            ("overlap of the boxes", *_three(acceptance.iou, 3)),
        ],
    )
    yield f'<div class="plots">{scatter_panel(pairs, taus, ("recorded score", "replayed score"))}{moved}</div>'
    yield f'<p class="muted">Scores that moved by more than 0.00001: {acceptance.scores_moved} of {len(pairs)}.</p>'


def _times(acceptance: Acceptance) -> str:
    return table(
        ("ms", "p1", "p50", "p95", "p99"),
        [
            (name, *(figure(value, 1) for value in (of.p1, of.p50, of.p95, of.p99)))
            for name, of in (
                ("latency, recorded", acceptance.latency_recorded_ms),
                ("latency, replayed", acceptance.latency_ms),
                ("shown to answered, replayed", acceptance.round_trip_ms),
                ("left to the deadline, recorded", acceptance.slack_recorded_ms),
                ("left to the deadline, replayed", acceptance.slack_ms),
            )
        ],
    )


def _gallery(change: Change, gallery: Gallery[ComparedPart]) -> Iterable[str]:
    exhibits = gallery.exhibits()
    first = f"; the first {len(exhibits)}" if len(exhibits) < gallery.seen else ""
    yield f"<h2>{_KINDS[change]}: {gallery.seen}</h2>"
    yield f'<p class="muted">Largest shift of the score first{first}. Left with the boxes recorded, right replayed.</p>'
    yield f'<div class="gallery">{"".join(_figure_of(exhibit) for exhibit in exhibits)}</div>'


def _figure_of(exhibit: Exhibit[ComparedPart]) -> str:
    row = exhibit.frame
    name = row.part_id or row.event_id
    then = f"{row.recorded or 'no verdict'} {figure(row.s_recorded, 4)}"
    now = f"{row.decision or 'no verdict'} {figure(row.s, 4)}"
    reason = f", {row.reason}" if row.decision is Decision.ERROR else ""
    return (
        f"<figure>{picture(exhibit.jpeg, name)}"
        f"<figcaption>{escape(name)}, part {row.number}<br><span>{then} → {now}{escape(reason)}"
        f"; expected {row.expected or 'nothing'}</span></figcaption></figure>"
    )


def _meanings() -> str:
    return definitions(
        {
            "rules": (
                "Of <code>[acceptance]</code> in the configuration. Each share is allowed what the recording itself "
                "has against the same expectation, and what the rule adds."
            ),
            "latency": (
                "Image-ready received to verdict decided, as the verdict says it. Shown to answered is the time on the "
                "replay's own clock, with both ways over the transport."
            ),
            "left to the deadline": (
                "From the decision to the deadline that the event asked for. Not stated for a replay at full speed or "
                "without a service: no part there has a deadline."
            ),
            "overlap": "All boxes of a part then and now: intersection over union, where both verdicts have boxes.",
        }
    )


def _three(of: Percentiles, digits: int) -> tuple[str, str, str]:
    return figure(of.p50, digits), figure(of.p95, digits), figure(of.p99, digits)
