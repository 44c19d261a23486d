"""`cangate pretrain`: photos and made-up surfaces in, the weights of the starter embedder out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save

from adapters.simulation.renderer import render_canister
from schemas.recipe import Recipe
from schemas.settings import ComputeSettings
from service.cli.common import error_console, say
from service.device import compute_device
from service.errors import UsageError
from service.files import naming, whole_file
from service.pipeline.embed.starter import read_network
from service.pipeline.embed.starter_network import StarterNetwork
from service.pipeline.embed.weights import in_half_precision
from service.pipeline.normalize import normalize
from service.pipeline.types import Roi
from service.pretraining.episodes import Part, Parts
from service.pretraining.photos import Photos
from service.pretraining.trainer import CHECKPOINT, LOSSES, PreTrainer, Trained, TrainingPlan

WEIGHTS = "starter.safetensors"
STATIONS, PARTS_EACH = 48, 6
FIRST_SEED = 40_000_000
"""Of the rendered parts and their stations: far from those of the demo, the tests and the benchmarks."""


def pretrain(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder with tar files of JPEG or PNG photos.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for weights, checkpoint and losses.", file_okay=False)
    ],
    *,
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 20_000,
    minutes: Annotated[
        float, typer.Option(min=0, help="Be ready by then, with fewer batches where need be; 0: take the time.")
    ] = 0.0,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of a batch; four views each.")] = 6,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make episodes up.")] = 1,
    rate: Annotated[float, typer.Option(min=1e-6, help="Learning rate at its highest.")] = 2.5e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
    rendered: Annotated[bool, typer.Option(help="Show rendered canisters as well.")] = True,
    weights: Annotated[
        Path | None, typer.Option(help="Start from these weights of an earlier training, not from random ones.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")] = False,
) -> None:
    """Train the starter backbone, and write OUT/starter.safetensors.

    On a GPU where there is one. OUT/losses.csv has the loss curves. After Ctrl-C, --resume goes on from the last
    checkpoint; without it a folder that holds an earlier training is refused. The photos need no labels; the surfaces
    and the damage on them are made up.

    Example: cangate pretrain photos -o starter --minutes 60
    """
    if resume and weights is not None:
        raise UsageError("--resume goes on from the checkpoint; it takes no --weights to start from")
    if not resume:
        _refuse_earlier(out)
    device = compute_device(ComputeSettings())
    found = Photos.read(photos)
    plan = TrainingPlan(steps, minutes, episodes, rate, seed=seed, workers=workers)
    trainer = PreTrainer(out, plan, found, _rendered_parts() if rendered else None, device)
    if weights is not None:
        trainer.start_from(read_network(weights))
    if resume:
        trainer.resume()
    say(f"{len(found)} photos, on {device.type}; from step {trainer.step}")
    network = _with_bar(trainer)
    path = out / WEIGHTS
    digest = write_weights(network, path, trainer)
    say(f"{trainer.step} steps; {path}, SHA-256 {digest}")


def write_weights(network: StarterNetwork, path: Path, trainer: PreTrainer) -> str:
    """Write the weights in half precision with their shape and origin, and return the file's SHA-256.

    Raises UsageError where they cannot be written.
    """
    about = {"steps": str(trainer.step), "seed": str(trainer.plan.seed), "photos_sha256": trainer.photos.digest}
    content = save(in_half_precision(network.state_dict()), metadata=about)
    with whole_file(path) as draft, naming(path):
        draft.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _refuse_earlier(out: Path) -> None:
    """Raise UsageError where `out` holds what a training wrote: its curves would be mixed, the rest overwritten."""
    with naming(out):
        if any((out / name).is_file() for name in (CHECKPOINT, WEIGHTS, LOSSES)):
            raise UsageError(f"{out} holds an earlier training: give --resume, or another folder")


def _with_bar(trainer: PreTrainer) -> StarterNetwork:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.1f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=error_console, transient=True, disable=not error_console.is_terminal) as bars:
        task = bars.add_task("pretrain", total=1.0)

        def told(trained: Trained) -> None:
            text = f"step {trained.step}, loss {trained.loss:.2f}, {trained.ranked:.0%} ranked"
            bars.update(task, completed=trained.share, description=text)

        return trainer.run(told)


def _rendered_parts() -> Parts:
    """Return what draws undamaged rendered canisters of one station, cut out by their true mask."""
    recipe = Recipe().normalize.model_copy(update={"side": 320})
    stations: list[list[Part]] = []
    with Progress(console=error_console, transient=True, disable=not error_console.is_terminal) as bars:
        for station in bars.track(range(STATIONS), description="rendering parts"):
            parts: list[Part] = []
            for index in range(PARTS_EACH):
                frame = render_canister(FIRST_SEED + station * PARTS_EACH + index, station_seed=FIRST_SEED + station)
                rows, columns = np.flatnonzero(frame.mask.any(axis=1)), np.flatnonzero(frame.mask.any(axis=0))
                bounds = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
                cut = normalize(frame.bgr, Roi(frame.mask, bounds, "rendered"), recipe)
                parts.append((cut.bgr, cut.mask))
            stations.append(parts)

    def draw(rng: np.random.Generator, count: int) -> Sequence[Part]:
        station = stations[int(rng.integers(len(stations)))]
        return [station[index] for index in rng.permutation(len(station))[:count]]

    return draw
