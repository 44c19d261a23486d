"""Farthest-point coreset beside its rivals, in one run: CPU time of one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.coreset [--patches 50000] [--dim 384] [--frac 0.02]
    ... python -m benchmarks.coreset --alone --patches 1000000     no rivals: time, memory, how good the forecast was

Rivals: a torch matrix-vector loop; the numpy loop with --slow; anomalib's k-center greedy where it is installed (also
only with --slow: most of a minute). The radius is the largest distance of any patch to the coreset.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.distance import peak_kib
from service.pipeline.coreset import farthest_point_coreset
from service.pipeline.memory_bank import MemoryBank
from service.pipeline.types import FloatArray

Indices = npt.NDArray[np.int64]


def clustered_vectors(count: int, dim: int, clusters: int = 500) -> FloatArray:
    """Return unit vectors (count, dim) in clusters of different width, as the patches of one kind of part are."""
    rng = np.random.default_rng(0)
    which = rng.integers(clusters, size=count)
    spread = rng.uniform(0.1, 0.8, clusters).astype(np.float32)[which, None]
    vectors = rng.standard_normal((clusters, dim), dtype=np.float32)[which]
    for row in range(0, count, 10_000):  # a million at once would take twice their memory more
        part = slice(row, row + 10_000)
        vectors[part] += spread[part] * rng.standard_normal(vectors[part].shape, dtype=np.float32)
        vectors[part] /= np.linalg.norm(vectors[part], axis=1, keepdims=True)
    return vectors


def torch_loop(patches: FloatArray, count: int) -> Indices:
    """Return the plain greedy: one matrix-vector product a pick."""
    points = torch.from_numpy(patches)
    squared = points.square().sum(dim=1)
    picks = [int(np.random.default_rng(0).integers(len(points)))]
    distance = torch.full((len(points),), torch.inf)
    while True:
        distance = torch.minimum(distance, squared + squared[picks[-1]] - 2 * (points @ points[picks[-1]]))
        if len(picks) == count:
            return np.array(picks)
        picks.append(int(distance.argmax()))


def numpy_loop(patches: FloatArray, count: int) -> Indices:
    """Return the plain greedy from differences, as the study did it."""
    picks = [int(np.random.default_rng(0).integers(len(patches)))]
    distance = np.full(len(patches), np.inf, np.float32)
    while True:
        distance = np.minimum(distance, np.linalg.norm(patches - patches[picks[-1]], axis=1))
        if len(picks) == count:
            return np.array(picks)
        picks.append(int(distance.argmax()))


def anomalib_greedy(patches: FloatArray, count: int) -> Indices:
    """Return anomalib's selection; its random projection shortens the vectors before."""
    from anomalib.models.components import KCenterGreedy  # noqa: PLC0415 - optional

    sampler = KCenterGreedy(embedding=torch.from_numpy(patches), sampling_ratio=count / len(patches))
    return np.array([int(index) for index in sampler.select_coreset_idxs()])


def alone(patches: FloatArray, count: int) -> None:
    """Print how long it takes, what it needs beside the patches, and how good the forecast of the progress bar was."""
    marks: list[tuple[float, float]] = []

    def progress(done: int, total: int) -> None:
        if done / total >= 0.1 * (len(marks) + 1):
            marks.append((done / total, time.process_time() - start))

    before, start = peak_kib(), time.process_time()
    picks = farthest_point_coreset(patches, count, 0, progress)
    seconds = time.process_time() - start
    print(f"  {seconds:.0f} s, {(peak_kib() - before) / 1024:.0f} MiB beside the {patches.nbytes >> 20} MiB of patches")
    print("  done   elapsed, s   foretold in all, s")
    for share, elapsed in marks:
        print(f"  {share:4.0%}{elapsed:13.0f}{elapsed / share:21.0f}")
    print(f"  {len(np.unique(picks))} different picks")


def main() -> None:
    """Print time, covering radius and agreement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--frac", type=float, default=0.02)
    parser.add_argument("--alone", action="store_true", help="no rivals, for many patches")
    parser.add_argument("--slow", action="store_true", help="also the numpy loop and anomalib")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    patches = clustered_vectors(arguments.patches, arguments.dim)
    count = round(arguments.frac * len(patches))
    if arguments.alone:
        print(f"{count} of {len(patches)} patches, D = {arguments.dim}")
        alone(patches, count)
        return
    rivals: dict[str, Callable[[FloatArray, int], Indices]] = {
        "cangate": lambda patches, count: farthest_point_coreset(patches, count, 0),
        "torch matvec": torch_loop,
    }
    if arguments.slow:
        rivals["numpy loop"] = numpy_loop
        if importlib.util.find_spec("anomalib"):
            rivals["anomalib"] = anomalib_greedy
        else:
            print("anomalib is not installed here: left out")
    print(f"{count} of {len(patches)} patches, D = {arguments.dim}")
    print(f"  {'':14}{'s':>9}{'x cangate':>11}{'radius':>10}{'same picks':>12}")
    seconds: dict[str, float] = {}
    picks: dict[str, Indices] = {}
    for name, rival in rivals.items():
        start = time.process_time()
        picks[name] = rival(patches, count)
        seconds[name] = time.process_time() - start
        radius = MemoryBank(patches[picks[name]]).distances(patches).max()
        same = int((picks[name] == picks["cangate"][: len(picks[name])]).sum())
        print(f"  {name:14}{seconds[name]:9.2f}{seconds[name] / seconds['cangate']:11.1f}{radius:10.5f}{same:12}")


if __name__ == "__main__":
    main()
