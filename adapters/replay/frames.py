"""Puts frames where the station may read them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from adapters.recordings.writer import picture_format
from schemas.messages import ImageRef
from service.errors import SinkUnavailable, UsageError
from service.replay.player import InFlightPart

_SUFFIXES = {"jpeg": ".jpg", "png": ".png", "bmp": ".bmp", "tiff": ".tiff"}


class FrameFolder:
    """A folder of its own below a root of the station; what is in it is gone at the end. Use with `async with`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder: Path | None = None
        self._files: dict[str, Path] = {}

    async def __aenter__(self) -> Self:
        """Make the folder. Raises UsageError where the root is not there or cannot be written."""
        try:
            self._folder = await asyncio.to_thread(_make_folder, self._root)
        except OSError as exc:
            raise UsageError(
                f"cannot put frames into {self._root}: {exc.strerror}; name another folder of the station"
            ) from exc
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def put(self, in_flight: InFlightPart) -> None:
        """Write the frame of a part; one that had none gets a name that is not there. Raises SinkUnavailable."""
        assert self._folder is not None, "use it with `async with`"
        frame = in_flight.part.frame
        stem = in_flight.event_id.split("/")[1]
        path = self._folder / f"{stem}{_SUFFIXES.get(picture_format(frame or b''), '.bin')}"
        if frame is not None:
            try:
                await asyncio.to_thread(_write, path, frame)
            except OSError as exc:
                raise SinkUnavailable(f"cannot put frames into {self._root}: {exc.strerror}") from exc
        self._files[in_flight.event_id] = path

    def image(self, in_flight: InFlightPart) -> ImageRef:
        """Return where the frame lies."""
        return ImageRef(uri=self._files[in_flight.event_id].as_uri())

    def remove(self, in_flight: InFlightPart) -> None:
        """Remove the frame of a part."""
        path = self._files.pop(in_flight.event_id, None)
        if path is not None:
            path.unlink(missing_ok=True)


def _make_folder(root: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="replay-", dir=root)).resolve()
    folder.chmod(0o755)  # the station may run as somebody else
    return folder


def _write(path: Path, frame: bytes) -> None:
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(frame)
    unfinished.rename(path)
