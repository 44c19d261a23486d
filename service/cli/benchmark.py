"""`cangate benchmark`: whether this computer keeps up with the line."""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from adapters.clock import SystemClock
from adapters.frames import AllowListedFrames
from adapters.simulation.renderer import SIDES_PX
from schemas.settings import Settings
from service.cli.benchmark_rendered import SHOWN_PARTS, TRAINING_PARTS, rendered_frames, rendered_model
from service.cli.common import ConfigOption, StoreOption, console, load_settings, parsed_size, say, stage_bars
from service.cli.frame_folders import listed_frames, tell_ignored
from service.cli.from_settings import registry_of
from service.errors import UsageError
from service.evaluation.fresh_process import in_fresh_process
from service.evaluation.load import Load
from service.evaluation.speed import STAGES, Speed, SpeedTrial, measure_speed
from service.files import made_folder, naming, whole_file
from service.model.dataset import FrameFile
from service.model.package import ModelPackage, read_package

_SIZE = "1280x960"

_NAMED = 20
"""So many frames that cannot be judged are named, and the others counted; the JSON names all."""


def benchmark(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="NAME, NAME@VERSION, or the path of a package.",
            show_default="a small one, trained on rendered canisters",
        ),
    ] = None,
    frames_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="FRAMES_DIR",
            help="Folder of pictures to judge, searched with its subfolders.",
            show_default=f"{SHOWN_PARTS} rendered canisters",
        ),
    ] = None,
    *,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="How long to measure: half of it one at a time.")
    ] = 10.0,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Of the rendered canisters, pixels.", show_default=_SIZE)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Threads that load, cut out and normalise frames.",
            show_default="compute.prepare_workers, 2",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures, as JSON.", dir_okay=False)
    ] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Tell whether this computer keeps up with the line: how long a part takes, and how many there is time for.

    Judges frames from memory as the service does, with its threads, in a process of its own.
    First one part at a time, then as many at once as the service takes; let nothing else run meanwhile.
    The ways from the camera and to the gate take their time beside that.

    A frame that cannot be judged is named and left out; exit status 1 where none can.
    After Ctrl-C nothing is written.

    Example: cangate benchmark

    Example: cangate benchmark canister frames/ok --seconds 60 --json speed.json -c config.toml
    """
    settings = _with_workers(load_settings(config), workers)
    if not math.isfinite(seconds):  # a nan is neither below the smallest nor above the largest
        raise UsageError("--seconds must be a number")
    if size is not None and frames_dir is not None:
        raise UsageError("--size is of rendered canisters, and FRAMES_DIR has pictures of its own")
    size_wh = _size(size or _SIZE, settings.images.max_pixels)
    with ExitStack() as stack:
        draft = None
        if json_file is not None:
            stack.enter_context(made_folder(json_file.parent))
            draft = stack.enter_context(whole_file(json_file))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cangate-benchmark-")))
        files = None if frames_dir is None else _listed(frames_dir)
        package = _model(model, store, folder, size_wh, settings)
        if files is None:
            with stage_bars() as progress:
                files = rendered_frames(folder / "frames", size_wh, partial(progress, "render"))
        with stage_bars() as progress:
            speed = in_fresh_process(
                "benchmark", partial(measure_speed, _trial(package, files, seconds, settings)), progress
            )
        if draft is not None and json_file is not None:
            with naming(json_file):
                draft.write_bytes(speed.model_dump_json(indent=2).encode() + b"\n")
    _print(speed, "rendered canisters" if frames_dir is None else f"pictures of {frames_dir}")


def _with_workers(settings: Settings, workers: int | None) -> Settings:
    if workers is None:
        return settings
    return settings.model_copy(update={"compute": settings.compute.model_copy(update={"prepare_workers": workers})})


def _size(text: str, max_pixels: int) -> tuple[int, int]:
    width, height = parsed_size(text, SIDES_PX)
    if width * height > max_pixels:
        raise UsageError(f"--size {text}: more than images.max_pixels, {max_pixels}")
    return width, height


def _listed(folder: Path) -> tuple[FrameFile, ...]:
    found = listed_frames(folder)
    tell_ignored(found)
    return found.frames


def _model(
    reference: str | None, store: Path | None, folder: Path, size_wh: tuple[int, int], settings: Settings
) -> ModelPackage:
    if reference is not None:
        return read_package(registry_of(settings, store).resolve(reference))
    width, height = size_wh
    say(
        f"no MODEL given: training a small one on {TRAINING_PARTS} rendered canisters of {width} x {height}; "
        "one of your own may be slower or quicker"
    )
    with stage_bars() as progress:
        return rendered_model(folder, size_wh, settings, progress)


def _trial(package: ModelPackage, files: tuple[FrameFile, ...], seconds: float, settings: Settings) -> SpeedTrial:
    return SpeedTrial(
        package=package.path,
        files=files,
        seconds=seconds,
        compute=settings.compute,
        deadline=settings.deadline,
        loader=AllowListedFrames.for_inline(settings.images),
        max_bytes=settings.images.max_bytes,
        clock=SystemClock(),
    )


def _print(speed: Speed, what: str) -> None:
    computer, recipe, frames = speed.computer, speed.recipe, speed.frames
    say(
        f"model     {speed.model.reference} {speed.model.sha256[:12]}: roi {recipe.roi.method}, "
        f"normalised to {recipe.normalize.side} px, embedder {recipe.embed.embedder} at {speed.input_side} px, "
        f"bank of {speed.bank_size} vectors, score {recipe.score.statistic}"
    )
    sizes = ", ".join(f"{width} x {height}" for width, height in frames.sizes_wh[:3])
    more = ", ..." if len(frames.sizes_wh) > 3 else ""
    left_out = f"; {frames.left_out} more would not fit into memory" if frames.left_out else ""
    say(
        f"frames    {frames.count} {what}, {sizes}{more}, "
        f"{frames.encoded_bytes / max(1, frames.count) / 1e6:.2f} MB each{left_out}"
    )
    say(
        f"computer  {computer.cpu}, {computer.cores} cores; device {computer.device}; threads: {computer.workers} "
        f"prepare frames, 1 judges (batches of {computer.max_batch} at most), torch {computer.torch_threads}, "
        f"OpenCV {computer.opencv_threads}"
    )
    if speed.refused:
        say(f"frames that cannot be judged, left out: {len(speed.refused)}")
        for refused in speed.refused[:_NAMED]:
            say(f"  {refused.name}: {refused.reason}: {refused.detail}")
        if len(speed.refused) > _NAMED:
            say(f"  and {len(speed.refused) - _NAMED} more")
    console.print(_table(speed))
    say(_rate(speed.one_at_a_time, "one at a time"))
    say(_rate(speed.full_load, f"full load, {speed.full_load.at_a_time} at a time as in the service"))
    gpu = "" if speed.peak_gpu_bytes is None else f", on the GPU {speed.peak_gpu_bytes / 1e6:.0f} MB"
    memory = "unknown" if speed.peak_memory_bytes is None else f"{speed.peak_memory_bytes / 1e6:.0f} MB"
    say(f"peak memory of the process: {memory}{gpu}")
    say(_sentence(speed))


def _table(speed: Speed) -> Table:
    table = Table("one at a time, ms", box=None)
    for column in ("median", "p95", "p99", "slowest"):
        table.add_column(column, justify="right")
    rows = {stage: speed.stages_ms[stage] for stage in STAGES}
    rows |= {"whole": speed.one_at_a_time.whole_ms, "whole, at full load": speed.full_load.whole_ms}
    for name, spread in rows.items():
        table.add_row(name, *(f"{value:.1f}" for value in (spread.median, spread.p95, spread.p99, spread.slowest)))
    return table


def _rate(load: Load, name: str) -> str:
    return f"{name}: {load.parts} parts in {load.seconds:.1f} s, {load.parts_per_s:.1f} a second"


def _sentence(speed: Speed) -> str:
    p99_ms, within_ms = speed.one_at_a_time.whole_ms.p99, speed.deadline_ms - speed.margin_ms
    deadline = (
        f"with deadline.default_ms = {speed.deadline_ms} of this configuration, "
        f"{speed.margin_ms:.0f} ms of it for the answer's way,"
    )
    if speed.in_time_per_s == 0:
        return (
            f"One part at a time takes up to {p99_ms:.0f} ms (p99): {deadline} this computer does not keep up, "
            "and its parts would be rejected."
        )
    # rounded down: there is time for no more than that
    per_s = math.floor(speed.in_time_per_s) if speed.in_time_per_s >= 10 else math.floor(10 * speed.in_time_per_s) / 10
    spaced = "" if speed.full_load.whole_ms.p99 <= within_ms else ", one after the other: at full load they are late"
    return (
        f"One part at a time is judged within {p99_ms:.0f} ms (p99): {deadline} "
        f"there is time for {per_s:g} parts a second{spaced}."
    )
