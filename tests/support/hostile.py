"""Hostile input by the dozen: images, references and messages, each with the outcome that it must have."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from schemas.messages import Reason

CORRUPT, MISSING, REFUSED = Reason.FRAME_CORRUPT, Reason.FRAME_MISSING, Reason.FRAME_REFUSED

MAX_BYTES = 2_000_000
MAX_PIXELS = 1_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where hostile input is laid out: an allowed root with `a.png` in it, its forbidden parent, a hostile host."""

    root: Path
    host: str

    def put(self, content: bytes, name: str = "strange") -> str:
        """Write a file below the root and return its uri."""
        path = self.root / name
        path.write_bytes(content)
        return path.as_uri()


@dataclass(frozen=True, slots=True)
class HostileImage:
    """A reference to an image, and the reason of the ERROR that it must end in."""

    name: str
    uri: Callable[[Place], str]
    reason: Reason
    sha256: str | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class HostileMessage:
    """A payload on `image-ready`: `event_id` gets an ERROR with `frame_refused`, or it is counted as `counted`."""

    name: str
    payload: bytes
    event_id: str | None = None
    counted: str | None = None

    def __str__(self) -> str:
        return self.name


PIXELS = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def encoded(extension: str = ".png") -> bytes:
    """Return a small image that is whole."""
    return bytes(cv2.imencode(extension, PIXELS)[1].tobytes())


def png(*chunks: tuple[bytes, bytes], width: int = 16, height: int = 16, good_checksums: bool = True) -> bytes:
    """Return a PNG of these chunks behind a header; checksums are right unless said otherwise."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pieces = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in (header, *chunks):
        checksum = zlib.crc32(kind + body) ^ (not good_checksums and kind == b"IDAT")
        pieces.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum))
    return b"".join(pieces)


PROGRESSIVE = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)

PNG_BODY = (b"IDAT", zlib.compress(bytes(49 * 16)))
PNG_END = (b"IEND", b"")


def tiff(*, width: int = 16, height: int = 16, **tags: int) -> bytes:
    """Return a little-endian TIFF with 1 kB of zeros for pixels; `tags` as t322=..., t323=..."""
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 256}
    entries |= {int(tag[1:]): value for tag, value in tags.items()}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4 + 1024)


def jpeg(*, progressive: bool = False, side: int = 16) -> bytes:
    """Return a grey JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 150)).save(buffer, "JPEG", progressive=progressive)
    return buffer.getvalue()


PAGE = 4096
"""Bytes that a disk or a network drive loses at a time, and gives back as zeros."""


def large(extension: str = ".jpg", *parameters: int) -> bytes:
    """Return an image of many pages that is whole; `parameters` as OpenCV's writer takes them."""
    pixels = np.random.default_rng(2).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    return bytes(cv2.imencode(extension, pixels, parameters)[1].tobytes())


def without_page(whole: bytes, page: int) -> bytes:
    """Return `whole` with zeros for one of its pages."""
    at = page * PAGE
    return whole[:at] + bytes(len(whole[at : at + PAGE])) + whole[at + PAGE :]


def cut(jpeg: bytes, at: int) -> bytes:
    """Return the beginning of a JPEG, ended as if it were whole."""
    return jpeg[:at] + b"\xff\xd9"


def with_bytes_flipped(whole: bytes, at: int, count: int) -> bytes:
    """Return `whole` with `count` bytes inverted."""
    flipped = bytes(byte ^ 0xFF for byte in whole[at : at + count])
    return whole[:at] + flipped + whole[at + count :]


def jpeg_of_many_scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again: each costs a pass over the whole frame."""
    whole = jpeg(progressive=True, side=512)
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + last * count + b"\xff\xd9"


def jpeg_said_to_be(width: int, height: int) -> bytes:
    """Return a small JPEG whose header declares another size."""
    whole = bytearray(jpeg())
    at = whole.find(b"\xff\xc0")
    whole[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


def jpeg_of_two_headers() -> bytes:
    """Return a small JPEG with a second, huge header in front of the first."""
    whole, huge = jpeg(), jpeg_said_to_be(60_000, 60_000)
    at, end = whole.find(b"\xff\xc0"), whole.find(b"\xff\xc4", whole.find(b"\xff\xc0"))
    return whole[:at] + huge[at:end] + whole[at:]


def gif(width: int, height: int) -> bytes:
    """Return the header of a GIF."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(50)


def webp(width: int, height: int) -> bytes:
    """Return the header of an extended WebP."""
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (width - 1).to_bytes(3, "little")
    body += (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg2000(width: int, height: int) -> bytes:
    """Return the header of a JPEG 2000 codestream."""
    size = struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, width, height, 0, 0, 1) + b"\x07\x01\x01"
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size + bytes(50)


def bmp(width: int, height: int, *, header: int = 40) -> bytes:
    """Return a BMP without enough pixels."""
    return b"BM" + struct.pack("<IHHIIiiHHIIIIII", 1078, 0, 0, 54, header, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _images() -> Iterator[HostileImage]:
    whole, big = encoded(), 60_000
    contents: dict[str, tuple[bytes, Reason]] = {
        "no bytes": (b"", CORRUPT),
        "one byte": (b"\0", CORRUPT),
        "text": (b"I am no image", CORRUPT),
        "a page": (b"<!doctype html><script>alert(1)</script>", CORRUPT),
        "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg' width='60000' height='60000'/>", CORRUPT),
        "a program": (b"\x7fELF" + bytes(500), CORRUPT),
        "a pickle": (b"\x80\x04cos\nsystem\n(S'id'\ntR.", CORRUPT),
        "an archive": (b"PK\x03\x04" + bytes(200), CORRUPT),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60000 60000\n", CORRUPT),
        "PNG bomb": (png((b"IDAT", zlib.compress(bytes(1000))), PNG_END, width=big, height=big), REFUSED),
        "PNG bomb that is a header only": (png(width=big, height=big), REFUSED),
        "PNG of zero width": (png(PNG_BODY, PNG_END, width=0), CORRUPT),
        "PNG of 2^31 - 1 columns": (png(PNG_BODY, PNG_END, width=2**31 - 1, height=1), REFUSED),
        "PNG signature alone": (whole[:8], CORRUPT),
        "PNG with half a header": (whole[:20], CORRUPT),
        "PNG cut in the middle": (whole[: len(whole) // 2], CORRUPT),
        "PNG without its end": (whole[:-12], CORRUPT),
        "PNG with a wrong checksum": (png(PNG_BODY, PNG_END, good_checksums=False), CORRUPT),
        "PNG with too few rows": (png((b"IDAT", zlib.compress(bytes(49))), PNG_END), CORRUPT),
        "PNG without pixels": (png(PNG_END), CORRUPT),
        "PNG with 200 MB of text": (png((b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000))), PNG_BODY), CORRUPT),
        "PNG with 200 MB of colour profile": (
            png((b"iCCP", b"k\0\0" + zlib.compress(bytes(200_000_000))), PNG_BODY),
            CORRUPT,
        ),
        "PNG in 100,000 pieces": (png(PNG_BODY, *[(b"prIv", b"")] * 100_000, PNG_END), REFUSED),
        "PNG with a chunk of 2 GB": (whole[:33] + b"\x7f\xff\xff\xffIDAT" + bytes(100), CORRUPT),
        "animated PNG with a huge frame": (
            png(
                (b"acTL", struct.pack(">II", 2, 0)),
                (b"fcTL", struct.pack(">IIIIIHHBB", 0, big, big, 0, 0, 1, 1, 0, 0)),
                PNG_BODY,
                PNG_END,
            ),
            CORRUPT,
        ),
        "JPEG bomb": (jpeg_said_to_be(big, big), REFUSED),
        "JPEG of zero height": (jpeg_said_to_be(16, 0), CORRUPT),
        "JPEG with two headers": (jpeg_of_two_headers(), CORRUPT),
        "JPEG of a thousand scans": (jpeg_of_many_scans(1000), REFUSED),
        "JPEG in 400,000 pieces": (b"\xff\xd8" + b"\xff\xfe\x00\x02" * 400_000 + jpeg()[2:], REFUSED),
        "JPEG start alone": (b"\xff\xd8\xff", CORRUPT),
        "JPEG cut in the middle": (encoded(".jpg")[:700], CORRUPT),
        "JPEG without its end": (encoded(".jpg")[:-2], CORRUPT),
        "JPEG with a page of zeros": (without_page(large(), 5), CORRUPT),
        "JPEG with a page of zeros, restart markers": (
            without_page(large(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 20), 5),
            CORRUPT,
        ),
        "progressive JPEG with a page of zeros": (without_page(large(".jpg", *PROGRESSIVE), 5), CORRUPT),
        "JPEG of zeros from the middle to its last page": (
            large()[:40_000] + bytes(30_000) + large()[70_000:],
            CORRUPT,
        ),
        "JPEG cut in the middle, ended": (cut(large(), 40_000), CORRUPT),
        "JPEG cut in its last row, ended": (cut(large(), len(large()) - 200), CORRUPT),
        "progressive JPEG cut in the middle, ended": (cut(large(".jpg", *PROGRESSIVE), 40_000), CORRUPT),
        "JPEG with 100 bytes flipped": (with_bytes_flipped(large(), 30_000, 100), CORRUPT),
        "JPEG with 100 bytes too many": (large()[:-2] + bytes(100) + large()[-2:], CORRUPT),
        "PNG with a page of zeros": (without_page(large(".png"), 5), CORRUPT),
        "BMP bomb": (bmp(big, big), REFUSED),
        "BMP upside down and huge": (bmp(big, -big), REFUSED),
        "BMP without pixels": (bmp(100, 100), CORRUPT),
        "BMP with an unknown header": (bmp(10, 10, header=7), CORRUPT),
        "TIFF bomb": (tiff(width=big, height=big), REFUSED),
        "TIFF with tiles of 12,000": (tiff(t322=12_000, t323=12_000, t324=200, t325=30), REFUSED),
        "TIFF of 60,000 samples a pixel": (tiff(t277=60_000), CORRUPT),
        "TIFF that points nowhere": (b"II*\0\xff\xff\xff\x7f" + bytes(40), CORRUPT),
        "TIFF that points to itself": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0" + bytes(40), CORRUPT),
        "TIFF with pixels beyond its end": (tiff(t273=2**31), CORRUPT),
        "GIF bomb": (gif(big, big), CORRUPT),
        "WebP bomb": (webp(2**14, 2**14), CORRUPT),
        "JPEG 2000 bomb": (jpeg2000(2**31 - 1, 2**31 - 1), CORRUPT),
        "Radiance picture": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 60000 +X 60000\n", CORRUPT),
        "PPM bomb": (b"P6 60000 60000 255\n" + bytes(100), CORRUPT),
        "AVIF header": (b"\0\0\0\x20ftypavif" + bytes(200), CORRUPT),
        "more bytes than allowed": (bytes(MAX_BYTES + 1), REFUSED),
    }
    for name, (content, reason) in contents.items():
        yield HostileImage(name, lambda place, content=content: place.put(content), reason)  # type: ignore[misc] # mypy does not see the default


def _link(place: Place) -> str:
    (place.root / "link.png").unlink(missing_ok=True)
    (place.root / "link.png").symlink_to(place.root.parent / "secret.png")
    return (place.root / "link.png").as_uri()


def _folder_link(place: Place) -> str:
    (place.root / "up").unlink(missing_ok=True)
    (place.root / "up").symlink_to(place.root.parent)
    return f"{(place.root / 'up').as_uri()}/secret.png"


def _link_loop(place: Place) -> str:
    (place.root / "loop").unlink(missing_ok=True)
    (place.root / "loop").symlink_to(place.root / "loop")
    return (place.root / "loop").as_uri()


def _named_pipe(place: Place) -> str:
    (place.root / "pipe.png").unlink(missing_ok=True)
    os.mkfifo(place.root / "pipe.png")
    return (place.root / "pipe.png").as_uri()


def _socket(place: Place) -> str:
    # bound by a relative name: the path of a test's folder is longer than a socket's may be
    here, name = Path.cwd(), f"s{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(place.root)
        try:
            Path(name).unlink(missing_ok=True)
            listener.bind(name)
        finally:
            os.chdir(here)
    return (place.root / name).as_uri()


def _sparse(place: Place) -> str:
    with (place.root / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    return (place.root / "sparse.png").as_uri()


def _link_to(target: str) -> Callable[[Place], str]:
    def make(place: Place) -> str:
        (place.root / "special.png").unlink(missing_ok=True)
        (place.root / "special.png").symlink_to(target)
        return (place.root / "special.png").as_uri()

    return make


REFERENCES = (
    HostileImage("outside by dots", lambda place: f"file://{place.root}/../secret.png", REFUSED),
    HostileImage("outside by encoded dots", lambda place: f"file://{place.root}/%2e%2e/secret.png", REFUSED),
    HostileImage("outside by encoded slashes", lambda place: f"file://{place.root}%2f..%2fsecret.png", REFUSED),
    HostileImage("dots encoded twice", lambda place: f"file://{place.root}/%252e%252e/secret.png", MISSING),
    HostileImage("outside by a link", _link, REFUSED),
    HostileImage("outside by a linked folder", _folder_link, REFUSED),
    HostileImage("link to itself", _link_loop, REFUSED),
    HostileImage("link to a device", _link_to("/dev/zero"), REFUSED),
    HostileImage("link to our own memory", _link_to("/proc/self/environ"), REFUSED),
    HostileImage("device", lambda _: "file:///dev/zero", REFUSED),
    HostileImage("environment of the process", lambda _: "file:///proc/self/environ", REFUSED),
    HostileImage("passwords of the machine", lambda _: "file:///etc/passwd", REFUSED),
    HostileImage("path without a scheme", lambda _: "/etc/passwd", REFUSED),
    HostileImage("relative path", lambda _: "../../../../etc/passwd", REFUSED),
    HostileImage("named pipe", _named_pipe, REFUSED),
    HostileImage("socket", _socket, MISSING),
    HostileImage("folder", lambda place: place.root.as_uri(), REFUSED),
    HostileImage("sparse file of 1 TB", _sparse, REFUSED),
    HostileImage("file below a file", lambda place: f"file://{place.root}/a.png/b.png", MISSING),
    HostileImage("no such file", lambda place: f"file://{place.root}/gone.png", MISSING),
    HostileImage("NUL in the name", lambda place: f"file://{place.root}/a%00.png", REFUSED),
    HostileImage("name of 4,000 letters", lambda place: f"file://{place.root}/{'n' * 3900}", MISSING),
    HostileImage("file on another machine", lambda place: f"file://elsewhere{place.root}/a.png", REFUSED),
    HostileImage("Windows share", lambda _: r"\\server\share\a.png", REFUSED),
    HostileImage("scheme ftp", lambda place: f"ftp://host{place.root}/a.png", REFUSED),
    HostileImage("scheme data", lambda _: "data:image/png;base64,AAAA", REFUSED),
    HostileImage("scheme javascript", lambda _: "javascript:alert(1)", REFUSED),
    HostileImage("scheme gopher", lambda place: f"gopher://{place.host}/_x", REFUSED),
    HostileImage("wrong hash", lambda place: f"file://{place.root}/a.png", REFUSED, sha256="0" * 64),
    HostileImage("host that is not allowed", lambda _: "http://127.0.0.1:9/a.png", REFUSED),
    HostileImage("metadata service of a cloud", lambda _: "http://169.254.169.254/latest/meta-data/", REFUSED),
    HostileImage("host in decimal", lambda place: f"http://2130706433:{place.host.rpartition(':')[2]}/a.png", REFUSED),
    HostileImage("allowed host as user name", lambda place: f"http://{place.host}@127.0.0.1:9/a.png", REFUSED),
    HostileImage("allowed host behind a backslash", lambda place: rf"http://{place.host}\@127.0.0.1:9/a.png", REFUSED),
    HostileImage("allowed host as a prefix", lambda place: f"http://{place.host}.evil.example/a.png", REFUSED),
    HostileImage("credentials", lambda place: f"http://user:word@{place.host}/a.png", REFUSED),
    HostileImage("no host", lambda _: "http:///a.png", REFUSED),
    HostileImage("broken address", lambda _: "http://[broken/a.png", REFUSED),
    HostileImage("port out of range", lambda _: "http://127.0.0.1:99999/a.png", REFUSED),
    HostileImage("host: redirect inside", lambda place: f"http://{place.host}/redirect-inside", REFUSED),
    HostileImage("host: redirect to a file", lambda place: f"http://{place.host}/redirect-file", REFUSED),
    HostileImage("host: not found", lambda place: f"http://{place.host}/404", MISSING),
    HostileImage("host: no content", lambda place: f"http://{place.host}/204", MISSING),
    HostileImage("host: hangs up", lambda place: f"http://{place.host}/close", MISSING),
    HostileImage("host: speaks no HTTP", lambda place: f"http://{place.host}/garbage", MISSING),
    HostileImage("host: says nothing", lambda place: f"http://{place.host}/silent", MISSING),
    HostileImage("host: drips its header", lambda place: f"http://{place.host}/slow-header", MISSING),
    HostileImage("host: drips its body", lambda place: f"http://{place.host}/slow-body", MISSING),
    HostileImage("host: announces 1 TB", lambda place: f"http://{place.host}/announces", REFUSED),
    HostileImage("host: never ends", lambda place: f"http://{place.host}/endless", REFUSED),
    HostileImage("host: stops half way", lambda place: f"http://{place.host}/half", MISSING),
    HostileImage("host: gzip bomb", lambda place: f"http://{place.host}/gzip", REFUSED),
    HostileImage("host: plain HTTP where TLS is asked", lambda place: f"https://{place.host}/a.png", MISSING),
)

IMAGES = (*_images(), *REFERENCES)

MESSAGES = (
    HostileMessage("nothing", b"", counted="not_json"),
    HostileMessage("an open brace", b"{", counted="not_json"),
    HostileMessage("null", b"null", counted="not_json"),
    HostileMessage("a list", b"[1,2]", counted="not_json"),
    HostileMessage("a number", b"1e999", counted="not_json"),
    HostileMessage("no UTF-8", b"\xff\xfe\x00{", counted="not_json"),
    HostileMessage("nested 30,000 deep", b'{"a":' * 10_000, counted="not_json"),
    HostileMessage("brackets 60,000 deep", b"[" * 60_000, counted="not_json"),
    HostileMessage("larger than allowed", b" " * 70_000, counted="too_large"),
    HostileMessage("no event id", b'{"image":{"uri":"x"}}', counted="no_event_id"),
    HostileMessage("event id of a fraction", b'{"event_id":5.5,"image":{"uri":"x"}}', counted="no_event_id"),
    HostileMessage("NUL in the event id", rb'{"event_id":"a\u0000","image":{"uri":"x"}}', counted="no_event_id"),
    HostileMessage("event id of a number", b'{"event_id":5,"image":{"uri":"x"}}', "5"),
    HostileMessage("empty event id", b'{"event_id":"","image":{"uri":"x"}}', counted="no_event_id"),
    HostileMessage("line break in the event id", rb'{"event_id":"a\nb","image":{"uri":"x"}}', "a\nb"),
    HostileMessage("terminal codes in the event id", rb'{"event_id":"\u001b[2J","image":{"uri":"x"}}', "\x1b[2J"),
    HostileMessage("event id of 300 letters", b'{"event_id":"%s"}' % (b"e" * 300), "e" * 300),
    HostileMessage("event id of 60,000 letters", b'{"event_id":"%s"}' % (b"e" * 60_000), "e" * 60_000),
    HostileMessage("half a surrogate", rb'{"event_id":"\ud800","image":{"uri":"x"}}', counted="no_event_id"),
    HostileMessage("no image", b'{"event_id":"h1"}', event_id="h1"),
    HostileMessage("image is null", b'{"event_id":"h2","image":null}', event_id="h2"),
    HostileMessage("image is a text", b'{"event_id":"h3","image":"/etc/passwd"}', event_id="h3"),
    HostileMessage("uri of 5,000 letters", b'{"event_id":"h4","image":{"uri":"%s"}}' % (b"u" * 5000), event_id="h4"),
    HostileMessage("uri with a line break", rb'{"event_id":"h5","image":{"uri":"a\r\nHost: b"}}', event_id="h5"),
    HostileMessage("hash that is none", b'{"event_id":"h6","image":{"uri":"x","sha256":"../.."}}', event_id="h6"),
    HostileMessage("deadline of a text", b'{"event_id":"h7","image":{"uri":"x"},"deadline_ms":"soon"}', event_id="h7"),
    HostileMessage("deadline below zero", b'{"event_id":"h8","image":{"uri":"x"},"deadline_ms":-1}', event_id="h8"),
    HostileMessage("deadline of 2^70", b'{"event_id":"h9","image":{"uri":"x"},"deadline_ms":1%s}' % (b"0" * 21), "h9"),
    HostileMessage("trigger of 2^40", b'{"event_id":"h10","image":{"uri":"x"},"trigger_id":1099511627776}', "h10"),
    HostileMessage(
        "time of year 0", b'{"event_id":"h11","image":{"uri":"x"},"captured_at":"0000-01-01T00:00:00Z"}', "h11"
    ),
    HostileMessage(
        "time without a zone", b'{"event_id":"h12","image":{"uri":"x"},"captured_at":"2026-01-01T00:00:00"}', "h12"
    ),
    HostileMessage("another schema", b'{"event_id":"h13","image":{"uri":"x"},"schema":"cangate/command/1"}', "h13"),
    HostileMessage("part id with an escape", rb'{"event_id":"h14","image":{"uri":"x"},"part_id":"\u0007"}', "h14"),
)
