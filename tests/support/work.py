"""Pieces of work for a fresh process, which finds them by their module."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from service.errors import PackageRefused
from service.evaluation.fresh_process import peak_memory_bytes
from service.pipeline.types import StageProgress


def count_to(total: int, progress: StageProgress) -> tuple[int, int]:
    """Count, and return the total with the id of the process."""
    for done in range(1, total + 1):
        progress("counting", done, total)
    return total, os.getpid()


def refuse(_progress: StageProgress) -> None:
    raise PackageRefused("model bars@1: golden frame is no picture")


def divide(_progress: StageProgress) -> float:
    return 1 / 0


def be_killed(progress: StageProgress) -> None:
    progress("dying", 1, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_progress: StageProgress) -> None:
    os._exit(3)


def take_memory(size: int, _progress: StageProgress) -> tuple[int | None, int | None]:
    """Return the peak before and after `size` bytes were in use."""
    before = peak_memory_bytes()
    block = os.urandom(1) * size
    del block
    return before, peak_memory_bytes()


def go_on(pid_file: Path, progress: StageProgress) -> None:
    """Work until somebody ends it."""
    pid_file.write_text(str(os.getpid()))
    while True:
        progress("working", 1, 2)
        time.sleep(0.01)
