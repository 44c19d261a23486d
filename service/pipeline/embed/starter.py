"""The starter embedder: a small network that ships with the service, beside a bank of filters.

The network is trained by `cangate pretrain` to keep damage apart from a surface's own variety; the filters see exactly
what changed where parts resemble each other. Neither knows what things are, and neither needs a GPU. A patch is far
from the bank where the two together are. docs/starter.md is the model card.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from schemas.recipe import EmbedRecipe
from service.errors import UsageError, one_line
from service.pipeline.embed import filters
from service.pipeline.embed.grid import COARSEST_PX, Cut, cut_out
from service.pipeline.embed.starter_network import StarterNetwork, normalize_locally
from service.pipeline.embed.weights import in_half_precision, read_tensors, weights_digest
from service.pipeline.types import FloatArray, NormalizedRoi, PatchGrid

VERSION: Final = "starter-4"
"""Changes whenever the same weights would give other vectors."""
WEIGHTS: Final = Path(__file__).with_name("starter.safetensors")
WEIGHTS_SHA256: Final = "2981fc29c73dea37fa15c19579bc80bc515a6e6e130369e16399d23196f20b10"
DEFAULT_SIDE: Final = 320


class StarterEmbedder:
    """Filters and network with an equal say, in one unit vector for 8 x 8 pixels.

    Args:
        recipe: side of the input; other weights than those that ship.
        device: where the network computes; the filters stay on the CPU.
        packed: the weights that a package carries.
    """

    name = "starter"

    def __init__(self, recipe: EmbedRecipe, device: torch.device, packed: Path | None = None) -> None:
        self.input_side = recipe.input_side or DEFAULT_SIDE
        if self.input_side % COARSEST_PX:
            raise UsageError(f"the starter takes sides that are multiples of {COARSEST_PX} px, not {self.input_side}")
        network = read_network(packed or (Path(recipe.weights) if recipe.weights else WEIGHTS))
        self._state = in_half_precision(network.state_dict())
        self.dim = network.dim + filters.DIM
        self.digest = weights_digest(f"{VERSION} {filters.VERSION}", self._state)
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
        cuts = [cut_out(roi, self.input_side) for roi in rois]
        return [cut.grid(self._vectors(cut)) for cut in cuts]

    def _vectors(self, cut: Cut) -> FloatArray:
        both = np.concatenate([filters.filter_vectors(cut), self._seen_by_network(cut)], axis=2)
        return np.asarray(both * np.float32(np.sqrt(0.5)), np.float32)

    @torch.inference_mode()
    def _seen_by_network(self, cut: Cut) -> FloatArray:
        picture = torch.from_numpy(cut.bgr).to(self._device).permute(2, 0, 1)[None].float() / 255
        # a pixel lies on the part where half of it does; something always does
        on_part = (cut.covered >= min(0.5, float(cut.covered.max()))).astype(np.float32)
        weight = torch.from_numpy(on_part).to(self._device)[None, None]
        seen = normalize_locally(picture, weight).contiguous(memory_format=torch.channels_last)
        vectors: FloatArray = self._network(seen)[0].permute(1, 2, 0).cpu().numpy()
        return vectors


def read_network(path: Path) -> StarterNetwork:
    """Return the network of a file. Raises UsageError: no such file, or no such network in it."""
    try:
        content = path.read_bytes()
        if path == WEIGHTS and hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256:
            raise UsageError(f"{path} is not what was installed; install cangate again")
        network = StarterNetwork.of_state(read_tensors(content))
    except OSError as exc:
        raise UsageError(f"no weights {path} for the starter embedder") from exc
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as exc:
        raise UsageError(f"{path} holds no starter network: {one_line(exc)}") from exc
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
