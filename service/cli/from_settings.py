"""What settings name, opened. Imported late: torch and OpenCV take seconds that `--help` need not spend."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from adapters.frames import decode_image
from schemas.settings import Settings
from service.model.dataset import Decode
from service.model.registry import ModelRegistry


def frame_decoder(settings: Settings) -> Decode:
    """Return what turns image files into pixels, none with more of them than the settings allow."""
    return partial(decode_image, max_pixels=settings.images.max_pixels)


def registry_of(settings: Settings, store: Path | None) -> ModelRegistry:
    """Return the store that an option names, else that of the settings."""
    return ModelRegistry(store or settings.model.store)
