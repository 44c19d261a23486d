"""`cangate inspect`: judge pictures on disk."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Annotated

import cv2
import typer
from pydantic import TypeAdapter
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from schemas.messages import Decision, ModelRef
from service.cli.common import ConfigOption, ModelArgument, StoreOption, console, error_console, load_settings
from service.cli.from_settings import device_of, frame_decoder, registry_of
from service.cli.tables import COLOURS, result_table
from service.errors import FrameError, UsageError
from service.evaluation.pictures import comparison_picture, mask_picture
from service.files import made_folder, naming, real_path, whole_file
from service.judged import JudgedPicture, boxes_text
from service.model.dataset import Decode, FrameFile, printable, read_frame
from service.model.package import read_package
from service.pipeline.pipeline import Pipeline
from service.pipeline.types import Inspection
from service.text import without_controls

COLUMNS = (
    "filename",
    "s",
    "decision",
    "tau",
    "reason",
    "uncertain",
    "boxes",
    "width",
    "height",
    "roi",
    "detail",
    "path",
)
KINDS = ("roi", "mask", "comparison")


class InspectedImage(JudgedPicture):
    """One picture's result, and whose it is."""

    tau: float
    model: ModelRef


_ROWS: TypeAdapter[list[InspectedImage]] = TypeAdapter(list[InspectedImage])


def inspect(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures to judge.")],
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write a table: filename, s, decision, and more.", dir_okay=False)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything known, as a JSON list.", dir_okay=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for STEM_roi.png, STEM_mask.png and STEM_comparison.png.", file_okay=False
        ),
    ] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Judge pictures with a model and print a table.

    A picture that cannot be judged gets a row ERROR with its reason.
    The others are judged, and the exit status is 1.

    Example: cangate inspect canister line1/*.png --csv results.csv -o pictures
    """
    if csv_file is not None and json_file is not None and real_path(csv_file) == real_path(json_file):
        raise UsageError(f"--csv and --json both name {json_file}: one would take the place of the other")
    stems = _stems(images)
    outputs = [file for file in (csv_file, json_file) if file is not None]
    if out is not None:
        outputs += [out / name for stem in stems for name in _picture_names(stem)]
    _refuse_inputs(images, outputs)
    settings = load_settings(config)
    package = read_package(registry_of(settings, store).resolve(model))
    pipeline = package.build_pipeline(device_of(settings))
    decode = frame_decoder(settings)
    rows = []
    pictures = nullcontext() if out is None else made_folder(out)
    with _result(csv_file) as write_csv, _result(json_file) as write_json, pictures:
        for path, stem in track(
            zip(images, stems, strict=True),
            "inspecting",
            total=len(images),
            console=error_console,
            transient=True,
            disable=not error_console.is_terminal,
        ):
            row, inspection = _inspect_one(path, pipeline, package.ref, decode)
            rows.append(row)
            if out is not None and inspection is not None:
                title = f"{row.filename}   {package.ref.reference}"
                _write_pictures(out, stem, inspection, title)
        write_csv(_as_csv(rows))
        write_json(_ROWS.dump_json(rows, indent=2).decode() + "\n")
    console.print(_as_table(rows))
    if any(row.decision is Decision.ERROR for row in rows):
        raise typer.Exit(1)


def _inspect_one(
    path: Path, pipeline: Pipeline, model: ModelRef, decode: Decode
) -> tuple[InspectedImage, Inspection | None]:
    file = FrameFile(path, printable(path.name))
    began = time.perf_counter()
    try:
        frame = read_frame(file, decode).frame
        load_ms = (time.perf_counter() - began) * 1000
        (inspection,) = pipeline.inspect([frame])
    except FrameError as exc:
        return InspectedImage.unjudged(file, exc, tau=pipeline.tau, model=model), None
    return InspectedImage.of(file, inspection, load_ms, tau=inspection.threshold, model=model), inspection


@contextmanager
def _result(file: Path | None) -> Iterator[Callable[[str], None]]:
    """Lend what writes a result, if it is wanted; what cannot be written is told before the first picture."""
    if file is None:
        yield lambda _: None
        return
    with made_folder(file.parent), whole_file(file) as draft:

        def write(content: str) -> None:
            with naming(file):
                draft.write_text(content, encoding="utf-8", newline="")

        yield write


def _stems(images: Sequence[Path]) -> list[str]:
    """Return a stem for the pictures of each image; images of the same stem are told apart by -2, -3 ..."""
    given = {image.stem for image in images}
    numbers: dict[str, Iterator[int]] = {}
    stems: list[str] = []
    for image in images:
        stem = image.stem
        if stem in numbers:
            stem = next(name for number in numbers[stem] if (name := f"{image.stem}-{number}") not in given)
        else:
            numbers[stem] = count(2)
        stems.append(stem)
    return stems


def _refuse_inputs(images: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raise UsageError where a result would take the place of a picture that is to be judged."""
    given = {real_path(image) for image in images}
    for output in outputs:
        if real_path(output) in given:
            raise UsageError(f"{output} is to be judged, and a result would take its place")


def _picture_names(stem: str) -> list[str]:
    return [f"{stem}_{kind}.png" for kind in KINDS]


def _write_pictures(out: Path, stem: str, inspection: Inspection, title: str) -> None:
    pictures = (
        inspection.prepared.normalized.bgr,
        mask_picture(inspection.prepared.roi),
        comparison_picture(inspection, title),
    )
    for name, picture in zip(_picture_names(stem), pictures, strict=True):
        file = out / name
        with whole_file(file) as draft, naming(file):
            # imwrite would fail in silence
            draft.write_bytes(cv2.imencode(".png", picture)[1].tobytes())


def _as_csv(rows: Sequence[InspectedImage]) -> str:
    """Return the rows as CSV: `filename,s,decision`, then further columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        boxes = boxes_text(row.boxes)
        writer.writerow(row.model_dump(mode="json") | {"boxes": boxes})
    return text.getvalue()


def _as_table(rows: Sequence[InspectedImage]) -> Table:
    table = result_table("file", "s", "tau", "decision", "boxes", "ms", "")
    alike = Counter(row.filename for row in rows)
    for row in rows:
        table.add_row(
            escape(without_controls(row.filename if alike[row.filename] == 1 else row.path)),
            "" if row.s is None else f"{row.s:.4f}",
            f"{row.tau:.4f}",
            f"[{COLOURS[row.decision]}]{row.decision}[/]",
            str(len(row.boxes)),
            f"{row.stages_ms.total():.0f}",
            escape(f"{row.reason}: {row.detail}") if row.detail else "uncertain" if row.uncertain else "",
        )
    return table
