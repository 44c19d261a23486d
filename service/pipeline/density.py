"""k-NN density: which training patches are common enough to count as OK."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from service.pipeline.nearest import squared_lengths
from service.pipeline.types import FloatArray, Mask, Progress

ROWS, COLUMNS = 512, 4096
CPU = torch.device("cpu")


def mean_neighbour_distance(
    patches: FloatArray, k: int, progress: Progress | None = None, device: torch.device = CPU
) -> FloatArray:
    """Return the mean Euclidean distance of each patch to its k nearest others: small means dense.

    patches: (N, D) float32. Returns (N,) float32; zeros for a single patch, which has no others. Holds tiles of
    512 x 4,096 distances, never the matrix. Distances below 1e-3 of the vectors' length are rounding noise.
    """
    k = min(k, len(patches) - 1)
    if k <= 0:
        return np.zeros(len(patches), np.float32)
    points = torch.as_tensor(patches, device=device)
    squared = squared_lengths(points)
    mean = torch.empty(len(points), device=device)
    for row in range(0, len(points), ROWS):
        block = points[row : row + ROWS]
        nearest = torch.full((len(block), k), torch.inf, device=device)
        for first in range(0, len(points), COLUMNS):
            chunk = points[first : first + COLUMNS]
            distance = torch.addmm(squared[first : first + COLUMNS], block, chunk.T, alpha=-2)
            # a patch is not its own neighbour; its twins are
            own = torch.arange(row, row + len(block), device=device) - first
            own = own[(own >= 0) & (own < len(chunk))]
            distance[own + first - row, own] = torch.inf
            closest = distance.topk(min(k, len(chunk)), dim=1, largest=False, sorted=False).values
            nearest = torch.cat([nearest, closest], dim=1).topk(k, dim=1, largest=False, sorted=False).values
        nearest += squared[row : row + ROWS, None]
        mean[row : row + ROWS] = nearest.clamp_(min=0).sqrt_().mean(dim=1)
        if progress is not None:
            progress(min(row + ROWS, len(points)), len(points))
    return mean.cpu().numpy()


def density_filter(
    patches: FloatArray, k: int, keep: float, progress: Progress | None = None, device: torch.device = CPU
) -> Mask:
    """Mark the densest share `keep` of the patches, by the mean distance to their k nearest others.

    patches: (N, D) float32. Returns (N,) bool with ceil(keep * N) true, the earlier patch where two are equally dense.
    """
    order: npt.NDArray[np.int64] = np.argsort(mean_neighbour_distance(patches, k, progress, device), kind="stable")
    kept = np.zeros(len(patches), bool)
    kept[order[: math.ceil(keep * len(patches))]] = True
    return kept
