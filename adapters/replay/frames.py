"""Puts frames where the station may read them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from adapters.recordings.writer import picture_format
from schemas.messages import ImageRef
from service.errors import UsageError
from service.replay.player import InFlightPart

_SUFFIXES = {"jpeg": ".jpg", "png": ".png", "bmp": ".bmp", "tiff": ".tiff"}


class FrameFolder:
    """A folder of its own below a root of the station; what is in it is gone at the end.

    Raises:
        UsageError: the root is not there or cannot be written.
    """

    def __init__(self, root: Path) -> None:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="replay-", dir=root)).resolve()
            self._folder.chmod(0o755)  # the station may run as somebody else
        except OSError as exc:
            raise UsageError(
                f"cannot put frames into {root}: {exc.strerror}; name another folder of the station"
            ) from exc
        self._files: dict[str, Path] = {}

    def put(self, in_flight: InFlightPart) -> None:
        """Write the frame of a part; one that had none gets a name that is not there."""
        frame = in_flight.part.frame
        stem = in_flight.event_id.split("/")[1]
        path = self._folder / f"{stem}{_SUFFIXES.get(picture_format(frame or b''), '.bin')}"
        if frame is not None:
            unfinished = path.with_suffix(".part")
            unfinished.write_bytes(frame)
            unfinished.rename(path)
        self._files[in_flight.event_id] = path

    def image(self, in_flight: InFlightPart) -> ImageRef:
        """Return where the frame lies."""
        return ImageRef(uri=self._files[in_flight.event_id].as_uri())

    def remove(self, in_flight: InFlightPart) -> None:
        """Remove the frame of a part."""
        path = self._files.pop(in_flight.event_id, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._folder, ignore_errors=True)
