"""Greedy farthest-point coreset (PatchCore, arXiv 2106.08265, algorithm 1), selected lazily and exactly.

The plain greedy updates every patch's distance to the coreset after every pick. A distance can only shrink, so one that
was not updated is still an upper bound: only the patches with the largest bounds can be farthest. They form a pool that
is refreshed by one gemm against the picks they have not seen, and picks are taken from the pool while its farthest
patch beats every bound outside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from service.pipeline.nearest import squared_lengths
from service.pipeline.types import FloatArray, Progress

SMALL_POOL, LARGE_POOL = 256, 8192
UNSEEN = 2048
"""Picks that a pool is held against at a time."""
BATCH = 256
"""Most picks between two calls of the progress callback."""
TIE = 4e-6
"""Squared distances from a float32 gemm are good to this share of the largest squared length; nearer candidates are
compared in double precision, so that the picks are those of the greedy in double precision."""
MAX_CONTENDERS = 16
CPU = torch.device("cpu")


def farthest_point_coreset(
    patches: FloatArray,
    count: int,
    seed: int,
    progress: Progress | None = None,
    device: torch.device = CPU,
    centres: FloatArray | None = None,
) -> npt.NDArray[np.int64]:
    """Pick `count` patches so that each pick is the patch farthest from the picks before it.

    patches: (N, D) float32. centres: (C, D) float32, taken as picked before the first one; without any the first pick
    is drawn with `seed`. Returns (min(count, N),) int64 in the order of selection. Equal to the plain greedy, but for
    patches equally far, of which any may come first. Memory beyond the patches: two numbers a patch, the picks, and a
    pool of at most 8,192 rows with their products with 2,048 picks.
    """
    count = min(count, len(patches))
    if count <= 0:
        return np.empty(0, np.int64)
    with _one_thread():
        before_first = torch.as_tensor(patches[:0] if centres is None else centres, device=device)
        selection = _Selection(torch.as_tensor(patches, device=device), count, before_first)
        if not len(before_first):
            selection.pick(int(np.random.default_rng(seed).integers(len(patches))))
        pool_size = SMALL_POOL
        while selection.picked < len(selection.picks):
            before = selection.picked
            selection.pick_from_pool(pool_size)
            # no pick: many bounds are stale, as after the first picks; refresh more of them at a time
            stalled = selection.picked == before
            pool_size = min(2 * pool_size, LARGE_POOL) if stalled else max(pool_size // 2, SMALL_POOL)
            if progress is not None:
                # a pick costs more the more picks there are: counted by effort, not by number, the bar moves evenly
                progress((selection.picked - len(before_first)) ** 2 // count, count)
    return selection.indices.cpu().numpy()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch from sharing out each of many small steps: on two busy cores that made them seventy times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Selection:
    """State of one run. bound[i]: squared distance of patch i to the first seen[i] picks, -inf once picked.

    picks: the centres, then what was picked. indices: the row of each pick; centres have none.
    """

    def __init__(self, points: torch.Tensor, count: int, centres: torch.Tensor) -> None:
        self.points = points
        self.squared = squared_lengths(points)
        self.tie = TIE * float(self.squared.max())
        self.bound = torch.full((len(points),), torch.inf, device=points.device)
        self.seen = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        self.centres = len(centres)
        self.picks = torch.cat([centres, centres.new_empty((count, points.shape[1]))])
        self.indices = torch.empty(count, dtype=torch.int64, device=points.device)
        self.picked = self.centres

    def pick(self, index: int) -> None:
        """Take patch `index` into the coreset."""
        self.picks[self.picked] = self.points[index]
        self.indices[self.picked - self.centres] = index
        self.bound[index] = -torch.inf
        self.picked += 1

    def pick_from_pool(self, size: int) -> None:
        """Refresh the `size` largest bounds and pick while the farthest patch is among them."""
        largest, pool = self.bound.topk(min(size + 1, len(self.bound)))
        outside = float(largest[size]) if len(largest) > size else -torch.inf
        pool = pool[:size]
        rows, squared = self.points[pool], self.squared[pool]
        unseen = self.picks[int(self.seen[pool].min()) : self.picked]
        distance = self.bound[pool]
        for first in range(0, len(unseen), UNSEEN):
            some = unseen[first : first + UNSEEN]
            refreshed = torch.addmm(some.square().sum(dim=1), rows, some.T, alpha=-2).amin(dim=1) + squared
            distance = torch.minimum(distance, refreshed)
        for _ in range(min(BATCH, len(self.picks) - self.picked)):
            peak = float(distance.max())
            if peak < outside:
                break
            member = self._farthest(rows, distance, peak)
            distance[member] = -torch.inf
            self.pick(int(pool[member]))
            to_pick = torch.addmv(squared, rows, rows[member], alpha=-2).add_(squared[member])
            distance = torch.minimum(distance, to_pick)
        self.bound[pool] = distance
        self.seen[pool] = self.picked

    def _farthest(self, rows: torch.Tensor, distance: torch.Tensor, peak: float) -> int:
        """Return the pool member farthest from all picks, in double precision where float32 cannot tell."""
        contenders = torch.nonzero(distance >= peak - self.tie)[:MAX_CONTENDERS, 0]
        if len(contenders) == 1:
            return int(contenders[0])
        exact = torch.cdist(
            rows[contenders].double(),
            self.picks[: self.picked].double(),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        return int(contenders[exact.amin(dim=1).argmax()])
