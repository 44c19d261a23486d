"""The folder that a command writes its report into: whole, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.errors import UsageError


@contextmanager
def report_folder(report: Path) -> Iterator[Path]:
    """Lend a hidden folder in `report`; what lies in it once the block ends well takes its place there.

    Files of the same name are replaced, others are left alone. Where the block fails, `report` is as it was. Raises
    UsageError where nothing can be written, before the block is entered if that can be known.
    """
    created = [folder for folder in (report, *report.parents) if not folder.exists()]
    with writing():
        report.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".report-", dir=report))
    try:
        yield draft
        with writing():
            for path in sorted(draft.rglob("*")):
                target = report / path.relative_to(draft)
                if path.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    path.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        for folder in created:
            with suppress(OSError):  # it holds the report
                folder.rmdir()


@contextmanager
def writing() -> Iterator[None]:
    """Map what goes wrong while files are written to one line."""
    try:
        yield
    except OSError as exc:
        raise UsageError(f"cannot write {exc.filename}: {exc.strerror}") from exc
