"""Fetches frames from allow-listed places and decodes them, hostile ones included."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cv2
import httpx
import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from schemas.messages import ImageRef
from schemas.settings import ImageSettings
from service.errors import FrameCorrupt, FrameMissing, FrameRefused, UsageError
from service.pipeline.types import BgrImage, Frame

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
"""What is decoded; Pillow has many more readers, which need not meet hostile bytes."""

_PLUGINS = (BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin)  # importing them is what registers them

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked on the header, before anything is decoded


def decode_image(data: bytes, *, max_pixels: int) -> BgrImage:
    """Return the image in `data` as (H, W, 3) uint8 BGR, turned upright after its EXIF orientation.

    Grey and 16-bit images are brought to 8-bit colour, an alpha channel is dropped. Pillow reads the header and checks
    the structure, OpenCV decodes (three times as fast).

    Raises:
        FrameCorrupt: no image, or not a whole one.
        FrameRefused: the header declares more than `max_pixels`; nothing was decoded.
    """
    if not data:
        raise FrameCorrupt("the image has no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            width, height = header.size
            if width * height > max_pixels:
                raise FrameRefused(f"{width} x {height} pixels exceed the limit of {max_pixels}")
            header.verify()  # the checksums of a PNG; OpenCV would print its finding to standard error
    except UnidentifiedImageError as exc:
        raise FrameCorrupt("not a readable image: no JPEG, PNG, BMP or TIFF") from exc
    except (OSError, SyntaxError, ValueError) as exc:  # Pillow: SyntaxError for a broken PNG
        raise FrameCorrupt(f"not a readable image: {_one_line(exc)}") from exc
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise FrameCorrupt(f"not a readable image: {_one_line(exc)}") from exc
    if bgr is None:
        raise FrameCorrupt("the image is incomplete or damaged")
    return np.ascontiguousarray(bgr, dtype=np.uint8)


class AllowListedFrames:
    """Loads frames that came with their event, lie under an allowed root, or on an allowed http host."""

    def __init__(self, settings: ImageSettings) -> None:
        self._settings = settings
        self._roots = tuple(root.resolve() for root in settings.roots)
        for given, root in zip(settings.roots, self._roots, strict=True):
            if not root.is_dir():
                raise UsageError(f"images.roots: {given} is not a directory")

    def load(self, image: ImageRef | None, frame_bytes: bytes | None) -> Frame:
        """Return the decoded frame. Raises FrameMissing, FrameCorrupt or FrameRefused."""
        if frame_bytes is not None:
            data = self._bounded(frame_bytes)
        elif image is not None:
            data = self._fetch(image.uri)
        else:
            raise FrameMissing("the event names no image")
        if image is not None and image.sha256 is not None and hashlib.sha256(data).hexdigest() != image.sha256.lower():
            raise FrameRefused("the image does not have the sha256 that the event names")
        bgr = decode_image(data, max_pixels=self._settings.max_pixels)
        return Frame(bgr=bgr, uri=None if image is None else image.uri)

    def _bounded(self, data: bytes) -> bytes:
        if len(data) > self._settings.max_bytes:
            raise FrameRefused(f"the image is larger than {self._settings.max_bytes} bytes")
        return data

    def _fetch(self, uri: str) -> bytes:
        try:
            parts = urlsplit(uri)
        except ValueError as exc:
            raise FrameRefused(f"unusable image uri: {_one_line(exc)}") from exc
        if parts.scheme in ("http", "https"):
            return self._fetch_http(uri, parts.netloc, parts.hostname)
        if parts.scheme == "file" and parts.netloc in ("", "localhost") and not (parts.query or parts.fragment):
            return self._read(Path(unquote(parts.path)))
        if parts.scheme == "" and not parts.netloc:
            return self._read(Path(uri))
        raise FrameRefused("the image uri is neither a local file nor http")

    def _read(self, path: Path) -> bytes:
        try:
            resolved = path.resolve()
        except (OSError, ValueError, RuntimeError) as exc:  # NUL bytes, names too long, link loops
            raise FrameRefused(f"unusable image path: {_one_line(exc)}") from exc
        if not any(resolved.is_relative_to(root) for root in self._roots):
            raise FrameRefused("the image lies outside the allowed roots")
        try:
            # O_NONBLOCK: a named pipe must not hold a worker; O_NOFOLLOW: links were resolved above
            descriptor = os.open(resolved, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise FrameMissing("the image does not exist") from exc
        except OSError as exc:
            raise FrameMissing(f"the image cannot be opened: {exc.strerror}") from exc
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FrameRefused("the image is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                return self._bounded(file.read(self._settings.max_bytes + 1))
        finally:
            os.close(descriptor)

    def _fetch_http(self, uri: str, netloc: str, hostname: str | None) -> bytes:
        if netloc not in self._settings.http_hosts and hostname not in self._settings.http_hosts:
            raise FrameRefused("the image lies on a host that is not allowed")
        give_up = time.monotonic() + self._settings.http_timeout_s
        try:
            with (
                httpx.Client(timeout=self._settings.http_timeout_s, follow_redirects=False, trust_env=False) as client,
                client.stream("GET", uri) as response,
            ):
                if response.is_redirect:
                    raise FrameRefused("the image's host answered with a redirect")
                if not response.is_success:
                    raise FrameMissing(f"the image's host answered {response.status_code}")
                data = bytearray()
                for chunk in response.iter_bytes():
                    data += chunk
                    if len(data) > self._settings.max_bytes:
                        break
                    if time.monotonic() > give_up:
                        raise FrameMissing(f"the image took longer than {self._settings.http_timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise FrameMissing(f"the image could not be fetched: {type(exc).__name__}") from exc
        return self._bounded(bytes(data))


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200]
