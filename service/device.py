"""Which device computes."""

from __future__ import annotations

import os

import torch

from schemas.settings import ComputeSettings
from service.errors import UsageError


def compute_device(settings: ComputeSettings) -> torch.device:
    """Return the device to judge on, and set how many threads torch takes. Raises UsageError where it is not there."""
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(settings.device)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"compute.device: {settings.device} is not there")
    return device
