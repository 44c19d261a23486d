"""`cangate train`."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest

from service.cli import train
from service.errors import CangateError
from service.model.package import read_package
from service.model.registry import ModelRegistry
from tests.support.cli import CommandLine
from tests.support.parts import draw_part, write_config, write_parts


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a quick recipe and a store."""
    return write_config(tmp_path)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Five OK frames."""
    return write_parts(tmp_path / "ok", 5)


def test_train_makes_and_activates_the_first_version(cangate: CommandLine, config: Path, frames: Path) -> None:
    """The package lies in the store of the configuration, made with its recipe, and is active."""
    outcome = cangate("train", frames, "--name", "bars", "-c", config)
    assert (outcome.status, outcome.stderr) == (0, "")
    registry = ModelRegistry(config.parent / "models")
    package = read_package(registry.resolve("bars"))
    assert package.ref.version == registry.active("bars") == "1"
    assert package.manifest.recipe.normalize.side == 160
    assert package.id in outcome.stdout
    assert "tau is extrapolated: a false-reject rate of 0.01 takes 99 frames, there are 5" in outcome.stdout


def test_train_prints_the_median_that_the_manifest_holds(cangate: CommandLine, config: Path, tmp_path: Path) -> None:
    """Of an even number of frames it lies between two of them."""
    outcome = cangate("train", write_parts(tmp_path / "four", 4), "--name", "bars", "-c", config)
    known = read_package(config.parent / "models" / "bars" / "1").manifest.metrics.score_median
    (row,) = (line for line in outcome.stdout.splitlines() if "= tau" in line)
    assert row.split()[1] == f"{known:.4f}"


def test_train_again_makes_the_next_version_and_says_how_to_activate_it(
    cangate: CommandLine, config: Path, frames: Path, tmp_path: Path
) -> None:
    """A line that runs is not changed by a training, unless asked to; --store comes before the configuration."""
    train = ("train", frames, "--name", "bars", "-c", config, "--store", tmp_path / "other")
    _, second, third = cangate(*train), cangate(*train), cangate(*train, "--activate")
    assert "active is still bars@1" in second.stdout
    assert f"cangate models activate bars 2 --store {tmp_path / 'other'}" in second.stdout
    assert "bars@3 is active" in third.stdout
    registry = ModelRegistry(tmp_path / "other")
    assert registry.versions("bars") == ["1", "2", "3"]
    assert registry.active("bars") == "3"


def test_train_activates_before_it_tells(
    cangate: CommandLine, config: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where standard output takes nothing, the version is there and active all the same."""

    def full(*_: object) -> None:
        raise CangateError("cannot write to standard output: No space left on device")

    monkeypatch.setattr(train, "_report", full)
    outcome = cangate("train", frames, "--name", "bars", "-c", config)
    assert (outcome.status, outcome.stderr) == (
        1,
        "cangate: cannot write to standard output: No space left on device\n",
    )
    assert ModelRegistry(config.parent / "models").active("bars") == "1"


def test_train_activates_whatever_version_where_none_is_active(
    cangate: CommandLine, config: Path, frames: Path
) -> None:
    """The first may have been refused, or imported and never activated."""
    (config.parent / "models" / "bars" / "1").mkdir(parents=True)
    outcome = cangate("train", frames, "--name", "bars", "-c", config)
    assert outcome.status == 0
    assert "bars@2 is active" in outcome.stdout
    assert ModelRegistry(config.parent / "models").active("bars") == "2"


def test_train_options_come_before_the_recipe(cangate: CommandLine, config: Path, frames: Path) -> None:
    """--roi and --false-reject are what the package records."""
    outcome = cangate("train", frames, "--name", "bars", "-c", config, "--roi", "none", "--false-reject", "0.25")
    assert outcome.status == 0
    manifest = read_package(config.parent / "models" / "bars" / "1").manifest
    assert manifest.recipe.roi.method == "none"
    assert manifest.calibration.false_reject == 0.25
    assert "extrapolated" not in outcome.stdout


def test_train_reports_what_it_left_out(cangate: CommandLine, config: Path, frames: Path) -> None:
    """A duplicate and a file that is no picture by its name are named, and do not hurt."""
    (frames / "copy [1].png").write_bytes((frames / "part1.png").read_bytes())
    (frames / "notes.txt").write_text("shift 2")
    outcome = cangate("train", frames, "--name", "bars", "-c", config)
    assert outcome.status == 0
    assert "part1.png shows the very pixels of copy [1].png" in outcome.stdout
    assert "no pictures by their name: notes.txt" in outcome.stdout


def test_names_are_told_without_what_a_terminal_would_obey(
    cangate: CommandLine, config: Path, frames: Path, tmp_path: Path
) -> None:
    """By every command that names frames: an escape, a line break and a change of direction are spelled out."""
    name, told = "\x1b[2J\n\u202e.png", r"\x1b[2J\n\u202e.png"
    for folder in (frames, more := write_parts(tmp_path / "more", 3, first_seed=50)):
        picture = draw_part(99)
        picture[0] = len(folder.name)
        for copy in (folder / name, folder / f"0{name}"):
            copy.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    for command in (
        ("train", frames, "--name", "bars"),
        ("calibrate", "bars", "--ok", more),
        ("models", "extend", "bars@1", more, "--accept"),
    ):
        outcome = cangate(*command, "-c", config)
        assert outcome.status == 0, outcome
        assert f"left out: 0{told} " in outcome.stdout
        assert not set(outcome.stdout) & {"\x1b", "\u202e"}


def test_train_refuses_unreadable_frames_by_name_and_writes_nothing(
    cangate: CommandLine, config: Path, frames: Path
) -> None:
    """One line names each of them."""
    (frames / "zero.png").touch()
    (frames / "part3.png").write_bytes((frames / "part3.png").read_bytes()[:200])
    line = cangate("train", frames, "--name", "bars", "-c", config).one_line_error()
    assert "2 of 6 frames cannot be used" in line
    assert "zero.png (frame_corrupt" in line
    assert "part3.png (frame_corrupt" in line
    assert not (config.parent / "models").exists()


@pytest.mark.parametrize("count", [0, 1])
def test_train_refuses_a_set_that_is_too_small(cangate: CommandLine, config: Path, tmp_path: Path, count: int) -> None:
    """No frames, one frame."""
    line = cangate("train", write_parts(tmp_path / "few", count), "--name", "bars", "-c", config).one_line_error()
    assert ("no pictures in" if count == 0 else "2 OK frames at least") in line
    assert not (config.parent / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--name", "a/b"), "model name 'a/b'"),
        (("--name", "bars", "--embedder", "magic"), "--embedder magic"),
        (("--name", "bars", "--roi", "magic"), "--roi"),
        (("--name", "bars", "--roi", "fixed", "-c", "{empty}"), "polygon"),
        (("--name", "bars", "--false-reject", "0"), "--false-reject"),
        (("--name", "bars", "--store", "{file}"), "{file}"),
        ((), "--name"),
    ],
)
def test_train_refuses_unusable_arguments_in_one_line(
    cangate: CommandLine, config: Path, frames: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    """What is wrong is named; there is no traceback."""
    places = {"{file}": tmp_path / "a file", "{empty}": tmp_path / "empty.toml"}
    for place in places.values():
        place.touch()
    given = [places.get(argument, argument) for argument in arguments]
    line = cangate("train", frames, "-c", config, *given).one_line_error()
    assert str(places.get(words, words)) in line


def test_train_refuses_a_directory_that_is_not_there(cangate: CommandLine, tmp_path: Path) -> None:
    """By name."""
    assert "nowhere" in cangate("train", tmp_path / "nowhere", "--name", "bars").one_line_error()


def test_train_says_before_it_begins_that_the_store_cannot_be_written(
    cangate: CommandLine, config: Path, tmp_path: Path
) -> None:
    """A training may take an hour: not a frame is read first."""
    (tmp_path / "ok").mkdir()
    (tmp_path / "ok" / "unreadable.png").write_bytes(b"no picture")
    (tmp_path / "file").write_text("")
    outcome = cangate("train", tmp_path / "ok", "--name", "bars", "-c", config, "--store", tmp_path / "file")
    assert "cannot write" in outcome.one_line_error()


def test_train_takes_names_that_are_no_utf8(cangate: CommandLine, config: Path, frames: Path) -> None:
    """They are escaped in the manifest."""
    next(frames.iterdir()).rename(frames / os.fsdecode(b"\xff\xe9.png"))
    assert cangate("train", frames, "--name", "bars", "-c", config).status == 0
    manifest = read_package(config.parent / "models" / "bars" / "1").manifest
    assert r"\xff\xe9.png" in [frame.name for frame in manifest.training.frames]
