"""`cangate evaluate --compare`: several models on the same frames, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from service.cli.common import console, say, stage_bars, tell_report
from service.cli.report_folder import report_folder, writing
from service.errors import UsageError
from service.evaluation.comparison import Comparison, compare, unique_references
from service.evaluation.comparison_figures import figures_of
from service.evaluation.comparison_report import (
    COMPARISON_CSV,
    COMPARISON_JSON,
    COMPARISON_PAGE,
    EXHIBITED,
    in_words,
    remarks,
    write_comparison,
)
from service.evaluation.fresh_process import in_fresh_process
from service.evaluation.metrics import Evaluation
from service.evaluation.report import write_report
from service.evaluation.trial import FrameKey, Trial, TrialResult, draw_evidence, run_trial
from service.files import read_regular
from service.model.package import ModelPackage


def compare_models(packages: Sequence[ModelPackage], trials: Sequence[Trial], report: Path) -> list[Evaluation]:
    """Judge, compare, write and print; return the evaluation of each model. trials: of the packages, in their order.

    Raises:
        UsageError: fewer than two different packages, or a model or a folder that cannot be used.
        EvaluationFailed: the process of a model died.
    """
    different = {package.id: place for place, package in reversed(list(enumerate(packages)))}
    places = sorted(different.values())
    if len(places) < 2:
        raise UsageError("--compare takes two different models at least")
    references = unique_references([packages[place].ref for place in places])
    for place in places:
        # what cannot be had here is refused before the first model is judged, which may take an hour
        packages[place].build_pipeline("cpu")
    contenders = {reference: trials[place] for reference, place in zip(references, places, strict=True)}
    if len(places) < len(packages):
        console.print("[yellow]given twice, judged once: the same package by another name[/]")
    with report_folder(report, COMPARISON_CSV, COMPARISON_JSON, COMPARISON_PAGE) as draft:
        results, comparison, pictures = _judge(contenders)
        with writing(report):
            for reference, result in results.items():
                (draft / reference).mkdir()
                write_report(draft / reference, result.evaluation, result.frames, result.galleries)
            write_comparison(draft, comparison, pictures)
    _print(comparison, report)
    return [result.evaluation for result in results.values()]


def _judge(
    contenders: dict[str, Trial],
) -> tuple[dict[str, TrialResult], Comparison, list[dict[FrameKey, bytes]]]:
    """Judge with one model after another, and let each draw the frames on which they disagree most."""
    with stage_bars() as progress:
        first = next(iter(contenders.values()))
        files = [file for frames in first.frames.values() for file in frames]
        for done, file in enumerate(files, 1):
            with suppress(OSError):  # a row of each report will say so
                # now the system has it in memory: the first model does not pay for the disk
                read_regular(file.path, first.decode.max_bytes)
            progress("frames from disk", done, len(files))

        def of_model(reference: str, stage: str, done: int, total: int) -> None:
            progress(f"{reference}: {stage}", done, total)

        results = {
            reference: in_fresh_process(reference, partial(run_trial, trial), partial(of_model, reference))
            for reference, trial in contenders.items()
        }
        comparison = compare(results)
        wanted = [(each.label, each.filename) for each in comparison.disagreements[:EXHIBITED]]
        pictures = [
            in_fresh_process(reference, partial(draw_evidence, trial, wanted), partial(of_model, reference))
            if wanted
            else {}
            for reference, trial in contenders.items()
        ]
    return results, comparison, pictures


def _print(comparison: Comparison, report: Path) -> None:
    models = comparison.models
    table = Table("", *(escape(model.reference) for model in models), box=None)
    table.add_row("embedder", *(escape(model.evaluation.embedder) for model in models))
    table.add_row("input, px", *(str(model.cost.input_side) for model in models))
    for group in figures_of(comparison):
        table.add_row(f"[bold]{group.name}[/]")
        for each in group.figures:
            best = each.best(models)
            texts = [each.cell(model) for model in models]
            cells = (f"[green]{text}[/]" if place in best else text for place, text in enumerate(texts))
            table.add_row(f"  {each.name}", *cells)
    for column in table.columns[1:]:
        column.justify = "right"
        column.overflow = "fold"
    console.print(table)
    for remark in remarks(comparison):
        console.print(f"[yellow]{escape(remark)}[/]", soft_wrap=True)
    for sentence in in_words(comparison):
        say(sentence)
    found, total = len(comparison.disagreements), sum(comparison.frames.values())
    console.print(f"they disagree on {found} of {total} frames")
    tell_report(report / COMPARISON_PAGE)
