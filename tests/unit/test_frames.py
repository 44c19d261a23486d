"""Frames from allow-listed places, hostile ones included."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adapters.frames import AllowListedFrames, decode_image
from schemas.messages import ImageRef
from schemas.settings import ImageSettings
from service.errors import FrameCorrupt, FrameError, FrameMissing, FrameRefused, UsageError
from service.pipeline.types import BgrImage
from tests.support.hostile import PAGE, PIXELS, cut, encoded, large, without_page


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded())
    (tmp_path / "secret.png").write_bytes(encoded())
    return folder


@pytest.fixture
def frames(root: Path) -> AllowListedFrames:
    return AllowListedFrames(ImageSettings(roots=(root,), max_bytes=100_000, max_pixels=10_000, http_timeout_s=0.5))


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".tif"])
def test_decode_reads_what_cameras_write(extension: str) -> None:
    """Lossless formats come back pixel by pixel, JPEG in the same shape."""
    decoded = decode_image(encoded(extension), max_pixels=10_000)
    assert decoded.shape == PIXELS.shape
    if extension != ".jpg":
        np.testing.assert_array_equal(decoded, PIXELS)


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "LA", "P", "1"])
def test_decode_brings_every_png_to_colour(mode: str) -> None:
    """Grey, 16-bit, alpha and palette images become (H, W, 3) uint8."""
    source = (
        Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 256) if mode == "I;16" else Image.new(mode, (60, 40), 1)
    )
    buffer = io.BytesIO()
    source.save(buffer, "PNG")
    decoded = decode_image(buffer.getvalue(), max_pixels=10_000)
    assert decoded.shape == (40, 60, 3)
    assert decoded.dtype == np.uint8
    if mode == "I;16":
        np.testing.assert_array_equal(decoded[:, :, 0], PIXELS[:, :, 0])


@pytest.mark.parametrize("orientation", range(10))
def test_decode_turns_a_frame_upright(orientation: int) -> None:
    """An EXIF orientation is followed: what the camera calls up is up. 0 and 9 are none."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg_by_pillow(exif=exif)
    decoded = decode_image(data, max_pixels=10_000)
    assert decoded.shape == ((60, 40, 3) if orientation in (5, 6, 7, 8) else (40, 60, 3))
    np.testing.assert_array_equal(decoded, by_opencv(data))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # its remarks on broken metadata
@pytest.mark.parametrize(
    "exif", [b"", b"II*", b"XX*\0\x08\0\0\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff\x12\x01"]
)
def test_decode_leaves_a_frame_as_it_lies_where_its_exif_is_broken(exif: bytes) -> None:
    """Every pixel is there; cameras write strange things beside them."""
    data = jpeg_by_pillow(exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(decode_image(data, max_pixels=10_000), by_opencv(data))


SAMPLING = {
    name: (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)
    for name, factor in {
        "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
        "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
        "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    }.items()
}


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("restart_interval", [0, 3])
@pytest.mark.parametrize("size_wh", [(1, 1), (17, 9), (61, 37), (320, 240)])
def test_decode_gives_the_pixels_that_opencv_gives(
    sampling: str, progressive: int, restart_interval: int, size_wh: tuple[int, int]
) -> None:
    """Level by level: the thresholds of trained models hang on them."""
    width, height = size_wh
    pixels = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8), (0, 0), 2)
    options = (cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, restart_interval)
    data = cv2.imencode(".jpg", pixels, (*SAMPLING[sampling], *options))[1].tobytes()
    np.testing.assert_array_equal(decode_image(data, max_pixels=100_000), by_opencv(data))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_decode_gives_the_pixels_that_opencv_gives_without_colour_and_with_ink(mode: str, progressive: bool) -> None:
    """Grey frames and prints are brought to the same levels, too."""
    data = jpeg_by_pillow(mode, progressive=progressive)
    np.testing.assert_array_equal(decode_image(data, max_pixels=10_000), by_opencv(data))


def test_decode_does_not_mind_what_lies_behind_an_image() -> None:
    """A second picture, padding: the frame ended before it. Fill bytes before a marker are allowed."""
    whole = large()
    for data in (whole + bytes(1000), whole + encoded(".jpg"), whole[:-2] + b"\xff\xff" + whole[-2:]):
        np.testing.assert_array_equal(decode_image(data, max_pixels=100_000), by_opencv(whole))


@pytest.mark.parametrize("restart_interval", [0, 20])
def test_decode_misses_no_page_of_a_jpeg(restart_interval: int) -> None:
    """Whichever is filled with zeros, and wherever the end is missing with an end in its place."""
    whole = large(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, restart_interval)
    pages = range(len(whole) // PAGE + 1)
    for data in [without_page(whole, page) for page in pages] + [cut(whole, page * PAGE) for page in pages]:
        with pytest.raises(FrameCorrupt):
            decode_image(data, max_pixels=100_000)


def test_decode_says_what_is_wrong_with_a_jpeg() -> None:
    """The verdict's detail tells a hole from a file that is no image."""
    with pytest.raises(FrameCorrupt, match="incomplete or damaged: Corrupt JPEG data: "):
        decode_image(without_page(large(), 5), max_pixels=100_000)


def jpeg_by_pillow(mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_opencv(data: bytes) -> BgrImage:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded, np.uint8)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # its remarks on broken metadata
@given(st.binary(max_size=300), st.sampled_from([".png", ".jpg", ".bmp", ".tif"]), st.integers(0, 4000))
def test_decode_never_fails_in_an_unnamed_way(noise: bytes, extension: str, at: int) -> None:
    """Whatever bytes come, the answer is an image or one of our errors."""
    whole = encoded(extension)
    for data in (noise, whole[:at] + noise + whole[at + len(noise) :]):
        with contextlib.suppress(FrameError):
            assert decode_image(data, max_pixels=10_000).ndim == 3


def test_load_reads_a_file_uri(frames: AllowListedFrames, root: Path) -> None:
    """A file under an allowed root is loaded and keeps its uri."""
    uri = (root / "a.png").as_uri()
    frame = frames.load(ImageRef(uri=uri), None)
    assert (frame.width, frame.height, frame.uri) == (60, 40, uri)


def test_load_prefers_bytes_that_came_along(frames: AllowListedFrames) -> None:
    """Raw image events need no file."""
    assert frames.load(None, encoded()).uri is None


def test_load_checks_the_hash(frames: AllowListedFrames, root: Path) -> None:
    """A frame with another hash than the event names is refused."""
    uri = (root / "a.png").as_uri()
    good = hashlib.sha256(encoded()).hexdigest()
    assert frames.load(ImageRef(uri=uri, sha256=good.upper()), None).width == 60
    with pytest.raises(FrameRefused, match="sha256"):
        frames.load(ImageRef(uri=uri, sha256="0" * 64), None)


@pytest.mark.parametrize("extension", [".bmp", ".tif"])
def test_load_finds_a_hole_that_no_decoder_can_see(root: Path, extension: str) -> None:
    """Zeros are pixels like others: the hash is what tells."""
    frames = AllowListedFrames(ImageSettings(roots=(root,)))
    whole = large(extension, cv2.IMWRITE_TIFF_COMPRESSION, 1) if extension == ".tif" else large(extension)
    uri = (root / f"a{extension}").as_uri()
    (root / f"a{extension}").write_bytes(without_page(whole, 5))
    assert frames.load(ImageRef(uri=uri), None).width == 320
    with pytest.raises(FrameRefused, match="sha256"):
        frames.load(ImageRef(uri=uri, sha256=hashlib.sha256(whole).hexdigest()), None)


def test_load_names_an_event_without_image(frames: AllowListedFrames) -> None:
    """No reference and no bytes: the frame is missing."""
    with pytest.raises(FrameMissing):
        frames.load(None, None)


def test_load_refuses_raw_bytes_above_the_limit(frames: AllowListedFrames) -> None:
    """The byte limit holds for images that come with the event too."""
    with pytest.raises(FrameRefused):
        frames.load(None, bytes(100_001))


def test_load_follows_a_root_that_is_a_link_to_another_folder_every_day(tmp_path: Path) -> None:
    """Yesterday's folder is no root any more; a link that leads nowhere, or to the kernel, holds no frame."""
    today = tmp_path / "today"
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        (tmp_path / day / f"{day}.png").write_bytes(encoded())
    today.symlink_to("monday")
    frames = AllowListedFrames(ImageSettings(roots=(today,)))

    def load(path: Path) -> tuple[int, ...]:
        return frames.load(ImageRef(uri=path.as_uri()), None).bgr.shape

    assert load(today / "monday.png") == PIXELS.shape
    today.unlink()
    today.symlink_to("tuesday")
    assert load(today / "tuesday.png") == PIXELS.shape
    with pytest.raises(FrameRefused, match="outside the allowed roots"):
        load(tmp_path / "monday" / "monday.png")
    today.unlink()
    today.symlink_to("wednesday")
    with pytest.raises(FrameMissing):
        load(today / "wednesday.png")
    today.unlink()
    today.symlink_to("/proc")
    with pytest.raises(FrameRefused, match="outside the allowed roots"):
        load(today / "self" / "status")


def test_frames_refuse_a_root_that_does_not_exist(tmp_path: Path) -> None:
    """A root that is not there is a configuration error with its name."""
    with pytest.raises(UsageError, match=r"images\.roots: .*nowhere"):
        AllowListedFrames(ImageSettings(roots=(tmp_path / "nowhere",)))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_refuses_a_tiff_whose_numbers_say_no_brightness(dtype: type, channels: int) -> None:
    """Floats and 32 bits: what would be white? The file is whole, and a person is told what to save instead."""
    shape = (4, 6) if channels == 1 else (4, 6, channels)
    ok, tiff = cv2.imencode(".tiff", np.ones(shape, dtype))
    assert ok
    with pytest.raises(FrameRefused, match="unsupported depth: a TIFF of 32 bits"):
        decode_image(tiff.tobytes(), max_pixels=10_000)


def test_decode_takes_what_is_left_of_a_deep_tiff_for_corrupt() -> None:
    """A header that breaks off says no depth."""
    tiff = cv2.imencode(".tiff", np.ones((4, 6, 3), np.float32))[1].tobytes()
    directory = int.from_bytes(tiff[4:8], "little")
    for size in (8, directory + 1, directory + 10):
        with pytest.raises(FrameCorrupt):
            decode_image(tiff[:size], max_pixels=10_000)


@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
def test_frame_whose_bits_lie_at_the_bottom_of_16_is_refused_by_that(extension: str, shape: tuple[int, ...]) -> None:
    """It would be all black, and no part would be found on it; shifted to the top it is read, as is what is black."""
    right_aligned = np.linspace(0, 4095, math.prod(shape)).astype(np.uint16).reshape(shape)
    with pytest.raises(FrameRefused, match="only the lower 12 are used"):
        decode_image(cv2.imencode(extension, right_aligned)[1].tobytes(), max_pixels=10_000)
    for read in (right_aligned << 4, right_aligned + 1, right_aligned // 32):
        assert decode_image(cv2.imencode(extension, read)[1].tobytes(), max_pixels=10_000).shape == (40, 60, 3)
