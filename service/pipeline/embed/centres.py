"""Where the cells of a network's layers look, followed through its convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Cells:
    """Where the cells of a layer look, in pixels of the input.

    first: centre of the first cell, 0.0 is that of the first pixel. step: from one cell to the next.
    """

    first: float
    step: float

    @property
    def ahead(self) -> float:
        """Return how far a cell looks beyond the middle of its share, the `step` pixels that the grid gives it."""
        return self.first - (self.step - 1) / 2


def centres_of(network: nn.Module, side: int, run: Callable[[], None]) -> dict[int, Cells]:
    """Return where the cells of a grid look, by its number of rows, as `run` shows the network a square of `side` px.

    Followed from one reduction to the next (Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural
    Networks", Distill 2019, eq. 3). A way down that is none of torch's layers, such as Swin's, is not among them; such
    join whole cells.
    """
    centres, rows = {side: Cells(0.0, 1.0)}, side

    def follow(module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        nonlocal rows
        before, after = given[0].shape[-2], result.shape[-2]
        if before != rows or after >= rows:  # no reduction, or the second branch of one
            return
        kernel, stride, dilation = (_along(getattr(module, name, 1)) for name in ("kernel_size", "stride", "dilation"))
        width = dilation * (kernel - 1) + 1
        padding = _along(getattr(module, "padding", 0))
        if not padding and not getattr(module, "ceil_mode", False):
            # timm's layers with TensorFlow's padding add what is missing by themselves, the odd pixel behind
            padding = max(0, (after - 1) * stride + width - before) // 2
        cells, rows = centres[rows], after
        centres[rows] = Cells(cells.first + cells.step * ((width - 1) / 2 - padding), cells.step * stride)

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)]
    hooks = [module.register_forward_hook(follow) for module in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return centres


def values_at(layer: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return a layer (batch, channels, rows, cols) at (n,) indices of its rows and of its columns, interpolated."""
    last = layer.shape[-1] - 1
    lower = places.floor().clamp(0, last)
    upper, share = (lower + 1).clamp(max=last).long(), (places - lower).clamp(0, 1)
    low = lower.long()
    down = torch.lerp(layer[..., low, :], layer[..., upper, :], share[:, None])
    return torch.lerp(down[..., low], down[..., upper], share)


def _along(size: int | tuple[int, ...] | str) -> int:
    """Return a layer's setting along the rows; a padding given as a word leaves the size as it is."""
    if isinstance(size, str):
        return 0
    return size[0] if isinstance(size, tuple) else size
