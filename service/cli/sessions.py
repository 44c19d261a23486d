"""`cangate sessions`: what has been recorded; folders of pictures in and out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from adapters.recordings.folders import PARTS_CSV, export_to_folder, parts_of_folder, whole_session
from adapters.recordings.reader import Session
from schemas.base import rfc3339
from schemas.recordings import SessionInfo
from service.cli.common import (
    ConfigOption,
    checked_station,
    console,
    load_settings,
    say,
    some,
    stage_bars,
    tell_troubles,
)
from service.cli.frame_folders import listed_frames, tell_ignored
from service.cli.report_folder import refuse_within
from service.cli.tables import result_table
from service.errors import UsageError
from service.model.dataset import FrameFile

app = typer.Typer(
    help="List, look at, import and export recorded sessions.", no_args_is_help=True, add_completion=False
)

SessionArgument = Annotated[
    Path, typer.Argument(metavar="SESSION", help="Folder of a recorded session, or one of its MCAP files.")
]


@app.command("list")
def list_sessions(config: ConfigOption = None) -> None:
    """List the sessions in record.folder, oldest first, and at the end the folders that are none.

    Example: cangate sessions list
    """
    root = load_settings(config).record.folder
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as exc:
        raise UsageError(f"cannot list {root}: {exc.strerror}") from exc
    table = result_table("session", "station", "begun", "parts", "MB", "from")
    sessions, unusable = list[Session](), list[tuple[str, str]]()
    for folder in folders:
        try:
            sessions.append(Session.open(folder))
        except UsageError as exc:
            unusable.append((escape(folder.name), f"[red]{escape(str(exc))}[/]"))
    for session in sorted(sessions, key=lambda session: session.info.created_at):
        count = session.count()
        unknown = "being written" if session.in_work else "damaged" if session.troubles else "not closed"
        table.add_row(
            escape(str(session.path)),
            session.info.station,
            rfc3339(session.info.created_at)[:19],
            unknown if count is None else str(count),
            f"{session.size / 1e6:.1f}",
            session.info.origin,
        )
    for row in unusable:
        table.add_row(*row)
    console.print(table)


@app.command()
def show(session: SessionArgument) -> None:
    """Read a whole session and say what is in it; exit status 1 where something cannot be read, or is missing.

    One that is still being written is read as far as it has come, which is no fault.

    Example: cangate sessions show data/recordings/line1-20260131T080000.000000Z
    """
    recorded = Session.open(session)
    decisions: Counter[str] = Counter()
    first = last = parts = frames = dropped = labels = 0
    for part in recorded.parts():
        first, last = first or part.arrived_ns, part.arrived_ns
        parts += 1
        frames += part.frame is not None
        dropped += part.event.frame_dropped
        labels += part.label is not None
        decisions[str(part.decision or "no verdict")] += 1
    info = recorded.info
    seconds = (last - first) / 1e9
    table = Table(show_header=False, box=None)
    table.add_row("station", f"{info.station}, recorded by {info.origin}, cangate {info.version}")
    table.add_row("files", f"{len(recorded.files)}, {recorded.size / 1e6:.1f} MB")
    if parts:
        begun = rfc3339(datetime.fromtimestamp(first / 1e9, UTC))
        pace = f", {(parts - 1) / seconds:.2f} a second" if seconds else ""
        table.add_row("parts", f"{parts} in {seconds:.1f} s from {begun}{pace}")
        table.add_row("frames", f"{frames}, {dropped} dropped for want of room")
        table.add_row("verdicts", ", ".join(f"{count} {name}" for name, count in sorted(decisions.items())))
        table.add_row("labels", str(labels))
    else:
        table.add_row("parts", "none")
    console.print(table)
    tell_troubles([*recorded.remarks, *recorded.troubles])
    if recorded.troubles:
        raise typer.Exit(1)


@app.command("import")
def import_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures, with their subfolders.")],
    session: Annotated[Path, typer.Argument(metavar="SESSION", help="Folder of the new session.")],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Columns filename and label: ok or damaged; part_id, trigger_id where known."),
    ] = None,
    station: Annotated[str, typer.Option(help="Id of the station.")] = "line1",
    rate: Annotated[float, typer.Option(min=0.001, max=1000, help="Parts per second.")] = 1.0,
) -> None:
    """Make a session of a folder of pictures, in the natural order of their names.

    Without --labels a subfolder called ok or damaged labels what lies in it. With it only the CSV does: a picture whose
    label is empty there, or that has no row, is unlabelled.

    Example: cangate sessions import pictures data/recordings/reference --labels truth.csv --rate 2
    """
    now = datetime.now(UTC)
    info = SessionInfo(station=checked_station(station), created_at=now, version=version("cangate"), origin="folder")
    refuse_within(session, folder)
    found = listed_frames(folder)
    others = [FrameFile(folder / name, name) for name in found.ignored]
    taken = set[str]()
    count = labelled = 0
    with stage_bars() as progress:
        parts = parts_of_folder(
            found.frames,
            others=others,
            labels=labels,
            rate_hz=rate,
            start=now,
            progress=partial(progress, "pictures"),
        )
        with whole_session(session, info) as writer:
            for part in parts:
                writer.write(part)
                count += 1
                taken.add(part.event.event_id)
                labelled += part.label is not None
    own = None if labels is None else labels.resolve()  # an export has its parts.csv beside the pictures
    left = (file for file in others if file.name not in taken and file.path.resolve() != own)
    tell_ignored(replace(found, ignored=tuple(file.name for file in left)))
    say(f"{count} parts, {labelled} of them with a label, are in {session}")


@app.command("export")
def export_session(
    session: SessionArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; new or empty.")],
) -> None:
    """Write the frames of a session into the folders ok, damaged, error and unknown, and a CSV of all parts.

    A label decides where there is one, else the verdict. Exit status 1 where something could not be read.

    Example: cangate sessions export data/recordings/reference pictures
    """
    if session.is_dir():
        refuse_within(folder, session)
    recorded = Session.open(session)
    with stage_bars() as progress:
        exported = export_to_folder(recorded, folder, partial(progress, "parts"))
    say(f"{exported.frames} frames are in {folder}, see {folder / PARTS_CSV}")
    if exported.contradicting:
        what = f"labelled differently under one event id: {some(exported.contradicting)}"
        tell_troubles([f"{what}; {PARTS_CSV} serves an import, but no --labels of this session"])
    tell_troubles([*recorded.remarks, *recorded.troubles])
    if recorded.troubles:
        raise typer.Exit(1)
