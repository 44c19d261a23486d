"""The network of the starter embedder: locally normalised pictures in, one unit vector for 8 x 8 pixels out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

CHANNELS = 6

WINDOWS_PX = (4, 8)
"""Local statistics are taken over about ten times this many pixels, on means of this many pixels."""
BOX = 5
"""Of these means: three boxes make the bell that weighs the surroundings."""
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
    blue, green, red = torch.unbind(bgr, dim=1)
    part = covered[:, 0]
    grey = 0.114 * blue + 0.587 * green + 0.299 * red
    colours = (blue - green, red - green)
    weighted = grey * part
    near, far = WINDOWS_PX
    moments = _means([part, weighted, grey * weighted, *(colour * part for colour in colours)], near)
    whole = weighted.sum((1, 2), keepdim=True) / (part.sum((1, 2), keepdim=True) + 1)

    # written plane by plane: joining planes of this size would cost as much as all else
    seen = bgr.new_empty((len(bgr), CHANNELS, *size))
    against_near, against_far, *colours_seen, level, where = torch.unbind(seen, dim=1)
    mean, spread = _enlarged(_surroundings(moments[:, :3]), size)
    torch.div(grey - mean, spread + CONTRAST_FLOOR, out=against_near)
    mean, spread, *colour_means = _enlarged(_surroundings(functional.avg_pool2d(moments, far // near)), size)
    torch.div(grey - mean, spread + CONTRAST_FLOOR, out=against_far)
    for colour, colour_mean, out in zip(colours, colour_means, colours_seen, strict=True):
        torch.mul(colour - colour_mean, COLOUR_GAIN, out=out)
    torch.mul(mean - whole, LEVEL_GAIN, out=level)
    seen[:, :-1].mul_(covered).clamp_(-LARGEST, LARGEST)
    where.copy_(part)
    return seen


def _means(planes: Sequence[torch.Tensor], window: int) -> torch.Tensor:
    """Return the means of window x window pixels of each plane (batch, height, width), side by side."""
    return torch.stack([functional.avg_pool2d(plane, window) for plane in planes], dim=1)


def _surroundings(moments: torch.Tensor) -> torch.Tensor:
    """Return mean and spread of grey around each point, and the means of what else there is.

    moments: means of what covers the part, of grey and of its square over it, and of the rest over it.
    """
    down, across = (_bell(length, moments.dtype, moments.device) for length in moments.shape[-2:])
    moments = down @ moments @ across
    means = moments[:, 1:] / (moments[:, :1] + EMPTY)
    spread = (means[:, 1:2] - means[:, :1] ** 2).clamp_min(0).sqrt()
    return torch.cat([means[:, :1], spread, means[:, 2:]], dim=1)


def _enlarged(local: torch.Tensor, size: torch.Size) -> Sequence[torch.Tensor]:
    """Return each channel interpolated, (batch, height, width)."""
    down, across = (
        _interpolation(few, many, local.dtype, local.device) for few, many in zip(local.shape[-2:], size, strict=True)
    )
    return torch.unbind(down @ local @ across.T, dim=1)


# both follow from the size of the picture alone; as products they take a fraction of the time of pooling and resizing
@functools.lru_cache(maxsize=64)
def _bell(length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return what takes means over three boxes, nothing lying beyond the ends: (length, length), symmetric."""
    where = torch.arange(length)
    box = ((where - where[:, None]).abs() <= BOX // 2).double() / BOX
    return (box @ box @ box).to(device, dtype)


@functools.lru_cache(maxsize=64)
def _interpolation(few: int, many: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return what interpolates linearly: (many, few)."""
    wide = functional.interpolate(torch.eye(few, dtype=torch.float64)[None], many, mode="linear")
    return wide[0].T.to(device, dtype).contiguous()


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
