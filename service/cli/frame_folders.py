"""Folders of frames, as options and arguments name them."""

from __future__ import annotations

from pathlib import Path

from service.cli.common import say
from service.errors import UsageError
from service.model.dataset import FrameSet, list_frames


def listed_frames(folder: Path) -> FrameSet:
    """Return the pictures in a folder. Raises UsageError where there are none."""
    found = list_frames(folder)
    if not found.frames:
        raise UsageError(f"no pictures in {folder}")
    return found


def tell_ignored(*sets: FrameSet) -> None:
    """Name the files that are no pictures: a slip in a suffix must not go unseen."""
    for found in sets:
        if found.ignored:
            say(f"passed over, no pictures by their name: {', '.join(found.ignored)}")
