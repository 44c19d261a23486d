"""The folder that a command writes its report into: whole, or not at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from service.errors import UsageError
from service.files import draft_folder, read_regular, real_path, unwritable

_DRAFT: Final = ".cangate-report-"
_MARK: Final = b"<!-- files of this report, by SHA-256\n"
"""Begins what the page of a report ends in: it tells a report from what somebody made, or made of it."""
_LISTED: Final = re.compile(rb"([0-9a-f]{64})  ([^\n]+)\n")


@contextmanager
def report_folder(report: Path, *names: str) -> Iterator[Path]:
    """Lend a hidden folder in `report`; what lies in it once the block ends well takes its place there.

    Files of an earlier report are replaced where they are as it left them, others are left alone. Where the block
    fails, `report` is as it was.

    Raises CangateError where nothing can be written, or would take the place of what no report has written: labels that
    somebody filled in are nowhere else. Before the block is entered, if that can be known.

    names: files that will be written, as far as that is known before.
    """
    with draft_folder(report, _DRAFT) as draft:
        with writing(report):
            for name in names:
                _refuse_foreign(report / name)
        yield draft
        with writing(report):
            _move_into(report, draft)


def refuse_within(target: Path | None, *folders: Path | None) -> None:
    """Raise UsageError where `target` is or lies in one of the folders: what is read from is not written into."""
    for read in folders:
        if target is not None and read is not None and real_path(target).is_relative_to(real_path(read)):
            raise UsageError(f"cannot write {target}: it lies in {read}, which is read; name another folder")


def refuse_session(report: Path, session: Path) -> None:
    """Raise UsageError where a report would lie among the files of a session."""
    folder = session if session.is_dir() else session.parent
    if real_path(report) == real_path(folder):
        raise UsageError(f"cannot write {report}: it is the session itself; name another folder")


@contextmanager
def writing(report: Path) -> Iterator[None]:
    """Map what goes wrong while files of `report` are written to one line; it names them by their place there."""
    try:
        yield
    except OSError as exc:
        raise unwritable(_place(report, exc.filename), exc) from exc


def _move_into(report: Path, draft: Path) -> None:
    """Move everything, once it is known that nothing stands in the way of any of it."""
    targets = {path: report / path.relative_to(draft) for path in sorted(draft.rglob("*"))}
    for path, target in targets.items():
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            _refuse_foreign(target)
    pages = sorted(draft.rglob("*.html"))
    for page in pages:
        _mark(page, targets[page])
    # the pages first: whatever ends this in between, they know what is there and what was to come
    for path in (*pages, *(path for path in targets if path not in pages)):
        if not path.is_dir():
            path.replace(targets[path])


def _refuse_foreign(target: Path) -> None:
    """Raise UsageError where something is there that is not just as a report left it."""
    if target.is_dir():
        raise UsageError(f"cannot write {target}: it is a folder")
    if not target.exists():
        return
    for page in target.parent.glob("*.html"):
        content, listed = _listed(page)
        found = content if page == target else read_regular(target)
        if (target.name, _digest(found)) in listed:
            return
    why = "it is no report, or was changed since; name another folder, or move it away"
    raise UsageError(f"cannot write {target}: {why}")


def _mark(page: Path, target: Path) -> None:
    """End a page in what lies beside it and itself, and in what the page lists that it takes the place of."""
    listed = _listed(target)[1] if target.exists() else set()
    listed = {(name, digest) for name, digest in listed if _is(target.with_name(name), digest)}
    listed |= {(path.name, _digest(read_regular(path))) for path in page.parent.iterdir() if path.is_file()}
    with page.open("ab") as file:
        file.write(_MARK + b"".join(f"{digest}  {name}\n".encode() for name, digest in sorted(listed)) + b"-->\n")


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and _digest(read_regular(path)) == digest


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _listed(page: Path) -> tuple[bytes, set[tuple[str, str]]]:
    """Return a page without its last lines, and the names and digests that they list: none where there are no such."""
    try:
        content, mark, lines = read_regular(page).rpartition(_MARK)
    except OSError:
        return b"", set()  # it lists nothing for us
    if not mark:
        return lines, set()
    return content, {(name.decode(), digest.decode()) for digest, name in _LISTED.findall(lines)}


def _place(report: Path, filename: object) -> Path:
    """Return where a file of the draft would have come to lie; a full disk, found while bytes go out, names none."""
    path = Path(str(filename or report))
    if path.is_relative_to(report):
        draft, *inside = path.relative_to(report).parts or ("",)
        if draft.startswith(_DRAFT):
            return report.joinpath(*inside)
    return path
