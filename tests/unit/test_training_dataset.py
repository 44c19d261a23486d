"""Frames on disk."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.frames import decode_image
from service.errors import FrameCorrupt, FrameMissing, FrameRefused, UsageError
from service.model.dataset import Decode, FrameFile, list_frames, natural_key, read_frame
from tests.support.parts import write_parts

decode = Decode(partial(decode_image, max_pixels=1_000_000))


def test_frames_are_listed_in_natural_order_with_subfolders(tmp_path: Path) -> None:
    """part2 comes before part10; hidden files are passed over, other files are named."""
    for name in ("part10.PNG", "part2.png", "b/part1.jpeg", "notes.txt", ".part3.png", ".git/part4.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = list_frames(tmp_path)
    assert [file.name for file in found.frames] == ["b/part1.jpeg", "part2.png", "part10.PNG"]
    assert found.ignored == ("notes.txt",)


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    """Wherever they lie, by their real name where they have one here, and in spite of loops."""
    frames, elsewhere = tmp_path / "frames", tmp_path / "elsewhere"
    for folder in (frames / "b", elsewhere / "deep"):
        folder.mkdir(parents=True)
        (folder / "part.png").touch()
    (frames / "a").symlink_to(frames / "b")
    (frames / "linked").symlink_to(elsewhere)
    (frames / "again").symlink_to(elsewhere / "deep")
    (frames / "b" / "loop").symlink_to(frames)
    (elsewhere / "loop").symlink_to(tmp_path)
    assert [file.name for file in list_frames(frames).frames] == ["again/part.png", "b/part.png"]


def test_an_empty_directory_has_no_frames(tmp_path: Path) -> None:
    """Nothing is found where there is nothing."""
    assert list_frames(tmp_path).frames == ()


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_directory_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """A directory that is not there, and a file in its place."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=name):
        list_frames(tmp_path / name)


@given(st.lists(st.text(min_size=1)))
def test_natural_order_is_total(names: list[str]) -> None:
    """Any file names can be compared, and only equal names have equal keys."""
    ordered = sorted(set(names), key=natural_key)
    assert all(natural_key(one) < natural_key(next_one) for one, next_one in pairwise(ordered))


def test_a_frame_is_read_with_the_digest_of_its_file(tmp_path: Path) -> None:
    """The digest is that of the bytes on disk."""
    path = write_parts(tmp_path, 1) / "part1.png"
    read = read_frame(FrameFile(path, "part1.png"), decode)
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (read.frame.width, read.frame.height) == (240, 180)


def test_unreadable_frames_say_why(tmp_path: Path) -> None:
    """A missing file, a directory, and a file without bytes."""
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(FrameMissing, match="No such file"):
        read_frame(FrameFile(tmp_path / "none.png", "none.png"), decode)
    with pytest.raises(FrameMissing, match="directory"):
        read_frame(FrameFile(tmp_path, "tmp"), decode)
    with pytest.raises(FrameCorrupt, match="no bytes"):
        read_frame(FrameFile(empty, "empty.png"), decode)


def test_a_frame_larger_than_allowed_is_refused_unread(tmp_path: Path) -> None:
    """In the words of the service, a hole of two terabytes as well; one that just fits is read."""
    path = write_parts(tmp_path, 1) / "part1.png"
    size = path.stat().st_size
    assert read_frame(FrameFile(path, "part1.png"), replace(decode, max_bytes=size)).frame.width == 240
    with path.open("r+b") as file:
        file.truncate(2 << 40)
    with pytest.raises(FrameRefused, match=f"^the image is larger than {size} bytes$"):
        read_frame(FrameFile(path, "part1.png"), replace(decode, max_bytes=size))
