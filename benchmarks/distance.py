"""Distance to the memory bank beside its rivals, in one run: CPU time of one thread, best of seven.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.distance

Rivals: torch.cdist; the study's broadcast formula (on as many patches as fit in 256 MiB, scaled up: the whole would
take tens of GiB); faiss-cpu's flat index and anomalib's PatchCore, where they are installed. The accuracy column is the
largest difference to double precision; extra memory (Linux) is what one call adds to the peak of a fresh process.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from service.pipeline.memory_bank import MemoryBank
from service.pipeline.types import FloatArray

REPEATS = 7
BROADCAST_BYTES = 256 << 20

Rival = Callable[[FloatArray], FloatArray]


def unit_vectors(rng: np.random.Generator, count: int, dim: int) -> FloatArray:
    """Return random unit vectors (count, dim)."""
    vectors = rng.standard_normal((count, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def best_ms(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the best CPU time of each call, the calls taking turns so that a busy moment hits all alike."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def exact(patches: FloatArray, bank: FloatArray) -> npt.NDArray[np.float64]:
    """Return (N,) distances in double precision, from the differences to the 8 best candidates of a double gemm."""
    points, vectors = patches.astype(np.float64), bank.astype(np.float64)
    bracket = points @ vectors.T - (vectors**2).sum(axis=1) / 2
    candidates = np.argpartition(-bracket, min(8, len(bank) - 1), axis=1)[:, :8]
    smallest: npt.NDArray[np.float64] = np.linalg.norm(points[:, None] - vectors[candidates], axis=2).min(axis=1)
    return smallest


def rivals_of(bank: FloatArray) -> dict[str, Rival]:
    """Return every implementation at hand, ours first."""
    ours, vectors = MemoryBank(bank), torch.from_numpy(bank)
    rivals: dict[str, Rival] = {
        "cangate": ours.distances,
        "torch.cdist": lambda patches: torch.cdist(torch.from_numpy(patches), vectors).amin(dim=1).numpy(),
    }
    if importlib.util.find_spec("faiss"):
        import faiss  # noqa: PLC0415 - optional

        faiss.omp_set_num_threads(1)
        index = faiss.IndexFlatL2(bank.shape[1])
        index.add(bank)
        rivals["faiss flat"] = lambda patches: np.sqrt(np.maximum(index.search(patches, 1)[0][:, 0], 0))
    if importlib.util.find_spec("anomalib"):
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel  # noqa: PLC0415 - optional

        model = PatchcoreModel(layers=["layer2"], backbone="resnet18", pre_trained=False)
        model.memory_bank = vectors
        rivals["anomalib"] = lambda patches: model.nearest_neighbors(torch.from_numpy(patches), 1)[0].numpy()
    return rivals


def broadcast_ms(patches: FloatArray, bank: FloatArray) -> float:
    """Return the time of the study's formula for all patches, extrapolated from as many as fit."""
    few = max(1, min(len(patches), BROADCAST_BYTES // bank.nbytes))
    start = time.process_time()
    np.sqrt(((patches[:few, None] - bank[None]) ** 2).sum(axis=2)).min(axis=1)
    return 1e3 * (time.process_time() - start) * len(patches) / few


def extra_mib(patches: int, vectors: int, dim: int) -> float:
    """Return what one call adds to the peak memory of a fresh process, its patches and its answer not counted."""
    command = [sys.executable, "-m", "benchmarks.distance", "--memory", *map(str, (patches, vectors, dim))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_extra_memory(patches: int, vectors: int, dim: int) -> None:
    """Measure and print the extra memory in MiB; the libraries are warmed up on a small case first."""
    rng = np.random.default_rng(0)
    points, bank = unit_vectors(rng, patches, dim), MemoryBank(unit_vectors(rng, vectors, dim))
    MemoryBank(bank.vectors[:256]).distances(points[:64])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: proc(5)
    before = peak_kib()
    bank.distances(points)
    print((peak_kib() - before) / 1024)


def peak_kib() -> int:
    """Return the peak resident memory of this process, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Print one table a bank size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=1369)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--vectors", type=int, nargs="+", default=[1000, 5000, 20_000, 100_000])
    parser.add_argument("--memory", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        print_extra_memory(*arguments.memory)
        return
    for name in ("faiss", "anomalib"):
        if not importlib.util.find_spec(name):
            print(f"{name} is not installed here: left out")
    rng = np.random.default_rng(0)
    patches = unit_vectors(rng, arguments.patches, arguments.dim)
    for count in arguments.vectors:
        bank = unit_vectors(rng, count, arguments.dim)
        # every other patch lies close to the bank, where products cancel
        patches[::2] = bank[rng.integers(count, size=len(patches[::2]))]
        patches[::2] += np.float32(0.03) * unit_vectors(rng, len(patches[::2]), arguments.dim)
        truth, rivals = exact(patches, bank), rivals_of(bank)
        gemm = {"plain gemm": lambda bank=bank: patches @ bank.T}
        times = best_ms(gemm | {name: lambda rival=rival: rival(patches) for name, rival in rivals.items()})
        print(f"\n{len(patches)} patches, {count} vectors, D = {arguments.dim}")
        print(f"  {'':16}{'ms':>9}{'x gemm':>9}{'x cangate':>11}{'max error':>12}")
        for name, milliseconds in times.items():
            error = f"{np.abs(rivals[name](patches) - truth).max():12.1e}" if name in rivals else ""
            ratios = f"{milliseconds / times['plain gemm']:9.2f}{milliseconds / times['cangate']:11.2f}"
            print(f"  {name:16}{milliseconds:9.1f}{ratios}{error}")
        slow = broadcast_ms(patches, bank)
        print(f"  {'broadcast':16}{slow:9.0f}{slow / times['plain gemm']:9.0f}{slow / times['cangate']:11.0f}")
        print(f"  extra memory {extra_mib(len(patches), count, arguments.dim):.1f} MiB")


if __name__ == "__main__":
    main()
