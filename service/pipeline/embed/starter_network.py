"""The network of the starter embedder: locally normalised pictures in, one unit vector for 8 x 8 pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

CHANNELS = 6

WINDOWS_PX = (4, 8)
"""Local statistics are taken over about ten times this many pixels, on means of this many pixels."""
CONTRAST_FLOOR = 0.04
"""Of full scale: what is flatter than this is not amplified further."""
COLOUR_GAIN, LEVEL_GAIN, LARGEST = 6.0, 3.0, 6.0
EMPTY = 1e-3


def normalize_locally(bgr: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
    """Return what the network sees: (batch, CHANNELS, height, width) float32, 0 off the part.

    Grey against its surroundings within two windows, two colour differences against theirs, the brightness of the
    surroundings against that of the part, and where the part is. Nothing off the part counts.

    bgr: (batch, 3, height, width) float32, 0..1. covered: (batch, 1, height, width) float32, 1 on the part.
    """
    size = bgr.shape[-2:]
    blue, green, red = torch.unbind(bgr[:, :, None], dim=1)
    grey = 0.114 * blue + 0.587 * green + 0.299 * red
    colour = torch.cat([blue - green, red - green], dim=1)
    parts: list[torch.Tensor] = []
    for window in WINDOWS_PX:
        wide = window == WINDOWS_PX[-1]
        moments = [covered, grey * covered, grey * grey * covered, *([colour * covered] if wide else [])]
        sums = _surroundings(torch.cat(moments, dim=1), window)
        means = sums[:, 1:] / (sums[:, :1] + EMPTY)
        spread = (means[:, 1:2] - means[:, :1] ** 2).clamp_min(0).sqrt()
        local = torch.cat([means[:, :1], spread, means[:, 2:]], dim=1)
        local = functional.interpolate(local, size, mode="bilinear", align_corners=False)
        mean, spread = local[:, :1], local[:, 1:2]
        parts.append((grey - mean) / (spread + CONTRAST_FLOOR))
        if wide:
            parts.append((colour - local[:, 2:]) * COLOUR_GAIN)
            whole = (grey * covered).sum((2, 3), keepdim=True) / (covered.sum((2, 3), keepdim=True) + 1)
            parts.append((mean - whole) * LEVEL_GAIN)
    return torch.cat([(torch.cat(parts, dim=1) * covered).clamp(-LARGEST, LARGEST), covered], dim=1)


def _surroundings(image: torch.Tensor, window: int) -> torch.Tensor:
    """Return means over a bell of some ten windows, one for window x window pixels."""
    image = functional.avg_pool2d(image, window)
    for _ in range(3):  # three boxes make a bell
        image = functional.avg_pool2d(image, 5, stride=1, padding=2)
    return image


def _convolution(channels_in: int, channels_out: int, side: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (side // 2)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, side, stride, padding, dilation, bias=False), nn.BatchNorm2d(channels_out)
    )


class _Residual(nn.Module):
    """Two convolutions beside the identity. Source: He et al., arXiv 1512.03385."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 3, dilation=dilation)
        self.second = _convolution(channels, channels, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.first(image), inplace=True)
        return functional.relu(image + self.second(inner), inplace=True)


class StarterNetwork(nn.Module):
    """A small residual network that joins what it sees at 4, 8 and 16 pixels.

    widths: channels at 2, 4, 8 and 16 pixels. dim: length of a vector.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128), dim: int = 96) -> None:
        super().__init__()
        self.widths, self.dim = tuple(widths), dim
        fine, middle, coarse = (pair for pair in pairwise(widths))
        self.stem = _convolution(CHANNELS, widths[0], 5, stride=2)
        self.at_4 = nn.Sequential(_convolution(*fine, 3, stride=2), nn.ReLU(), _Residual(widths[1]))
        self.at_8 = nn.Sequential(
            _convolution(*middle, 3, stride=2), nn.ReLU(), _Residual(widths[2]), _Residual(widths[2])
        )
        self.at_16 = nn.Sequential(
            _convolution(*coarse, 3, stride=2), nn.ReLU(), _Residual(widths[3]), _Residual(widths[3], dilation=2)
        )
        self.join = nn.Sequential(_convolution(2 * widths[1] + widths[2] + widths[3], dim, 1), nn.ReLU())
        self.head = nn.Sequential(_convolution(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, dim, 1))

    @classmethod
    def of_state(cls, state: dict[str, torch.Tensor]) -> StarterNetwork:
        """Return the network that a state is of, as wide as its tensors are. Raises KeyError or RuntimeError."""
        stages = ("stem.0.weight", "at_4.0.0.weight", "at_8.0.0.weight", "at_16.0.0.weight")
        network = cls([len(state[stage]) for stage in stages], len(state["head.2.weight"]))
        network.load_state_dict(state)
        return network

    def forward(self, normalized: torch.Tensor) -> torch.Tensor:
        """Return (batch, dim, height / 8, width / 8), of unit length along dim.

        normalized: (batch, CHANNELS, height, width) from `normalize_locally`, sides multiples of COARSEST_PX.
        """
        at_4 = self.at_4(functional.relu(self.stem(normalized), inplace=True))
        at_8 = self.at_8(at_4)
        at_16 = functional.interpolate(self.at_16(at_8), at_8.shape[-2:], mode="bilinear", align_corners=False)
        joined = torch.cat([functional.avg_pool2d(at_4, 2), functional.max_pool2d(at_4, 2), at_8, at_16], dim=1)
        return functional.normalize(self.head(self.join(joined)), dim=1)
