"""Patch vectors of all training frames, kept on disk so that memory does not grow with the training set."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from service.errors import CangateError
from service.pipeline.types import FloatArray


class PatchStore:
    """Vectors of dimension D, appended frame by frame to a nameless temporary file in TMPDIR.

    The file has no name, so nothing is left of it however the process ends.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._ends = [0]
        self._file = tempfile.TemporaryFile(prefix="cangate-")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self._ends) - 1

    def append(self, vectors: FloatArray) -> None:
        """Add the patches of the next frame: vectors (N, D) float32. Raises CangateError where the disk is full."""
        if vectors.ndim != 2 or vectors.shape[1] != self._dim:
            raise ValueError(f"vectors are (N, {self._dim}), not {vectors.shape}")
        with _disk_errors():
            self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(vectors, np.float32).data)
        self._ends.append(self._ends[-1] + len(vectors))

    def of_frame(self, index: int) -> FloatArray:
        """Return the patches of one frame: (N, D) float32."""
        return self._rows(self._ends[index], self._ends[index + 1])

    def sample(self, limit: int, seed: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Return all patches in order, or `limit` drawn uniformly: (R, D) float32, and the frame of each (R,)."""
        if len(self) <= limit:
            rows = np.arange(len(self))
        else:
            rows = np.sort(np.random.default_rng(seed).choice(len(self), limit, replace=False, shuffle=False))
        frame_of_row = np.searchsorted(self._ends, rows, side="right") - 1
        bounds = np.searchsorted(rows, self._ends)
        vectors = np.empty((len(rows), self._dim), np.float32)
        for frame in range(self.frames):
            chosen = slice(bounds[frame], bounds[frame + 1])
            vectors[chosen] = self.of_frame(frame)[rows[chosen] - self._ends[frame]]
        return vectors, frame_of_row

    def _rows(self, first: int, end: int) -> FloatArray:
        with _disk_errors():
            self._file.seek(first * self._dim * 4)
            rows = np.empty((end - first, self._dim), np.float32)
            self._file.readinto(rows.data)
        return rows


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise CangateError(
            f"patches do not fit into {tempfile.gettempdir()} ({exc.strerror}); set TMPDIR to a folder with more room"
        ) from exc
