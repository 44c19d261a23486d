"""The starter embedder with weights: the network that `cangate pretrain` trains, on any device.

It is trained to keep damage apart from a surface's own variety, knows nothing of what things are, and needs no GPU.
docs/starter.md says what is known of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from schemas.recipe import EmbedRecipe
from service.errors import UsageError
from service.pipeline.embed.grid import bounds, cells_inside, resized
from service.pipeline.embed.starter_network import CELL_PX, COARSEST_PX, StarterNetwork, normalize_locally
from service.pipeline.embed.weights import in_half_precision, read_tensors, weights_digest
from service.pipeline.types import FloatArray, Mask, NormalizedRoi, PatchGrid

VERSION = "starter-network-1"
"""Changes whenever the same weights would give other vectors."""
DEFAULT_SIDE = 320
MARGIN_CELLS = 2
"""Around the part; what is farther away is not computed."""


class TrainedStarter:
    """The network with the weights of a file that `cangate pretrain` wrote, or that a package carries."""

    name = "starter"

    def __init__(self, recipe: EmbedRecipe, device: torch.device, weights: Path) -> None:
        side = recipe.input_side or DEFAULT_SIDE
        if side % COARSEST_PX:
            raise UsageError(f"the starter network takes sides that are multiples of {COARSEST_PX} px, not {side}")
        self.input_side = side
        network = _read(weights)
        self._state = in_half_precision(network.state_dict())
        self.dim = network.dim
        self.digest = weights_digest(VERSION, self._state)
        self.weights_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())
        self._device = device
        fused = _fused(network.requires_grad_(requires_grad=False))
        # faster on a CPU by a quarter
        self._network = fused.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the pair

    def state(self) -> dict[str, torch.Tensor]:
        """See `Embedder.state`: in half precision, as trained weights are kept."""
        return self._state

    def embed(self, rois: Sequence[NormalizedRoi]) -> list[PatchGrid]:
        """Return one grid of side / 8 cells a side for each ROI."""
        return [self._embed_one(roi) for roi in rois]

    @torch.inference_mode()
    def _embed_one(self, roi: NormalizedRoi) -> PatchGrid:
        count = self.input_side // CELL_PX
        inside = cells_inside(roi.mask, count, count)
        part = bounds(inside, margin=MARGIN_CELLS, step=COARSEST_PX // CELL_PX)
        pixels = tuple(slice(axis.start * CELL_PX, axis.stop * CELL_PX) for axis in part)
        bgr = np.ascontiguousarray(resized(roi.bgr, self.input_side)[pixels])
        covered = _covered(roi.mask, self.input_side)[pixels]
        picture = torch.from_numpy(bgr).to(self._device).permute(2, 0, 1)[None].float() / 255
        weight = torch.from_numpy(np.ascontiguousarray(covered)).to(self._device)[None, None]
        seen = normalize_locally(picture, weight).contiguous(memory_format=torch.channels_last)
        vectors: FloatArray = self._network(seen)[0].permute(1, 2, 0).cpu().numpy()
        return PatchGrid(np.ascontiguousarray(vectors[inside[part]]), inside)


def _covered(mask: Mask, side: int) -> FloatArray:
    """Return (side, side) float32, 1 where at least half of a pixel lies on the part, and something does."""
    share = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(share >= min(0.5, float(share.max())), np.float32)


def _read(path: Path) -> StarterNetwork:
    """Return the network of a file. Raises UsageError: no such file, or no such network in it."""
    try:
        network = StarterNetwork.of_state(read_tensors(path.read_bytes()))
    except OSError as exc:
        raise UsageError(f"no weights {path} for the starter embedder") from exc
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as exc:
        raise UsageError(f"{path} holds no starter network: {(str(exc) or 'malformed').splitlines()[0]}") from exc
    return network.eval()


def _fused(network: nn.Module) -> nn.Module:
    """Return the network with each batch normalisation folded into the convolution before it."""
    for name, child in network.named_children():
        match list(child.children()):
            case [nn.Conv2d() as convolution, nn.BatchNorm2d() as normalization]:
                setattr(network, name, fuse_conv_bn_eval(convolution, normalization))
            case _:
                _fused(child)
    return network
