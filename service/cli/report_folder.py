"""The folder that a command writes its report into: whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import UsageError
from service.files import draft_folder

_DRAFT = ".cangate-report-"


@contextmanager
def report_folder(report: Path, *names: str) -> Iterator[Path]:
    """Lend a hidden folder in `report`; what lies in it once the block ends well takes its place there.

    Files of the same name are replaced, others are left alone. Where the block fails, `report` is as it was. Raises
    UsageError where nothing can be written, before the block is entered if that can be known.

    names: files that will be written, as far as that is known before.
    """
    with draft_folder(report, _DRAFT) as draft:
        for name in names:
            _refuse_folder(report / name)
        yield draft
        with writing(report):
            _move_into(report, draft)


@contextmanager
def writing(report: Path) -> Iterator[None]:
    """Map what goes wrong while files of `report` are written to one line; it names them by their place there."""
    try:
        yield
    except OSError as exc:
        raise UsageError(f"cannot write {_place(report, exc.filename)}: {exc.strerror}") from exc


def _move_into(report: Path, draft: Path) -> None:
    """Move everything, once it is known that nothing stands in the way of any of it."""
    targets = {path: report / path.relative_to(draft) for path in sorted(draft.rglob("*"))}
    for path, target in targets.items():
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            _refuse_folder(target)
    for path, target in targets.items():
        if not path.is_dir():
            path.replace(target)


def _refuse_folder(target: Path) -> None:
    if target.is_dir():
        raise UsageError(f"cannot write {target}: it is a folder")


def _place(report: Path, filename: object) -> Path:
    """Return where a file of the draft would have come to lie; a full disk, found while bytes go out, names none."""
    path = Path(str(filename or report))
    if path.is_relative_to(report):
        draft, *inside = path.relative_to(report).parts or ("",)
        if draft.startswith(_DRAFT):
            return report.joinpath(*inside)
    return path
