"""The picture store, and what it draws."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from adapters.pictures import Overlay, PictureStore
from schemas.messages import Decision
from service.evaluation.pictures import draw_boxes, draw_heatmap
from tests.support.hmi import make_frame, make_inspection, make_verdict

OpenStore = Callable[..., PictureStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """Return a function that opens the store in `tmp_path`; all are closed at the end."""
    opened: list[PictureStore] = []

    def open_store(keep: int = 10, root: Path | None = None) -> PictureStore:
        opened.append(PictureStore(root or tmp_path, keep=keep))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


def offer(store: PictureStore, seq: int, grey: int = 128) -> None:
    verdict, frame = make_verdict(seq), make_frame(grey=grey)
    store.offer(verdict, make_inspection(frame, verdict), frame)


def files(root: Path) -> list[Path]:
    """Return the files of a store, oldest first."""
    return sorted(root.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def wait_for(store: PictureStore, condition: Callable[[], bool]) -> None:
    """Return as soon as the store's thread has brought `condition` about."""
    with store._changed:
        assert store._changed.wait_for(condition, 20)


def decode(jpeg: bytes | None) -> np.ndarray:
    assert jpeg is not None
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return np.asarray(bgr)


async def test_store_has_nothing_at_first(open_store: OpenStore, tmp_path: Path) -> None:
    """An empty store creates no file either."""
    store = open_store()
    assert (store.has("e1"), await store.image("e1", Overlay.BOXES), store.fault) == (False, None, None)
    store.close()
    assert files(tmp_path) == []


async def test_picture_can_be_seen_at_once_and_after_a_restart(open_store: OpenStore) -> None:
    """Before it is written, after it is written, and by the next process, it is the same picture."""
    store = open_store()
    offer(store, 1, grey=77)
    waiting = decode(await store.image("e1", Overlay.NONE))
    store.close()
    written = decode(await store.image("e1", Overlay.NONE))
    restarted = open_store()
    assert restarted.has("e1")
    kept = decode(await restarted.image("e1", Overlay.NONE))
    assert np.array_equal(waiting, written)
    assert np.array_equal(written, kept)
    assert abs(int(kept.mean()) - 77) <= 1


def test_oldest_pictures_go_first(open_store: OpenStore, tmp_path: Path) -> None:
    """`keep` counts across restarts, and no file of a gone picture stays."""
    for seqs in ((1, 2), (3, 4)):
        store = open_store(keep=3)
        for seq in seqs:
            offer(store, seq)
        store.close()
    store = open_store()
    assert [store.has(f"e{seq}") for seq in (1, 2, 3, 4)] == [False, True, True, True]
    assert len(files(tmp_path)) == 2 * 3


async def test_store_that_keeps_none_takes_none(open_store: OpenStore) -> None:
    """So does one that is offered no frame."""
    store = open_store(keep=0)
    offer(store, 1)
    assert not store.has("e1")
    store = open_store()
    store.offer(make_verdict(2, Decision.ERROR), None, None)
    assert not store.has("e2")


async def test_frame_without_inspection_is_kept_plain(open_store: OpenStore) -> None:
    """A frame in which no canister was found is worth a look."""
    store = open_store()
    store.offer(make_verdict(1, Decision.ERROR), None, make_frame())
    store.close()
    plain, boxes, heat = [decode(await store.image("e1", overlay)) for overlay in Overlay.__members__.values()]
    assert np.abs(plain.astype(int) - boxes).max() <= 2
    assert np.abs(plain.astype(int) - heat).max() <= 2


async def test_full_queue_drops_and_counts(open_store: OpenStore, tmp_path: Path) -> None:
    """A slow disk costs pictures, never time: a pipe without a reader holds up the writer here."""
    stalled = tmp_path / f"{hashlib.sha256(b'e1').hexdigest()[:40]}.part"
    store = open_store()
    os.mkfifo(stalled)
    for seq in range(1, 8):
        offer(store, seq)
    assert store.dropped == 3
    assert [store.has(f"e{seq}") for seq in range(1, 8)] == [True] * 4 + [False] * 3
    await asyncio.to_thread(stalled.read_bytes)
    store.close()
    assert store.fault is None


def test_unwritable_store_is_a_fault_until_it_can_be_written(open_store: OpenStore, tmp_path: Path) -> None:
    """The line hears nothing of it; the station is degraded."""
    in_the_way = tmp_path / "images"
    in_the_way.write_text("no directory")
    store = open_store(root=in_the_way)
    offer(store, 1)
    store.close()
    assert store.fault == f"{in_the_way}: File exists"
    assert not store.has("e1")
    in_the_way.unlink()
    store = open_store(root=in_the_way)
    offer(store, 2)
    store.close()
    assert (store.fault, store.has("e2")) == (None, True)


def test_store_goes_on_after_a_defect(open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected costs its picture, is a fault until the next is written, and is logged with its trace."""
    store = open_store()
    with monkeypatch.context() as meanwhile, capture_logs() as logged:
        meanwhile.setattr("numpy.savez", lambda *_, **__: 1 // 0)
        offer(store, 1)
        offer(store, 2)
        wait_for(store, lambda: not store.has("e2"))
    assert str(store.fault) == f"{tmp_path}: integer division or modulo by zero"
    assert [(line["event"], line["exc_info"]) for line in logged] == [("picture_not_written", True)]
    assert files(tmp_path) == []
    offer(store, 3)
    store.close()
    assert (store.fault, store.has("e3")) == (None, True)


async def test_damaged_or_deleted_files_are_no_picture(open_store: OpenStore, tmp_path: Path) -> None:
    """Somebody tidied up behind our back."""
    store = open_store()
    for seq in (1, 2, 3):
        offer(store, seq)
    store.close()
    jpegs = [path for path in files(tmp_path) if path.suffix == ".jpg"]
    jpegs[0].unlink()
    jpegs[1].write_bytes(b"no jpeg")
    jpegs[2].with_suffix(".npz").write_bytes(b"no arrays")
    assert [await store.image(f"e{seq}", Overlay.BOXES) for seq in (1, 2, 3)] == [None, None, None]
    assert not store.has("e1")


def test_other_files_in_the_directory_are_left_alone(open_store: OpenStore, tmp_path: Path) -> None:
    """A store may be pointed at a directory with pictures of somebody else."""
    holiday = tmp_path / "holiday.jpg"
    holiday.write_bytes(b"sea")
    store = open_store(keep=1)
    for seq in (1, 2, 3):
        offer(store, seq)
    store.close()
    assert holiday.read_bytes() == b"sea"


def test_half_written_pictures_of_a_crash_are_cleared(open_store: OpenStore, tmp_path: Path) -> None:
    """They are no picture, and nobody else would remove them."""
    (tmp_path / f"{'a' * 40}.part").write_bytes(b"half")
    (tmp_path / f"{'a' * 40}.npz").write_bytes(b"what was found in it")
    (tmp_path / f"{'b' * 40}.npz").write_bytes(b"its picture was removed, and then the power failed")
    for not_ours in ("download.part", "arrays.npz"):
        (tmp_path / not_ours).write_bytes(b"not ours")
    open_store()
    assert {path.name for path in files(tmp_path)} == {"download.part", "arrays.npz"}


def test_whole_pictures_are_not_cleared_with_the_half_written(open_store: OpenStore, tmp_path: Path) -> None:
    """What may be drawn over a picture stays as long as the picture."""
    store = open_store()
    offer(store, 1)
    store.close()
    whole = set(files(tmp_path))
    (tmp_path / f"{'a' * 40}.npz").write_bytes(b"half")
    assert open_store().has("e1")
    assert set(files(tmp_path)) == whole


def test_half_written_picture_that_cannot_be_removed_costs_no_other(open_store: OpenStore, tmp_path: Path) -> None:
    """Here a folder is in its place: it is named in the log, and the pictures are found."""
    store = open_store()
    offer(store, 1)
    store.close()
    stuck = tmp_path / f"{'a' * 40}.part"
    stuck.mkdir()
    with capture_logs() as logged:
        assert open_store().has("e1")
    assert [(line["event"], line["path"]) for line in logged] == [("picture_not_removed", str(stuck))]


async def test_large_frames_are_reduced_with_their_boxes(open_store: OpenStore) -> None:
    """A box stays where the damage is."""
    store = open_store()
    store.offer(make_verdict(1, Decision.DAMAGED, boxes=[(2000, 1000, 3000, 1600)]), None, make_frame(3840, 2160))
    store.close()
    plain, boxes = decode(await store.image("e1", Overlay.NONE)), decode(await store.image("e1", Overlay.BOXES))
    assert plain.shape == (1080, 1920, 3)
    rows, cols = np.nonzero(np.abs(boxes.astype(int) - plain).max(axis=2) > 60)
    assert np.allclose((cols.min(), rows.min(), cols.max() + 1, rows.max() + 1), (1000, 500, 1500, 800), atol=6)


def test_draw_boxes_without_boxes_changes_nothing() -> None:
    """Without a box nothing is drawn, and the frame itself is never drawn upon."""
    bgr = make_frame().bgr
    drawn = draw_boxes(bgr, np.empty((0, 4), np.int32))
    assert np.array_equal(bgr, drawn)
    assert drawn is not bgr


@given(
    corner=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    side=st.floats(1, 300),
    cell=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_draw_heatmap_colours_the_cell_that_is_strange(
    corner: tuple[float, float], side: float, cell: tuple[int, int]
) -> None:
    """Wherever the map lies, also partly outside: nothing changes beyond the neighbours of the strange cell."""
    bgr = make_frame(120, 100).bgr
    anomaly_map = np.zeros((6, 6), np.float32)
    anomaly_map[cell] = 2.0
    x1, y1 = corner
    drawn = draw_heatmap(bgr, anomaly_map, (x1, y1, x1 + side, y1 + side), tau=1.0)
    rows, cols = np.nonzero((drawn != bgr).any(axis=2))
    step = side / 6
    centre_x, centre_y = x1 + (cell[1] + 0.5) * step, y1 + (cell[0] + 0.5) * step
    assert np.all(np.abs(cols + 0.5 - centre_x) <= step + 1)
    assert np.all(np.abs(rows + 0.5 - centre_y) <= step + 1)
    if 1 <= centre_x <= 119 and 1 <= centre_y <= 99 and step > 4:
        assert (drawn[int(centre_y), int(centre_x)] != bgr[0, 0]).any()


def test_draw_heatmap_without_a_map_changes_nothing() -> None:
    """A frame that was never scored."""
    bgr = make_frame().bgr
    assert np.array_equal(bgr, draw_heatmap(bgr, np.empty((0, 0), np.float32), (0, 0, 0, 0), tau=0.0))
