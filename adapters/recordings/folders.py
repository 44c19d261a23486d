"""Sessions from folders of pictures, and back."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from adapters.recordings.reader import Session
from adapters.recordings.writer import SessionWriter, picture_format
from schemas.base import rfc3339
from schemas.recordings import RecordedEvent, SessionInfo, Truth
from service.errors import UsageError
from service.files import draft_folder, naming, read_regular, real_path
from service.judged import boxes_text
from service.model.dataset import FrameFile, natural_key
from service.pipeline.types import Progress
from service.replay.labels import TRUTHS, read_rows, truth_of
from service.replay.parts import RecordedPart, unix_ns

PARTS_CSV: Final = "parts.csv"
COLUMNS: Final = (
    *("filename", "label", "event_id", "part_id", "trigger_id", "arrived_at", "captured_at", "deadline_ms"),
    *("decision", "reason", "s", "tau", "boxes", "latency_ms", "model"),
)
NO_PICTURE: Final = ".bin"
"""Ends the name of an exported frame that is of no known format: as it was shown to the line."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_DIGITS: Final = re.compile(r"[0-9]{1,10}")
_LARGEST_TRIGGER_ID: Final = 0xFFFF_FFFF


def parts_of_folder(
    files: Sequence[FrameFile],
    *,
    others: Sequence[FrameFile] = (),
    labels: Path | None,
    rate_hz: float,
    start: datetime,
    progress: Progress,
) -> Iterator[RecordedPart]:
    """Yield pictures in natural order, `rate_hz` apart, as parts without a verdict.

    The event id of a part is the name of its file. Its label is the folder `ok` or `damaged` that it lies in; with a
    CSV `labels` (column filename, and label, part_id, trigger_id where they are known) that of its row and no other:
    an export sorts into these folders by verdict, which is no truth. others: files that are no pictures by their name;
    what an export wrote of a frame that is none is a part again where the CSV names it.

    Raises:
        UsageError: a picture or the CSV cannot be read, or the CSV names a picture that is not there.
    """
    rows = {} if labels is None else _rows(labels)
    again = [file for file in others if file.name.endswith(NO_PICTURE) and file.name in rows]
    files = sorted([*files, *again], key=lambda file: natural_key(file.name))
    strangers = rows.keys() - {file.name for file in files}
    if strangers:
        raise UsageError(f"{labels}: {min(strangers)} is no picture of the folder")
    start_ns = unix_ns(start)
    for number, file in enumerate(files):
        at_ns = start_ns + round(number * 1e9 / rate_hz)
        row, truth = rows.get(file.name, ({}, None))
        if labels is None:
            folders = Path(file.name).parts[:-1]
            truth = next((TRUTHS[folder] for folder in folders if folder in TRUTHS), None)
        try:
            frame = read_regular(file.path)
        except OSError as exc:
            raise UsageError(f"cannot read {file.path}: {exc.strerror}") from exc
        try:
            event = RecordedEvent(
                event_id=file.name,
                part_id=row.get("part_id") or Path(file.name).stem,
                trigger_id=int(row.get("trigger_id") or number + 1),
                captured_at=datetime.fromtimestamp(at_ns / 1e9, UTC),
                source="folder",
            )
        except ValidationError as exc:
            why = f"its name or its row cannot name a part: {exc.errors()[0]['msg']}"
            raise UsageError(f"{file.path}: {why}") from exc
        yield RecordedPart(event, at_ns, frame, None, truth)
        progress(number + 1, len(files))


@contextmanager
def whole_session(folder: Path, info: SessionInfo) -> Iterator[SessionWriter]:
    """Lend a writer of the session `folder`, which is there once the block ends well; half a session looks whole.

    Raises CangateError where `folder` is not empty or cannot be written.
    """
    with _whole_folder(folder, ".cangate-session-") as draft, SessionWriter.create(draft, info) as writer:
        yield writer


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export has written.

    frames: how many. contradicting: event ids of several parts whose labels differ; an import tells these by their
    files, while labels of a session go by event id and would contradict each other.
    """

    frames: int
    contradicting: tuple[str, ...]


def export_to_folder(session: Session, folder: Path, progress: Progress) -> Exported:
    """Write every frame below `folder`, sorted by label or verdict, and `parts.csv`.

    A folder is ok, damaged, error or unknown. The CSV can be given to an import as its labels. Interrupted, nothing of
    it is there: half an export looks whole.

    Raises:
        CangateError: the folder is not empty or cannot be written.
    """
    total, written = session.count() or 0, 0
    truths: dict[str, Truth] = {}
    contradicting: dict[str, None] = {}
    with (
        _whole_folder(folder, ".cangate-export-") as draft,
        (draft / PARTS_CSV).open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for number, part in enumerate(session.parts(), 1):
            name = _name(number, part)
            if name:
                (draft / name).parent.mkdir(exist_ok=True)
                (draft / name).write_bytes(part.frame or b"")
                written += 1
            writer.writerow(_row(name, part))
            event_id = part.event.event_id
            if part.label is not None and truths.setdefault(event_id, part.label) is not part.label:
                contradicting[event_id] = None
            progress(number, max(total, number))
    return Exported(written, tuple(contradicting))


@contextmanager
def _whole_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """Lend a draft of `folder`, which gets its name once the block ends well. prefix: of the drafts' names."""
    real = real_path(folder)
    is_there = os.path.lexists(real)
    with naming(folder), draft_folder(real if is_there else real.parent, prefix) as draft:
        if is_there and any(each != draft for each in real.iterdir()):
            raise UsageError(f"{folder} is not empty: a folder of its own is written, new or empty")
        yield draft
        if is_there:  # it may be a mount point: neither replaced nor on the disk of its parent
            _move_out(draft, real)
        else:
            draft.rename(real)


def _move_out(draft: Path, folder: Path) -> None:
    """Move what lies in `draft` into the folder around it, all or nothing."""
    names = sorted(each.name for each in draft.iterdir())
    try:
        for name in names:
            (draft / name).rename(folder / name)
    except BaseException:  # Ctrl-C as well
        for name in names:
            with suppress(OSError):  # it is there yet
                (folder / name).rename(draft / name)
        raise


def _rows(labels: Path) -> dict[str, tuple[dict[str, str], Truth | None]]:
    found: dict[str, tuple[dict[str, str], Truth | None]] = {}
    for line, row in read_rows(labels, ("filename", "label")):
        name = row["filename"]
        if not name:
            continue  # a part whose frame was lost, in an export
        trigger_id = row.get("trigger_id")
        if trigger_id and not (_DIGITS.fullmatch(trigger_id) and int(trigger_id) <= _LARGEST_TRIGGER_ID):
            raise UsageError(f"{labels}, line {line}: trigger_id {trigger_id!r} is no whole number up to 4294967295")
        said = row, truth_of(row, labels, line)
        if found.setdefault(name, said) != said:
            said_twice = f"{name} stands further up, and with other words"
            raise UsageError(f"{labels}, line {line}: {said_twice}")
    return found


def _name(number: int, part: RecordedPart) -> str:
    if part.frame is None:
        return ""
    sort = part.label or part.decision
    folder = "unknown" if sort is None else sort.lower()
    suffix = {"jpeg": ".jpg", "": NO_PICTURE}.get(kind := picture_format(part.frame), f".{kind}")
    word = _UNSAFE.sub("_", Path(part.event.part_id or part.event.event_id).stem)[:80]
    return f"{folder}/{number:06d}-{word}{suffix}"


def _row(name: str, part: RecordedPart) -> dict[str, object]:
    event, verdict = part.event, part.verdict
    row: dict[str, object] = {
        "filename": name,
        "label": "" if part.label is None else part.label.lower(),
        "event_id": event.event_id,
        "part_id": event.part_id or "",
        "trigger_id": "" if event.trigger_id is None else event.trigger_id,
        "arrived_at": rfc3339(datetime.fromtimestamp(part.arrived_ns / 1e9, UTC)),
        "captured_at": "" if event.captured_at is None else rfc3339(event.captured_at),
        "deadline_ms": event.deadline_ms or "",
    }
    if verdict is None:
        return row
    return row | {
        "decision": str(verdict.decision),
        "reason": str(verdict.reason),
        "s": "" if verdict.score is None else verdict.score,
        "tau": "" if verdict.threshold is None else verdict.threshold,
        "boxes": boxes_text(verdict.boxes),
        "latency_ms": verdict.latency_ms,
        "model": "" if verdict.model is None else verdict.model.reference,
    }
