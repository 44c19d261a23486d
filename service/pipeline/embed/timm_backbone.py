"""Patch embeddings from any timm backbone that offers feature maps, CNN or ViT."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from safetensors import SafetensorError
from timm.data.config import resolve_data_config
from torch import nn
from torch.nn import functional

from schemas.recipe import EmbedRecipe
from service.errors import UsageError, one_line
from service.pipeline.checkpoint import UNREADABLE
from service.pipeline.embed.centres import Cells, centres_of, values_at
from service.pipeline.embed.grid import patch_grid
from service.pipeline.embed.weights import weights_digest
from service.pipeline.resize import resized
from service.pipeline.types import BgrImage, NormalizedRoi, PatchGrid

VERSION = "timm-1"
"""Changes whenever the same weights would give other vectors."""
CENTRED_VERSION = "timm-2"
"""The same of networks whose cells are brought to the middle of their share of the picture."""
SEED = 0x5EED


class TimmEmbedder:
    """Feature maps of a frozen backbone, joined at the finest grid.

    Each layer is pooled over its neighbourhood (PatchCore, arXiv 2106.08265, section 3.1, as an option) and brought to
    unit length, so that no layer outweighs another; the joined vector is of unit length again.

    Everybody takes a cell to stand for its share of the square, and a transformer's does. Convolutions with padding
    look half a cell aside: a network that has them is shown the square with a margin around it, and each layer is taken
    where a cell looks at the middle of its share.
    """

    def __init__(self, recipe: EmbedRecipe, network: nn.Module, side: int, device: torch.device) -> None:
        self.name = recipe.embedder
        config = resolve_data_config({}, model=network)  # type: ignore[no-untyped-call]  # timm is typed in part
        self._mean = torch.tensor(config["mean"], device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(config["std"], device=device).view(1, 3, 1, 1)
        self.input_side = side
        self._pool = recipe.pool
        self._device = device
        # 17-27% faster on convolutional networks, nothing lost on the others
        self._network = network.eval().requires_grad_(requires_grad=False)
        self._network = self._network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the pair
        self._channels: list[int] = network.feature_info.channels()  # type: ignore[union-attr,operator]  # timm's own attribute
        self.dim = sum(self._channels)
        self._margin, self._places = self._centred()
        self.digest = weights_digest(CENTRED_VERSION if self._places else VERSION, network.state_dict())
        self.weights_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())

    @classmethod
    def from_recipe(cls, recipe: EmbedRecipe, device: torch.device, packed: Path | None = None) -> TimmEmbedder:
        """Build the backbone with its weights from `packed`, else from `recipe.weights`, else from the hub.

        Raises UsageError: unknown backbone, weights that are missing, unreadable or not this backbone's, an input side
        that does not fit, or a layer that does not exist.
        """
        backbone = recipe.embedder.removeprefix("timm:")
        if not timm.is_model(backbone):
            raise UsageError(f"timm knows no backbone {backbone!r}")
        checkpoint = packed or (Path(recipe.weights) if recipe.weights else None)
        if checkpoint is not None and not checkpoint.is_file():
            raise UsageError(f"no checkpoint {checkpoint} for {backbone}")
        with _loading(backbone, checkpoint), torch.random.fork_rng(devices=[]):
            network = _unpacked(recipe, packed) if packed else _pretrained(recipe, checkpoint)
        config = resolve_data_config({}, model=network)  # type: ignore[no-untyped-call]  # timm is typed in part
        step = _step_px(network)
        side = recipe.input_side or int(config["input_size"][-1]) // step * step
        if side % step:
            nearest = max(1, side // step) * step
            raise UsageError(f"{backbone} takes sides that are multiples of {step} px, such as {nearest}, not {side}")
        try:  # now, not on the first part
            return cls(recipe, network, side, device)
        except (RuntimeError, AssertionError, ValueError) as exc:
            raise UsageError(f"{backbone} takes no input of {side} px: {one_line(exc)}") from exc

    @torch.inference_mode()
    def embed(self, rois: Sequence[NormalizedRoi]) -> list[PatchGrid]:
        """Return one grid for each ROI. Vectors are computed in float32."""
        if not rois:
            return []
        images = np.stack([self._shown(roi.bgr)[..., ::-1] for roi in rois])
        features = self._features(torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2))
        return [patch_grid(each, roi.mask) for each, roi in zip(features, rois, strict=True)]

    def state(self) -> dict[str, torch.Tensor]:
        """See `Embedder.state`."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self._network.state_dict().items()}

    def _shown(self, bgr: BgrImage) -> BgrImage:
        """Return a square (S, S, 3) uint8 as the network sees it."""
        square = resized(bgr, (self.input_side, self.input_side))
        if not any(self._margin):
            return square
        before, behind = self._margin
        return np.asarray(cv2.copyMakeBorder(square, before, behind, before, behind, cv2.BORDER_REPLICATE), np.uint8)

    def _features(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the joined layers (batch, dim, rows, cols): rgb (batch, 3, side, side) uint8, as it is shown."""
        layers = self._layers(rgb)
        if self._places:
            return torch.cat(
                [values_at(layer, places) for layer, places in zip(layers, self._places, strict=True)], dim=1
            )
        rows, cols = max((layer.shape[-2:] for layer in layers), key=lambda shape: shape[0])
        return torch.cat(
            [
                layer
                if layer.shape[-2:] == (rows, cols)
                else functional.interpolate(layer, (rows, cols), mode="bilinear", align_corners=False)
                for layer in layers
            ],
            dim=1,
        )

    def _layers(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        """Return the layers (batch, channels, rows, cols), of unit length, each at its own size."""
        normalized = (rgb.float() / 255 - self._mean) / self._std
        layers: list[torch.Tensor] = []
        for layer, channels in zip(self._network(normalized), self._channels, strict=True):
            # Swin and its kin keep channels last
            chw = layer if layer.shape[1] == channels else layer.permute(0, 3, 1, 2)
            if self._pool > 1:
                chw = functional.avg_pool2d(chw, self._pool, stride=1, padding=self._pool // 2, count_include_pad=False)
            layers.append(functional.normalize(chw, dim=1))
        return layers

    @torch.inference_mode()
    def _centred(self) -> tuple[tuple[int, int], list[torch.Tensor]]:
        """Return what brings each cell to the middle of its share; nothing where the cells look there by themselves.

        Returns:
            margin: pixels around the square, before and behind it. places: for each layer where its values are taken,
            as (rows,) float32 indices of the grid that the network makes of square and margin.

        Raises:
            ValueError: the cells do not share the square evenly.
        """
        side = self.input_side
        square = torch.zeros((1, 3, side, side), dtype=torch.uint8, device=self._device)
        layers: list[torch.Tensor] = []
        centres = centres_of(self._network, side, lambda: layers.extend(self._layers(square)))
        cells = []
        for rows in (layer.shape[-2] for layer in layers):
            step = side / rows
            cells.append(centres.get(rows, Cells((step - 1) / 2, step)))
            if cells[-1].step != step:
                raise ValueError(f"its {rows} cells a side do not share them evenly")
        if all(abs(layer.ahead) < 1 for layer in cells):  # half a pixel of the input is none of the frame
            return (0, 0), []
        finest = min(cells, key=lambda layer: layer.step)
        # the first cell that looks at the middle of a share, or beyond it, once there is room before the square
        skipped = 1 if finest.ahead <= -1 else 0
        before = int(max(0.0, finest.ahead + skipped * finest.step))
        # a whole number of the coarsest cells: where a network pads depends on what is left over
        behind = max(int(layer.step) for layer in cells) - before if before else 0
        looks_at = finest.first + finest.step * (skipped + torch.arange(side / finest.step))
        return (before, behind), [((looks_at - layer.first) / layer.step).to(self._device) for layer in cells]


def _network(recipe: EmbedRecipe, *, pretrained: bool, overlay: dict[str, str | bool]) -> nn.Module:
    """Build the network with `features_only`, with weights or at its random start, which is the same each time."""
    # ViTs are built for one input size, and resample their position embedding; CNNs know no such argument
    attempts: tuple[dict[str, int], ...] = ({"img_size": recipe.input_side}, {}) if recipe.input_side else ({},)
    for attempt, size in enumerate(attempts):
        torch.manual_seed(SEED)
        try:
            network: nn.Module = timm.create_model(
                recipe.embedder.removeprefix("timm:"),
                pretrained=pretrained,
                features_only=True,
                out_indices=recipe.layers or (-1,),
                pretrained_cfg_overlay=overlay,
                **size,  # type: ignore[arg-type]  # keyword arguments of the backbone, which timm cannot type
            )
        except TypeError:
            if attempt + 1 == len(attempts):
                raise
        else:
            return network
    raise AssertionError("unreachable")


def _unpacked(recipe: EmbedRecipe, packed: Path) -> nn.Module:
    """Return the network with the very tensors that `TimmEmbedder.state` gave."""
    network = _network(recipe, pretrained=False, overlay={})
    network.load_state_dict(timm.models.load_state_dict(str(packed), use_ema=False))
    return network


def _pretrained(recipe: EmbedRecipe, checkpoint: Path | None) -> nn.Module:
    """Return the network with published weights, and refuse such as leave part of it at its random start."""
    overlay: dict[str, str | bool] = {} if checkpoint is None else {"file": str(checkpoint), "custom_load": False}
    network = _network(recipe, pretrained=True, overlay=overlay)
    start = _network(recipe, pretrained=False, overlay=overlay).state_dict()
    # timm loads feature networks leniently: what a foreign checkpoint does not fill keeps its random start in silence
    untouched = [
        name
        for name, value in network.state_dict().items()
        if value.numel() > 1 and value.min() < value.max() and torch.equal(value, start[name])
    ]
    if untouched:
        raise UsageError(
            f"{checkpoint or 'hub weights'} lack {len(untouched)} tensors of "
            f"{recipe.embedder.removeprefix('timm:')}, e.g. {untouched[0]}"
        )
    return network


@contextlib.contextmanager
def _loading(backbone: str, checkpoint: Path | None) -> Iterator[None]:
    """Map what timm, torch and the hub raise while building a network to one line, and keep them from printing more."""
    loggers = [(logger, logger.level) for logger in map(logging.getLogger, ("timm", "huggingface_hub"))]
    for logger, _ in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a format that is none
            yield
    except (OSError, SafetensorError, *UNREADABLE) as exc:
        source = (
            f"checkpoint {checkpoint}" if checkpoint else "the hub (name a local checkpoint where there is no network)"
        )
        raise UsageError(f"cannot build {backbone} from {source}: {one_line(exc)}") from exc
    finally:
        for logger, level in loggers:
            logger.setLevel(level)


def _step_px(network: nn.Module) -> int:
    """Return what a side must be a multiple of: the step of the coarsest layer, which is a transformer's patch."""
    return max(int(step) for step in network.feature_info.reduction())  # type: ignore[union-attr,operator]  # timm's own attribute
