"""Frames from allow-listed places, hostile ones included."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adapters.frames import AllowListedFrames, decode_image
from schemas.messages import ImageRef
from schemas.settings import ImageSettings
from service.errors import FrameError, FrameMissing, FrameRefused, UsageError
from tests.support.hostile import PIXELS, encoded


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


def test_decode_turns_a_frame_upright() -> None:
    """An EXIF orientation is followed: what the camera calls up is up."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(buffer, "JPEG", exif=exif)
    assert decode_image(buffer.getvalue(), max_pixels=10_000).shape == (60, 40, 3)


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


def test_load_names_an_event_without_image(frames: AllowListedFrames) -> None:
    """No reference and no bytes: the frame is missing."""
    with pytest.raises(FrameMissing):
        frames.load(None, None)


def test_load_refuses_raw_bytes_above_the_limit(frames: AllowListedFrames) -> None:
    """The byte limit holds for images that come with the event too."""
    with pytest.raises(FrameRefused):
        frames.load(None, bytes(100_001))


def test_frames_refuse_a_root_that_does_not_exist(tmp_path: Path) -> None:
    """A root that is not there is a configuration error with its name."""
    with pytest.raises(UsageError, match=r"images\.roots: .*nowhere"):
        AllowListedFrames(ImageSettings(roots=(tmp_path / "nowhere",)))
