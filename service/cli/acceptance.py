"""A replay as a judgement: its report on disk, its findings on the terminal."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from adapters.recordings.reader import Session
from schemas.settings import Settings
from service.cli.common import console, tell_report, tell_troubles
from service.cli.from_settings import frame_decoder
from service.cli.playback import Selection, direct_station, known_labels, played_parts
from service.cli.replay_view import replay_view, watch
from service.cli.report_folder import refuse_session, report_folder, writing
from service.errors import CangateError, UsageError
from service.replay.acceptance import Acceptance, Expectation
from service.replay.judge import AcceptanceJudge
from service.replay.player import Pace
from service.replay.report import ACCEPTANCE, PAGE, PARTS, write_report
from service.replay.tally import Tally

REPORTS = Path("reports")


def acceptance_judge(settings: Settings, session: Session, expect: Expectation, labels: Path | None) -> AcceptanceJudge:
    """Return a judge with the rules of the plant. Raises UsageError where the labels do not fit the session."""
    return AcceptanceJudge(
        expect=expect,
        labels=known_labels(session, labels),
        rules=settings.acceptance,
        deadline=settings.deadline,
        decode=frame_decoder(settings),
    )


def refuse_unused_labels(expect: Expectation | None, labels: Path | None) -> None:
    """Raise UsageError for labels that nothing would be held against."""
    if labels is not None and expect is not Expectation.LABELS:
        raise UsageError("--labels belongs to --expect labels")


def report_name(session: Session) -> str:
    """Return what the report of a session is called: like its folder, for one of its files with that file's number."""
    path = session.path.resolve()
    return path.name if path.is_dir() else f"{path.parent.name}-{path.stem}"


@dataclass(frozen=True, slots=True)
class AcceptanceRun:
    """A judge and where its report belongs: `reports/SESSION` where nothing else is named."""

    judge: AcceptanceJudge
    session: Session
    out: Path | None = None

    @property
    def folder(self) -> Path:
        """Return the folder of the report."""
        return self.out or REPORTS / report_name(self.session)

    def report(self) -> AbstractContextManager[Path]:
        """Lend the draft of the report for the time of the replay; interrupted, it leaves nothing behind.

        Raises UsageError where it would lie among the files of the session.
        """
        refuse_session(self.folder, self.session.path)
        return report_folder(self.folder, PARTS, ACCEPTANCE, PAGE)

    def conclude(self, draft: Path, *, via: str, speed: str, skipped: int, timed: bool) -> Acceptance:
        """Judge the replay and write the report. Raises UsageError."""
        acceptance = self.judge.judge(
            self.session.name, via=via, speed=speed, skipped=skipped, troubles=self.session.troubles, timed=timed
        )
        with writing(self.folder):
            write_report(draft, acceptance, self.judge.rows, self.judge.galleries)
        return acceptance

    def tell(self, acceptance: Acceptance) -> None:
        """Print the findings."""
        for finding in acceptance.findings:
            mark = "[green]holds [/]" if finding.holds else "[red]BROKEN[/]"
            console.print(f"{mark} {finding.rule}: {finding.text}", soft_wrap=True)
        tell_report(self.folder / PAGE)
        console.print("accepted" if acceptance.accepted else "not accepted")


def refuse_unless_accepted(
    settings: Settings, session_path: Path, store: Path | None, model: str, expect: Expectation, labels: Path | None
) -> None:
    """Play a session through a model at full speed. Raises CangateError where the replay is not accepted."""
    session = Session.open(session_path)
    run = AcceptanceRun(acceptance_judge(settings, session, expect, labels), session)
    station = direct_station(settings, store, model)
    tally = Tally()
    with run.report() as draft:
        with replay_view(tally, session.count()) as view:
            asyncio.run(watch(played_parts(session, Selection(), station, Pace(None), tally), view, run.judge))
        acceptance = run.conclude(draft, via="direct", speed="max", skipped=tally.skipped, timed=False)
    tell_troubles([*session.remarks, *session.troubles])
    run.tell(acceptance)
    if not acceptance.accepted:
        raise CangateError(f"{model} is not accepted on {session_path}: it stays as it was, see {run.folder / PAGE}")
