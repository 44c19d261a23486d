"""`cangate compare`: several models on one recorded session."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapters.recordings.reader import Session
from service.cli.acceptance import REPORTS, report_name
from service.cli.common import (
    ConfigOption,
    LabelsOption,
    StoreOption,
    console,
    load_settings,
    say,
    stage_bars,
    tell_report,
    tell_troubles,
)
from service.cli.from_settings import device_of, frame_decoder, registry_of
from service.cli.playback import known_labels
from service.cli.report_folder import refuse_session, report_folder, writing
from service.cli.sessions import SessionArgument
from service.cli.tables import result_table
from service.errors import UsageError
from service.model.package import read_package
from service.replay.comparison import Comparer, SessionComparison
from service.replay.comparison_report import COMPARISON, PAGE, PARTS, write_comparison


def compare(
    session: SessionArgument,
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Two different ones or more: NAME, NAME@VERSION or a path.")
    ],
    labels: LabelsOption = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="REPORT", help="Folder of the report.", show_default="reports/SESSION-compared"
        ),
    ] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Judge a recorded session with several models: where they agree, what each lets pass, what each costs.

    Escapes and over-rejects are counted where the session or --labels says what parts really were. The report shows the
    parts that divide the models, side by side. Exit status 1 where there are no parts, or something cannot be read.

    Example: cangate compare data/recordings/reference canister@2 canister@3 -o report
    """
    settings = load_settings(config)
    recorded = Session.open(session)
    known = known_labels(recorded, labels)
    registry = registry_of(settings, store)
    given = [read_package(registry.resolve(reference)) for reference in models]
    packages = list({package.id: package for package in given}.values())
    if len(packages) < 2:
        raise UsageError("one model has nothing to be compared with: name two different ones at least")
    if len(packages) < len(given):
        console.print("[yellow]given twice, judged once: the same package by another name[/]")
    folder = report or REPORTS / f"{report_name(recorded)}-compared"
    refuse_session(folder, session)
    device = device_of(settings)
    pipelines = [package.build_pipeline(device) for package in packages]
    comparer = Comparer(pipelines, decode=frame_decoder(settings), labels=known)
    total = recorded.count() or 0
    with report_folder(folder, PARTS, COMPARISON, PAGE) as draft:
        with stage_bars() as progress:
            for done, part in enumerate(recorded.parts(), 1):
                comparer.take(part)
                progress("parts", done, max(done, total))
        comparison = comparer.summary(recorded.name, recorded.troubles)
        with writing(folder):
            write_comparison(draft, comparison, comparer.rows, comparer.divided)
    _print(comparison)
    tell_troubles(recorded.troubles)
    tell_report(folder / PAGE)
    if not comparison.parts or comparison.troubles:
        raise typer.Exit(1)


def _print(comparison: SessionComparison) -> None:
    table = result_table("model", "OK", "damaged", "error", "escapes", "over-rejects", "ms")
    for model in comparison.models:
        table.add_row(
            model.model.reference,
            *map(str, (model.ok, model.damaged, model.error)),
            "" if model.escapes is None else str(model.escapes),
            "" if model.over_rejects is None else str(model.over_rejects),
            "" if model.cost_ms.p50 is None else f"{model.cost_ms.p50:.1f}",
        )
    console.print(table)
    for pair in comparison.pairs:
        first, second = (comparison.models[index].model.reference for index in pair.pair)
        if pair.agreement is not None:
            told = (
                ""
                if pair.p_value is None
                else f"; right alone: {pair.better[0]} and {pair.better[1]}, p {pair.p_value:.3g}"
            )
            say(f"{first} and {second} agree on {pair.agreement:.1%}{told}")
