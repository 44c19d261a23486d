"""What settings name, opened."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.frames import decode_image
from schemas.settings import Settings
from service.model.dataset import Decode
from service.model.registry import ModelRegistry

if TYPE_CHECKING:
    import torch


def frame_decoder(settings: Settings) -> Decode:
    """Return what turns image files into pixels: none with more bytes or pixels than the settings allow."""
    images = settings.images
    return Decode(partial(decode_image, max_pixels=images.max_pixels), images.max_bytes)


def registry_of(settings: Settings, store: Path | None) -> ModelRegistry:
    """Return the store that an option names, else that of the settings."""
    return ModelRegistry(store or settings.model.store)


def device_of(settings: Settings) -> torch.device:
    """Return the device to compute on, ready as `compute_device` makes it. Raises UsageError where it is not there."""
    # torch takes seconds that neither `--help` nor a mistake must wait for
    from service.device import compute_device  # noqa: PLC0415

    return compute_device(settings.compute)
