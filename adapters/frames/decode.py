"""Bytes in, pixels out: the one place that meets images of anybody's making."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from service.errors import FrameCorrupt, FrameError, FrameRefused, one_line
from service.pipeline.types import BgrImage

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
"""What is decoded; Pillow and OpenCV have many more readers, which need not meet hostile bytes."""

_PLUGINS = (BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin)  # importing them is what registers them

_MAX_HEADER_READS = 50_000
"""Pillow looks at each segment, chunk or tag in Python: a million empty ones cost seconds. A 16 MiB PNG needs 6,000."""

_MAX_SCANS = 40
"""A progressive JPEG decodes the whole frame once a scan. Encoders write about ten; 380 kB can ask for minutes."""

_PNG, _PNG_SIZE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", struct.Struct(">16xIIB")
"""How a PNG begins, and where it then says its size and bits: Pillow tells of a PNG with something behind it only."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323
_ORIENTATION = 274
_BITS, _SAMPLE_FORMAT = 258, 339
_FLOATS = 3
_DEEPEST_BITS = 16
_BLACK, _LOW_BITS = 256, 4096
"""Between them lies a picture of 10 or 12 bits at the bottom of a file of 16: nearly all of it would be black. What is
darker still is as dark as it looks: a lamp that failed, a cap on the lens."""

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked on the header, before anything is decoded
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a broken frame is a verdict, not a page of C++


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file declares; OpenCV sees to the EXIF orientation of the formats that it decodes."""

    width: int
    height: int
    is_jpeg: bool
    orientation: int
    bits: int


def decode_image(data: bytes, *, max_pixels: int) -> BgrImage:
    """Return the image in `data` as (H, W, 3) uint8 BGR, turned upright after its EXIF orientation.

    Grey and 16-bit images are brought to 8-bit colour, an alpha channel is dropped. Pillow reads the header and checks
    the structure, checksums of a PNG included. A JPEG is decoded by libjpeg-turbo itself, the rest by OpenCV.

    What a JPEG decoder stumbles over makes the frame corrupt, harmless or not: it cannot tell a byte too many from a
    hole that was filled with zeros, and OpenCV hides both. A bit that is wrong in a JPEG, and a hole in a BMP or TIFF,
    mostly goes unseen: against these, the event names the sha256 of its image.

    Raises:
        FrameCorrupt: no image, or not a whole one.
        FrameRefused: the header declares more than `max_pixels`, or work out of proportion, and nothing was decoded; or
            16 bits of which only the lower 12 are used.
    """
    if not data:
        raise FrameCorrupt("the image has no bytes")
    header = _check_header(data, max_pixels)
    return _decode_jpeg(data, header) if header.is_jpeg else _decode_other(data, header)


def _decode_jpeg(data: bytes, header: _Header) -> BgrImage:
    room = np.empty((header.height, header.width, 3), np.uint8)  # the decoder makes do with it, or refuses
    try:
        bgr = simplejpeg.decode_jpeg(data, "BGR", buffer=room, strict=True)
    except ValueError as exc:
        raise FrameCorrupt(f"the image is incomplete or damaged: {one_line(exc)}") from exc
    if bgr.shape != room.shape:
        raise FrameCorrupt("the image's header and content disagree about its size")
    return _upright(bgr, header.orientation)


def _decode_other(data: bytes, header: _Header) -> BgrImage:
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise FrameCorrupt(f"not a readable image: {one_line(exc)}") from exc
    if bgr is None:
        raise FrameCorrupt("the image is incomplete or damaged")
    height, width = bgr.shape[:2]
    if (header.width, header.height) not in {(width, height), (height, width)}:  # turned upright
        raise FrameCorrupt("the image's header and content disagree about its size")
    if header.bits > 8 and bgr.max() <= _LOW_BITS >> 8:  # some readers round
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if deep is not None and _BLACK <= deep.max() < _LOW_BITS:
            used = f"16 bits of which only the lower 12 are used (largest {deep.max()} of 65535)"
            raise FrameRefused(f"{used}: deliver the bits at the top")
    return np.ascontiguousarray(bgr, dtype=np.uint8)


def _upright(bgr: BgrImage, orientation: int) -> BgrImage:
    """Return the image as the camera held it (Exif 2.32, 4.6.4 A, Orientation)."""
    if orientation in {5, 6, 7, 8}:
        bgr = np.asarray(cv2.transpose(bgr), np.uint8)
    mirrored = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)  # left-right 1, top-bottom 0, both -1
    if mirrored is not None:
        cv2.flip(bgr, mirrored, dst=bgr)  # in place: to touch new memory takes longer than to turn
    return bgr


def _check_header(data: bytes, max_pixels: int) -> _Header:
    """Return what the file declares. Raises FrameCorrupt or FrameRefused."""
    is_jpeg, orientation, bits = False, 1, 8
    if data.startswith(_PNG) and len(data) >= _PNG_SIZE.size:
        width, height, bits = _PNG_SIZE.unpack_from(data)
        _check_area("an image", width, height, max_pixels)
    try:
        with Image.open(_CountedReads(data), formats=FORMATS) as header:
            width, height = header.size
            _check_area("an image", width, height, max_pixels)
            if isinstance(header, TiffImagePlugin.TiffImageFile):
                # the decoder makes room for a whole tile, however small the image that it is cut to
                tile_width, tile_length = (header.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH))
                _check_area("tiles", tile_width, tile_length, max_pixels)
                bits = _checked_depth(header.tag_v2)
            elif isinstance(header, JpegImagePlugin.JpegImageFile):
                _check_scans(data)
                is_jpeg, orientation = True, _orientation(header)
            header.verify()  # the checksums of a PNG; OpenCV would print its finding to standard error
    except FrameError:
        raise
    except UnidentifiedImageError as exc:
        _check_tiff_depth(data)  # Pillow knows no picture of several channels with so many bits
        raise FrameCorrupt("not a readable image: no JPEG, PNG, BMP or TIFF") from exc
    except Exception as exc:  # Pillow's readers raise whatever they trip over, and bad bytes are no defect of ours
        raise FrameCorrupt(f"not a readable image: {one_line(exc)}") from exc
    return _Header(width, height, is_jpeg, orientation, bits)


def _check_area(what: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise FrameRefused(f"{what} of {width} x {height} pixels, {max_pixels} are allowed")


def _checked_depth(tags: TiffImagePlugin.ImageFileDirectory_v2) -> int:
    """Return the bits of a channel.

    Raises FrameRefused for numbers that say nothing of black and white: floats, and whole ones of 32 bits.
    """
    bits, formats = (tags.get(tag, (1,)) for tag in (_BITS, _SAMPLE_FORMAT))
    if max(bits) > _DEEPEST_BITS or _FLOATS in formats:
        raise FrameRefused(f"unsupported depth: a TIFF of {max(bits)} bits, whole numbers of up to 16 are read")
    return int(max(bits))


def _check_tiff_depth(data: bytes) -> None:
    """Look at the depth of a TIFF that Pillow does not know what to make of."""
    if data[:4] not in TiffImagePlugin.PREFIXES:
        return
    try:
        file = _CountedReads(data)
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        _checked_depth(tags)
    except FrameError:
        raise
    except Exception:  # noqa: BLE001 - as in _check_header: then it is no image
        return


def _check_scans(data: bytes) -> None:
    # in compressed data FF is followed by 00, so that each FF DA is a scan of the image or of a thumbnail
    scans = data.count(b"\xff\xda")
    if scans > _MAX_SCANS:
        raise FrameRefused(f"a JPEG of {scans} scans, {_MAX_SCANS} are allowed")


def _orientation(header: JpegImagePlugin.JpegImageFile) -> int:
    """Return the EXIF orientation; 1, as it lies in the file, where none can be read."""
    exif = Image.Exif()
    try:
        exif.load(header.info.get("exif", b""))
        orientation = exif.get(_ORIENTATION)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):  # Pillow trips over a broken one
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


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
