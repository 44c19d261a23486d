"""What settings name, opened. Imported late: torch and OpenCV take seconds that `--help` need not spend."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from adapters.frames import decode_image
from schemas.settings import Settings
from service.model.dataset import Decode
from service.model.registry import ModelRegistry


def frame_decoder(settings: Settings) -> Decode:
    """Return what turns image files into pixels: none with more bytes or pixels than the settings allow."""
    images = settings.images
    return Decode(partial(decode_image, max_pixels=images.max_pixels), images.max_bytes)


def registry_of(settings: Settings, store: Path | None) -> ModelRegistry:
    """Return the store that an option names, else that of the settings."""
    return ModelRegistry(store or settings.model.store)
