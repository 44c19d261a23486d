"""Bytes in, pixels out: the one place that meets images of anybody's making."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from service.errors import FrameCorrupt, FrameError, FrameRefused
from service.pipeline.types import BgrImage

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
"""What is decoded; Pillow and OpenCV have many more readers, which need not meet hostile bytes."""

_PLUGINS = (BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin)  # importing them is what registers them

_MAX_HEADER_READS = 50_000
"""Pillow looks at each segment, chunk or tag in Python: a million empty ones cost seconds. A 16 MiB PNG needs 6,000."""

_MAX_SCANS = 40
"""A progressive JPEG decodes the whole frame once a scan. Encoders write about ten; 380 kB can ask for minutes."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked on the header, before anything is decoded
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a broken frame is a verdict, not a page of C++


def decode_image(data: bytes, *, max_pixels: int) -> BgrImage:
    """Return the image in `data` as (H, W, 3) uint8 BGR, turned upright after its EXIF orientation.

    Grey and 16-bit images are brought to 8-bit colour, an alpha channel is dropped. Pillow reads the header and checks
    the structure, OpenCV decodes (three times as fast).

    Raises:
        FrameCorrupt: no image, or not a whole one.
        FrameRefused: the header declares more than `max_pixels`, or work out of proportion; nothing was decoded.
    """
    if not data:
        raise FrameCorrupt("the image has no bytes")
    declared_wh = _check_header(data, max_pixels)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise FrameCorrupt(f"not a readable image: {one_line(exc)}") from exc
    if bgr is None:
        raise FrameCorrupt("the image is incomplete or damaged")
    height, width = bgr.shape[:2]
    if declared_wh not in {(width, height), (height, width)}:  # turned upright
        raise FrameCorrupt("the image's header and content disagree about its size")
    return np.ascontiguousarray(bgr, dtype=np.uint8)


def one_line(exc: Exception) -> str:
    """Return what `exc` says, fit for a verdict's detail."""
    return " ".join(str(exc).split())[:200]


def _check_header(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Return the declared width and height. Raises FrameCorrupt or FrameRefused."""
    try:
        with Image.open(_CountedReads(data), formats=FORMATS) as header:
            width, height = header.size
            _check_area("an image", width, height, max_pixels)
            if isinstance(header, TiffImagePlugin.TiffImageFile):
                # the decoder makes room for a whole tile, however small the image that it is cut to
                tile_width, tile_length = (header.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH))
                _check_area("tiles", tile_width, tile_length, max_pixels)
            elif isinstance(header, JpegImagePlugin.JpegImageFile):
                _check_scans(data)
            header.verify()  # the checksums of a PNG; OpenCV would print its finding to standard error
    except FrameError:
        raise
    except UnidentifiedImageError as exc:
        raise FrameCorrupt("not a readable image: no JPEG, PNG, BMP or TIFF") from exc
    except Exception as exc:  # Pillow's readers raise whatever they trip over, and bad bytes are no defect of ours
        raise FrameCorrupt(f"not a readable image: {one_line(exc)}") from exc
    return width, height


def _check_area(what: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise FrameRefused(f"{what} of {width} x {height} pixels, {max_pixels} are allowed")


def _check_scans(data: bytes) -> None:
    # in compressed data FF is followed by 00, so that each FF DA is a scan of the image or of a thumbnail
    scans = data.count(b"\xff\xda")
    if scans > _MAX_SCANS:
        raise FrameRefused(f"a JPEG of {scans} scans, {_MAX_SCANS} are allowed")


class _CountedReads(io.BytesIO):
    """Bytes that may be read a bounded number of times."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _MAX_HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like any file. Raises FrameRefused where that was done too often."""
        self._left -= 1
        if self._left < 0:
            raise FrameRefused("the image's header is in too many pieces")
        return super().read(size)
