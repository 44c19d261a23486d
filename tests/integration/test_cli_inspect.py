"""`cangate inspect`."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.cli import CommandLine
from tests.support.parts import HEIGHT, WIDTH, draw_part


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """An intact and a damaged part that the model has never seen."""
    folder = tmp_path / "line"
    folder.mkdir()
    for name, damaged in (("good", False), ("bad", True)):
        (folder / f"{name}.png").write_bytes(cv2.imencode(".png", draw_part(200, damaged=damaged))[1].tobytes())
    return folder / "good.png", folder / "bad.png"


def test_inspect_writes_table_csv_and_json(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """The CSV begins filename,s,decision; the JSON says the same and has boxes in full-frame pixels."""
    table, document = tmp_path / "new" / "r.csv", tmp_path / "r.json"
    outcome = cangate("inspect", "bars", *images, "--store", store, "--csv", table, "--json", document)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "good.png" in outcome.stdout
    assert table.read_text().startswith("filename,s,decision,")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    results = json.loads(document.read_text())
    assert [row["filename"] for row in rows] == [row["filename"] for row in results] == ["good.png", "bad.png"]
    assert [row["decision"] for row in rows] == [row["decision"] for row in results] == ["OK", "DAMAGED"]
    for row, result in zip(rows, results, strict=True):
        assert float(row["s"]) == result["s"]
        assert (result["s"] >= result["tau"]) == (result["decision"] == "DAMAGED")
    assert results[1]["boxes"]
    for box in results[1]["boxes"]:
        assert 0 <= box["x1"] < box["x2"] <= WIDTH
        assert 0 <= box["y1"] < box["y2"] <= HEIGHT


def test_inspect_writes_pictures(cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path) -> None:
    """ROI, a black and white mask in the size of the frame, and the comparison, for each stem."""
    out = tmp_path / "out"
    assert cangate("inspect", "bars@1", *images, "--store", store, "-o", out).status == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{stem}_{kind}.png" for stem in ("good", "bad") for kind in ("roi", "mask", "comparison")
    )
    mask = cv2.imread(str(out / "good_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.shape == (HEIGHT, WIDTH)
    assert set(np.unique(mask)) == {0, 255}
    roi = cv2.imread(str(out / "good_roi.png"))
    assert roi is not None
    assert roi.shape == (160, 160, 3)


def test_inspect_tells_images_of_one_stem_apart(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """The pictures of the second do not replace those of the first."""
    twin = tmp_path / "good.png"
    twin.write_bytes(images[1].read_bytes())
    out = tmp_path / "out"
    assert cangate("inspect", "bars", images[0], twin, "--store", store, "-o", out).status == 0
    assert {"good_comparison.png", "good-2_comparison.png"} <= {path.name for path in out.iterdir()}


def test_inspect_does_not_take_a_name_that_another_image_has(
    cangate: CommandLine, store: Path, images: tuple[Path, Path]
) -> None:
    """Of good.png, good.jpg and good-2.png each has its pictures."""
    folder = images[0].parent
    given = [images[0], folder / "good.jpg", folder / "good-2.png"]
    for twin in given[1:]:
        twin.write_bytes(images[1].read_bytes())
    out = folder / "out"
    assert cangate("inspect", "bars", *given, "--store", store, "-o", out).status == 0
    assert sorted(path.name for path in out.glob("*_roi.png")) == ["good-2_roi.png", "good-3_roi.png", "good_roi.png"]


@pytest.mark.parametrize("option", ["-o", "--csv", "--json"])
def test_inspect_does_not_write_over_what_it_judges(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], option: str
) -> None:
    """It would judge its own crop; the picture is named, by whatever way it is reached, and stays."""
    folder = images[0].parent
    crop = folder / "good_roi.png"
    crop.write_bytes(images[1].read_bytes())
    result = {"-o": folder / ".." / folder.name}.get(option, crop)
    line = cangate("inspect", "bars", *images, crop, "--store", store, option, result).one_line_error()
    assert "good_roi.png is to be judged" in line
    assert crop.read_bytes() == images[1].read_bytes()
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("place", ["1", "1/deeper"])
@pytest.mark.parametrize("option", ["-o", "--csv"])
def test_inspect_writes_nothing_into_a_package(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], option: str, place: str
) -> None:
    """One file more, and it would be refused as tampered with."""
    result = store / "bars" / place / ("" if option == "-o" else "r.csv")
    line = cangate("inspect", "bars", images[0], "--store", store, option, result).one_line_error()
    assert "it would change the model package" in line
    assert cangate("inspect", "bars", images[0], "--store", store).status == 0


def test_inspect_does_not_wait_for_a_pipe(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """Nobody may ever write into it: it is a row ERROR."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    table = tmp_path / "r.csv"
    assert cangate("inspect", "bars", pipe, images[0], "--store", store, "--csv", table).status == 1
    first, second = csv.DictReader(table.read_text().splitlines())
    assert (first["reason"], first["detail"]) == ("frame_missing", "cannot be read: no regular file")
    assert second["decision"] == "OK"


def test_inspect_leaves_no_half_a_picture(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: the picture is named, and none of it is there."""

    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    out = tmp_path / "out"
    line = cangate("inspect", "bars", images[0], "--store", store, "-o", out).one_line_error(1)
    assert line == f"cangate: cannot write {out / 'good_roi.png'}: No space left on device"
    assert not out.exists()


def test_inspect_judges_the_others_where_one_cannot_be_judged(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """A missing, a truncated, an empty and a text file become ERROR rows with their reason; the exit status is 1."""
    cut, empty, text = tmp_path / "cut.png", tmp_path / "empty.png", tmp_path / "text.png"
    cut.write_bytes(images[0].read_bytes()[:300])
    empty.touch()
    text.write_text("no picture")
    table = tmp_path / "r.csv"
    given = (tmp_path / "none.png", cut, images[0], empty, text)
    outcome = cangate("inspect", "bars", *given, "--store", store, "--csv", table, "-o", tmp_path / "out")
    assert (outcome.status, outcome.stderr) == (1, "")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["decision"], row["reason"]) for row in rows] == [
        ("ERROR", "frame_missing"),
        ("ERROR", "frame_corrupt"),
        ("OK", "score_below_threshold"),
        ("ERROR", "frame_corrupt"),
        ("ERROR", "frame_corrupt"),
    ]
    assert [row["s"] == "" for row in rows] == [True, True, False, True, True]
    assert all(row["detail"] for row in rows if row["decision"] == "ERROR")
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_inspect_takes_the_path_of_a_package(cangate: CommandLine, store: Path, images: tuple[Path, Path]) -> None:
    """Without any store."""
    assert cangate("inspect", store / "bars" / "1", images[0]).status == 0


@pytest.mark.parametrize("model", ["other", "bars@9", "/nowhere"])
def test_inspect_refuses_a_missing_model_in_one_line(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], model: str
) -> None:
    """A name, a version and a path that are not there."""
    assert model in cangate("inspect", model, images[0], "--store", store).one_line_error()


def test_inspect_refuses_results_that_cannot_be_written(
    cangate: CommandLine, store: Path, images: tuple[Path, Path]
) -> None:
    """A folder in the place of a file's folder, named before anything is judged."""
    line = cangate("inspect", "bars", *images, "--store", store, "--json", images[0] / "r.json").one_line_error()
    assert "good.png" in line


def test_inspect_writes_into_links_and_devices(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """Neither becomes a file; a device that is full is named, and the results elsewhere are not lost by it."""
    link, target, device = tmp_path / "link.csv", tmp_path / "target.csv", tmp_path / "device.json"
    link.symlink_to(target)
    device.symlink_to("/dev/full")
    line = cangate("inspect", "bars", *images, "--store", store, "--csv", link, "--json", device).one_line_error(1)
    assert line == f"cangate: cannot write {device}: No space left on device"
    assert device.is_char_device()
    assert cangate("inspect", "bars", *images, "--store", store, "--csv", link).status == 0
    assert link.is_symlink()
    assert target.read_text().startswith("filename,s,decision,")


def test_inspect_refuses_two_results_in_one_file(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """By whatever names."""
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    line = cangate("inspect", "bars", *images, "--store", store, "--csv", link, "--json", target).one_line_error()
    assert "--csv and --json both name" in line
    assert not target.exists()


def test_inspect_bears_links_in_a_circle(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """As a picture it has a row with a reason, as a result it is named in one line."""
    circle, target = tmp_path / "circle", tmp_path / "target.csv"
    circle.symlink_to(circle)
    outcome = cangate("inspect", "bars", images[0], circle, "--store", store, "--csv", target)
    assert outcome.status == 1
    assert [line.split(",")[2] for line in target.read_text().splitlines()[1:]][1] == "ERROR"
    line = cangate("inspect", "bars", *images, "--store", store, "--csv", circle).one_line_error()
    assert line == f"cangate: cannot write {circle}: Too many levels of symbolic links"
    assert circle.is_symlink()


def test_inspect_needs_an_image(cangate: CommandLine, store: Path) -> None:
    """Without one there is nothing to judge."""
    assert "IMAGE" in cangate("inspect", "bars", "--store", store).one_line_error()


def test_inspect_takes_a_name_that_is_no_utf8(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """A camera's name of another century: it is judged and shown escaped, in the table, the CSV and the picture."""
    foreign = tmp_path / os.fsdecode(b"\xff\xe9.png")
    foreign.write_bytes(images[0].read_bytes())
    table = tmp_path / "r.csv"
    outcome = cangate("inspect", "bars", foreign, images[1], "--store", store, "--csv", table, "-o", tmp_path / "out")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert [row["filename"] for row in csv.DictReader(table.read_text().splitlines())] == [r"\xff\xe9.png", "bad.png"]
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_inspect_tells_pictures_of_one_name_apart(
    cangate: CommandLine, store: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of 000.png in two folders the table shows the paths."""
    twins = [tmp_path / folder / "000.png" for folder in ("left", "right")]
    for twin, image in zip(twins, images, strict=True):
        twin.parent.mkdir()
        twin.write_bytes(image.read_bytes())
    outcome = cangate("inspect", "bars", *twins, "--store", store)
    assert all(str(twin) in outcome.stdout for twin in twins)
