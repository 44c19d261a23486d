"""Frames as cameras and colleagues hand them over: every command judges them alike, whatever their format and size."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from service.model.registry import ModelRegistry
from tests.support.cli import CommandLine
from tests.support.parts import draw_part, train_parts, write_config, write_parts

TURNED = 6
"""EXIF orientation of a picture that must be turned clockwise to be upright."""


def write_formats(folder: Path, first_seed: int, *, damaged: bool = False) -> Path:
    """Write nine parts, each another way."""
    folder.mkdir(parents=True)
    colour16, tiff16, grey, grey16, alpha, jpeg, png, large, small = (
        draw_part(first_seed + index, damaged=damaged) for index in range(9)
    )
    exif = Image.Exif()
    exif[0x0112] = TURNED
    cv2.imwrite(str(folder / "colour16.png"), colour16.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "tiff16.tif"), tiff16.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "grey.png"), grey[..., 0])
    cv2.imwrite(str(folder / "grey16.png"), grey16[..., 0].astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "alpha.png"), np.dstack([alpha, np.full(alpha.shape[:2], 40, np.uint8)]))
    for name, upright in (("turned.jpg", jpeg), ("turned.png", png)):
        lying = np.ascontiguousarray(np.rot90(upright[..., ::-1]))
        Image.fromarray(lying).save(folder / name, exif=exif, quality=98)
    cv2.imwrite(str(folder / "large.png"), cv2.resize(large, (960, 720), interpolation=cv2.INTER_CUBIC))
    cv2.imwrite(str(folder / "small.png"), cv2.resize(small, (160, 120), interpolation=cv2.INTER_AREA))
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose store holds a model."""
    path = write_config(tmp_path)
    registry = ModelRegistry(tmp_path / "models")
    train_parts(write_parts(tmp_path / "trained", 12)).publish(registry)
    registry.activate("bars", "1")
    return path


def test_train_takes_every_format_and_size(cangate: CommandLine, tmp_path: Path) -> None:
    """A mixed folder makes one model."""
    frames = write_formats(write_parts(tmp_path / "ok", 4) / "formats", 100).parent
    outcome = cangate("train", frames, "--name", "mixture", "-c", write_config(tmp_path))
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "13 frames" in outcome.stdout


def test_inspect_judges_every_format_alike(cangate: CommandLine, config: Path, tmp_path: Path) -> None:
    """Damage is found whatever the file, and the good parts stay below each damaged one."""
    good = write_formats(tmp_path / "good", 300)
    bad = write_formats(tmp_path / "bad", 400, damaged=True)
    scores = []
    for folder in (good, bad):
        table = tmp_path / f"{folder.name}.csv"
        outcome = cangate("inspect", "bars", *sorted(folder.iterdir()), "--csv", table, "-c", config)
        assert (outcome.status, outcome.stderr) == (0, "")
        scores.append([float(row["s"]) for row in csv.DictReader(table.read_text().splitlines())])
    assert [len(each) for each in scores] == [9, 9]
    assert max(scores[0]) < min(scores[1])


def test_calibrate_and_evaluate_take_every_format(cangate: CommandLine, config: Path, tmp_path: Path) -> None:
    """A copy is named by calibrate; a mask that marks nothing and one of another size are left out by evaluate."""
    good = write_formats(tmp_path / "good", 300)
    bad = write_formats(tmp_path / "bad", 400, damaged=True)
    (good / "twin.png").write_bytes((good / "grey.png").read_bytes())
    outcome = cangate("calibrate", "bars", "--ok", good, "--damaged", bad, "--false-reject", "0.2", "-c", config)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "twin.png" in outcome.stdout
    masks = tmp_path / "masks"
    masks.mkdir()
    cv2.imwrite(str(masks / "grey.png"), np.zeros((180, 240), np.uint8))
    cv2.imwrite(str(masks / "alpha.png"), np.full((90, 120), 255, np.uint8))
    report = tmp_path / "report"
    given = ("--ok", good, "--damaged", bad, "--masks", masks, "-o", report)
    outcome = cangate("evaluate", "bars", *given, "-c", config)
    assert (outcome.status, outcome.stderr) == (1, "")
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics["image"]["auroc"] == 1.0
    assert metrics["masks_refused"] == 2


def test_every_command_refuses_what_the_service_would(cangate: CommandLine, config: Path, tmp_path: Path) -> None:
    """A file beyond `images.max_bytes`, here one larger than any memory, in the same words."""
    frames = write_parts(tmp_path / "frames", 3, first_seed=300)
    with (frames / "huge.png").open("wb") as file:
        file.truncate(2 << 40)
    too_large = "huge.png (frame_refused: the image is larger than 16777216 bytes)"
    for command in (("train", frames, "--name", "new"), ("calibrate", "bars", "--ok", frames)):
        assert too_large in cangate(*command, "-c", config).one_line_error()
    assert too_large in cangate("models", "extend", "bars", frames, "-c", config).one_line_error()
    table, report = tmp_path / "r.csv", tmp_path / "report"
    assert cangate("inspect", "bars", *frames.iterdir(), "--csv", table, "-c", config).status == 1
    assert cangate("evaluate", "bars", "--ok", frames, "-o", report, "-c", config).status == 1
    for results in (table, report / "results.csv"):
        rows = csv.DictReader(results.read_text().splitlines())
        assert [row["reason"] for row in rows if row["decision"] == "ERROR"] == ["frame_refused"]
