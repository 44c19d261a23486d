"""Accuracy on photos of magnetic tiles: trains on the OK tiles of a folder, judges the others, masks included.

    python -m benchmarks.magnetic_tile FOLDER [--embedder starter] [--weights FILE] [--side 320] [-o REPORT]
    python -m benchmarks.magnetic_tile FOLDER --embedder timm:BACKBONE --weights FILE --layers 2 3 --pool 3

FOLDER holds train_ok, test_ok, test_damaged and masks (Huang et al., "Saliency of magnetic tile surface defects"),
split by tile: several photos show one tile, and a split by photo leaks. The ROI is the whole frame. Nothing but
train_ok is used for the model and its threshold.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.models import DECODE, trained_on
from schemas.recipe import EmbedRecipe, Recipe, RoiMethod, RoiRecipe
from schemas.settings import ComputeSettings
from service.device import compute_device
from service.evaluation.evaluator import Evaluator
from service.evaluation.metrics import Label
from service.evaluation.report import write_report
from service.evaluation.truth import MaskFolder
from service.model.dataset import list_frames
from service.model.package import read_package


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--embedder", default="starter")
    parser.add_argument("--weights", default="", help="timm: local checkpoint")
    parser.add_argument("--side", type=int, help="of the embedder's input, px")
    parser.add_argument("--layers", type=int, nargs="*", default=(), help="timm: feature levels to join")
    parser.add_argument("--pool", type=int, default=1, help="timm: neighbourhood pooling")
    parser.add_argument("-o", "--out", type=Path, help="folder for the report")
    arguments = parser.parse_args()
    embed = EmbedRecipe(
        embedder=arguments.embedder,
        weights=arguments.weights,
        input_side=arguments.side,
        layers=tuple(arguments.layers),
        pool=arguments.pool,
    )
    recipe = Recipe(roi=RoiRecipe(method=RoiMethod.NONE), embed=embed)
    trained = trained_on(list_frames(arguments.folder / "train_ok").frames, recipe)
    with tempfile.TemporaryDirectory(prefix="cangate-bench-") as directory:
        trained.write(Path(directory))
        package = read_package(Path(directory))
    folders = {Label.OK: "test_ok", Label.DAMAGED: "test_damaged"}
    frames = {label: list_frames(arguments.folder / name).frames for label, name in folders.items()}
    masks = MaskFolder.open(arguments.folder / "masks", frames[Label.DAMAGED])
    pipeline = package.build_pipeline(compute_device(ComputeSettings()))
    evaluator = Evaluator(package, pipeline, decode=DECODE, masks=masks)
    for label, files in frames.items():
        evaluator.judge_all(files, label, lambda _done, _total: None)
    summary = evaluator.summary()
    for label, counts in summary.sets.items():
        print(f"{label}: {counts.frames} frames, {counts.damaged} called damaged, {counts.error} not judged")
    for figures in (summary.image, summary.pixel, summary.boxes, summary.median_ms):
        if figures is not None:
            print(", ".join(f"{name} {value:.4g}" for name, value in figures if value is not None))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_report(arguments.out, summary, evaluator.frames, evaluator.galleries)


if __name__ == "__main__":
    main()
