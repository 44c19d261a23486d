"""What parts really were, from a CSV that somebody wrote by hand or exported."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.messages import Decision
from schemas.recordings import Truth
from service.errors import UsageError
from service.files import read_regular
from service.replay.parts import RecordedPart

KEYS = ("event_id", "filename", "part_id")
"""Columns by which a row finds its part; the first one that a row fills counts."""

TRUTHS: Mapping[str, Truth] = {"ok": Decision.OK, "damaged": Decision.DAMAGED}
"""By the word in a CSV, and the name of a folder."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Truths by what a row names: an event, which is called after its file where a folder was imported, or a part."""

    by_event: Mapping[str, Truth] = field(default_factory=dict)
    by_part: Mapping[str, Truth] = field(default_factory=dict)

    def of(self, part: RecordedPart) -> Truth | None:
        """Return what `part` really was: as this file says, else as the session does."""
        event = part.event
        return self.by_event.get(event.event_id) or self.by_part.get(event.part_id or "") or part.label

    def strangers(self, parts: Iterable[RecordedPart]) -> list[str]:
        """Return what rows name that is none of `parts`, in the order of the file."""
        events, names = dict.fromkeys(self.by_event), dict.fromkeys(self.by_part)
        for part in parts:
            events.pop(part.event.event_id, None)
            names.pop(part.event.part_id or "", None)
        return [*events, *names]


def read_labels(path: Path) -> Labels:
    """Read a CSV with the columns `label` (ok or damaged) and event_id, filename or part_id.

    A row with an empty label says nothing. Raises UsageError, naming file and line.
    """
    by_event, by_part = dict[str, Truth](), dict[str, Truth]()
    for line, row in read_rows(path, ("label",), KEYS):
        truth = truth_of(row, path, line)
        if truth is None:
            continue
        key = next((key for key in KEYS if row.get(key)), None)
        if key is None:
            raise UsageError(f"{path}, line {line}: a label, and nothing that says of which part")
        if (by_part if key == "part_id" else by_event).setdefault(row[key], truth) is not truth:
            raise UsageError(f"{path}, line {line}: {row[key]} has another label further up")
    return Labels(by_event, by_part)


def read_rows(path: Path, needed: Sequence[str], one_of: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and row of a CSV; missing cells are empty, the case of its header does not count.

    Raises UsageError where it cannot be read, or has not every column that is `needed` and `one_of` these.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_regular(path).decode("utf-8-sig"), newline=""), restval="")
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        if not set(columns).issuperset(needed) or not set(columns).intersection(one_of or needed):
            wanted = [*needed, *([f"one of {', '.join(one_of)}"] if one_of else [])]
            raise UsageError(f"{path}: needs the columns {' and '.join(wanted)}")
        reader.fieldnames = columns
        for row in reader:
            yield reader.line_num, {name: cell.strip() for name, cell in row.items() if isinstance(cell, str)}
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    except (UnicodeDecodeError, csv.Error) as exc:
        raise UsageError(f"{path}: no CSV in UTF-8: {exc}") from exc


def truth_of(row: Mapping[str, str], path: Path, line: int) -> Truth | None:
    """Return the label of a row, None where it has none. Raises UsageError for a word that is no label."""
    word = row.get("label", "").lower()
    if word and word not in TRUTHS:
        raise UsageError(f"{path}, line {line}: label {row['label']!r} is neither ok nor damaged")
    return TRUTHS.get(word)
