"""A replay as a judgement: its report on disk, its findings on the terminal."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from adapters.frames import decode_image
from adapters.recordings.reader import Session
from schemas.settings import Settings
from service.cli.common import console
from service.cli.playback import Selection, direct_station, played_parts
from service.cli.replay_view import replay_view, watch
from service.errors import CangateError, UsageError
from service.replay.acceptance import Expectation
from service.replay.judge import AcceptanceJudge
from service.replay.labels import Labels, read_labels
from service.replay.player import Pace
from service.replay.report import ACCEPTANCE, PAGE, PARTS, write_report
from service.replay.tally import Tally

REPORTS = Path("reports")


def acceptance_judge(settings: Settings, expect: Expectation, labels: Path | None) -> AcceptanceJudge:
    """Return a judge with the rules of the plant. Raises UsageError where the labels cannot be read."""
    return AcceptanceJudge(
        expect=expect,
        labels=Labels() if labels is None else read_labels(labels),
        rules=settings.acceptance,
        default_ms=settings.deadline.default_ms,
        decode=partial(decode_image, max_pixels=settings.images.max_pixels),
    )


def report_folder(session: Session, out: Path | None) -> Path:
    """Make the folder of a report, `reports/SESSION` where none is named. Raises UsageError."""
    folder = out or REPORTS / session.path.stem
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (PARTS, ACCEPTANCE, PAGE):
            (folder / name).touch()
    except OSError as exc:
        raise UsageError(f"cannot write {exc.filename or folder}: {exc.strerror}") from exc
    return folder


def conclude(
    judge: AcceptanceJudge, session: Session, folder: Path, *, via: str, speed: str, skipped: int, timed: bool
) -> bool:
    """Write the report, print the findings and tell whether the replay is accepted. Raises UsageError."""
    acceptance = judge.judge(session.name, via=via, speed=speed, skipped=skipped, timed=timed)
    try:
        write_report(folder, acceptance, judge.rows, judge.galleries)
    except OSError as exc:
        raise UsageError(f"cannot write {exc.filename or folder}: {exc.strerror}") from exc
    for finding in acceptance.findings:
        mark = "[green]holds [/]" if finding.holds else "[red]BROKEN[/]"
        console.print(f"{mark} {finding.rule}: {finding.text}", soft_wrap=True)
    console.print(f"report in {folder / PAGE}", soft_wrap=True, markup=False)
    console.print("accepted" if acceptance.accepted else "not accepted")
    return acceptance.accepted


def refuse_unless_accepted(
    settings: Settings, session_path: Path, store: Path | None, model: str, expect: Expectation, labels: Path | None
) -> None:
    """Play a session through a model at full speed. Raises CangateError where the replay is not accepted."""
    session = Session.open(session_path)
    judge = acceptance_judge(settings, expect, labels)
    station = direct_station(settings, store, model)
    folder = report_folder(session, None)
    tally = Tally()
    with replay_view(tally, session.count()) as view:
        asyncio.run(watch(played_parts(session, Selection(), station, Pace(None), tally), view, judge))
    for trouble in session.troubles:
        console.print(trouble, style="yellow", markup=False, soft_wrap=True)
    if not conclude(judge, session, folder, via="direct", speed="max", skipped=tally.skipped, timed=False):
        raise CangateError(f"{model} is not accepted on {session_path}: it stays as it was, see {folder / PAGE}")
