"""Peak memory of a training does not grow with the number of frames: one fresh process for each count.

    python -m benchmarks.training_memory [--counts 500 2000] [--width 480]

Renders OK frames of one station, trains with the default recipe on the first so many of them, and prints the peak
resident memory of each process (Linux: VmHWM) beside what its patches take on disk. Half an hour on two cores; smaller
counts show little, since a frame of rendered canisters has some 450 patches and the reservoir holds 100,000.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import torch

from adapters.simulation.renderer import render_canister
from benchmarks.distance import peak_kib
from benchmarks.models import trained_on
from schemas.recipe import Recipe
from service.model.dataset import list_frames

WARM_UP = 4
"""Frames that pay for loading libraries and filters, in the printed baseline."""


def render_frames(folder: Path, count: int, width: int) -> None:
    """Write `count` OK frames, 4:3, as JPEG."""
    for number in range(count):
        frame = render_canister(number, resolution_wh=(width, width * 3 // 4))
        (folder / f"{number:05d}.jpg").write_bytes(cv2.imencode(".jpg", frame.bgr)[1].tobytes())


def train_and_report(folder: Path, count: int) -> None:
    """Train on the first `count` frames of the folder; print what it took, in one line."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    files = list_frames(folder).frames
    began = time.monotonic()
    trained_on(files[:WARM_UP], Recipe())
    few = peak_kib() / 1024
    record = trained_on(files[:count], Recipe()).manifest
    peak = peak_kib() / 1024
    patches = record.training.patches
    print(
        f"{count:6} frames {peak:8.0f} MiB peak ({few:.0f} after {WARM_UP} frames), {patches} patches "
        f"= {patches * record.embedder.dim * 4 / 2**20:.0f} MiB, {record.training.patches_held} held, "
        f"{time.monotonic() - began:.0f} s"
    )


def main() -> None:
    """Render once, train once a count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--width", type=int, default=480, help="width of the frames, px")
    parser.add_argument("--trainee", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trainee:
        folder, count = arguments.trainee
        train_and_report(Path(folder), int(count))
        return
    with tempfile.TemporaryDirectory(prefix="cangate-bench-") as directory:
        render_frames(Path(directory), max(arguments.counts), arguments.width)
        for count in arguments.counts:
            command = [sys.executable, "-m", "benchmarks.training_memory", "--trainee", directory, str(count)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
