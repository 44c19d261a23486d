"""Which device computes, and on how many threads."""

from __future__ import annotations

import os

import cv2
import torch
from threadpoolctl import threadpool_limits

from schemas.settings import ComputeSettings
from service.errors import UsageError
from service.threads import share_interpreter

_DEVICES = "device to compute on: give 'cpu', 'cuda' or 'cuda:N'"


def compute_device(settings: ComputeSettings, *, stations: int = 1) -> torch.device:
    """Return the device to judge on, and set the threads of torch, OpenCV and BLAS and how they share the interpreter.

    By default the cores are divided among the `stations` of the process, and one is left to the event loop: threads
    that wait in a spin for their next piece of work took it from the gate, and two of them were slower than one on two
    cores. Raises UsageError where the device is not there.
    """
    threads = settings.threads or max(1, ((os.cpu_count() or 1) - 1) // stations)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    threadpool_limits(threads)
    share_interpreter()
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return present_device(settings.device)
    except UsageError as exc:
        raise UsageError(f"compute.device: {exc}") from exc


def present_device(named: torch.device | str) -> torch.device:
    """Return the device of this name. Raises UsageError where it is not there, or nothing that we compute on."""
    try:
        device = torch.device(named)
    except (RuntimeError, TypeError) as exc:  # no such word, or no word
        raise UsageError(f"{named!r} is no {_DEVICES}") from exc
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"{named!r} is no {_DEVICES}")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UsageError(f"{device} is not there; GPUs that torch can use: {gpus}")
    return device


def release_memory() -> None:
    """Give back device memory that nothing uses: what is left after a batch that did not fit."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
