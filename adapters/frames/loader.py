"""From what an event says of its image to a frame."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from adapters.frames.decode import decode_image
from adapters.frames.folders import RootFolders
from adapters.frames.hosts import ImageHosts
from schemas.messages import ImageRef
from schemas.settings import ImageSettings
from service.errors import FrameMissing, FrameRefused
from service.pipeline.types import Frame
from service.text import one_line


class AllowListedFrames:
    """Loads frames that came with their event, lie under an allowed root, or on an allowed http host."""

    def __init__(self, settings: ImageSettings) -> None:
        self._max_bytes = settings.max_bytes
        self._max_pixels = settings.max_pixels
        self._folders = RootFolders(settings.roots)
        self._hosts = ImageHosts(settings)

    @classmethod
    def for_inline(cls, settings: ImageSettings) -> Self:
        """Return what loads only frames that came with their event: no folder and no host is asked."""
        return cls(settings.model_copy(update={"roots": (), "http_hosts": (), "http_ca_file": None}))

    def load(self, image: ImageRef | None, frame_bytes: bytes | None, *, until: float = math.inf) -> Frame:
        """Return the decoded frame. Raises FrameMissing, FrameCorrupt or FrameRefused.

        until: when nobody waits for it any more, on the monotonic clock. A host that is silent holds this thread no
        longer: others wait for it.
        """
        encoded = self.fetch(image, frame_bytes, until=until)
        bgr = decode_image(encoded, max_pixels=self._max_pixels)
        return Frame(bgr=bgr, uri=None if image is None else image.uri, encoded=encoded)

    def fetch(self, image: ImageRef | None, frame_bytes: bytes | None, *, until: float = math.inf) -> bytes:
        """Return the image file, not looked at yet; `until` as above. Raises FrameMissing or FrameRefused."""
        if frame_bytes is not None:
            encoded = frame_bytes
        elif image is not None:
            encoded = self._fetch(image.uri, until)
        else:
            raise FrameMissing("the event names no image")
        if len(encoded) > self._max_bytes:
            raise FrameRefused(f"the image is larger than {self._max_bytes} bytes")
        if image is not None and image.sha256 is not None:
            digest = hashlib.sha256(encoded).hexdigest()
            if digest != image.sha256.lower():
                raise FrameRefused("the image does not have the sha256 that the event names")
        return encoded

    def _fetch(self, uri: str, until: float) -> bytes:
        try:
            parts = urlsplit(uri)
        except ValueError as exc:
            raise FrameRefused(f"unusable image uri: {one_line(exc)}") from exc
        if parts.scheme in ("http", "https"):
            return self._hosts.fetch(uri, until=until)
        if parts.scheme == "file" and parts.netloc in ("", "localhost") and not (parts.query or parts.fragment):
            return self._folders.read(Path(unquote(parts.path)), max_bytes=self._max_bytes)
        if parts.scheme == "" and not parts.netloc:
            return self._folders.read(Path(uri), max_bytes=self._max_bytes)
        raise FrameRefused("the image uri is neither a local file nor http")
