"""`cangate benchmark`, and that every command of the contract is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.settings import DeadlineSettings
from service.evaluation.speed import STAGES, Speed
from tests.support.cli import CommandLine
from tests.support.parts import HEIGHT, WIDTH, write_config

CONTRACT = (
    "run",
    "demo",
    "train",
    "calibrate",
    "evaluate",
    "inspect",
    "record",
    "replay",
    "models",
    "config",
    "benchmark",
    "export",
)
"""The commands of section 6 of the wire contract."""


def test_help_lists_every_command_of_the_contract(cangate: CommandLine) -> None:
    """By its name, at the beginning of a line."""
    outcome = cangate("--help")
    assert outcome.status == 0
    listed = {line.strip("│ ").split(" ")[0] for line in outcome.stdout.splitlines() if line.strip("│ ")}
    assert set(CONTRACT) <= listed


@pytest.mark.parametrize("command", CONTRACT)
def test_every_command_of_the_contract_has_help(cangate: CommandLine, command: str) -> None:
    """So it can be imported, too."""
    outcome = cangate(command, "--help")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert f"cangate {command}" in outcome.stdout


def test_benchmark_measures_a_model_on_a_folder(cangate: CommandLine, store: Path, ok: Path, tmp_path: Path) -> None:
    """The JSON says what is printed: every stage, both loads, the computer, and how many parts there is time for."""
    document = tmp_path / "new" / "speed.json"
    given = ("bars", ok, "--store", store, "--seconds", "0.5", "--workers", "1", "--json", document)
    outcome = cangate("benchmark", *given)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert [path.name for path in document.parent.iterdir()] == ["speed.json"]
    speed = Speed.model_validate_json(document.read_text())
    assert list(json.loads(document.read_text())["stages_ms"]) == list(STAGES)
    for spread in (*speed.stages_ms.values(), speed.one_at_a_time.whole_ms, speed.full_load.whole_ms):
        assert 0 <= spread.median <= spread.p95 <= spread.p99 <= spread.slowest
    assert speed.one_at_a_time.whole_ms.median > speed.stages_ms["embed"].median
    assert (speed.model.name, speed.model.version) == ("bars", "1")
    assert (speed.frames.count, speed.frames.left_out, speed.frames.sizes_wh) == (5, 0, ((WIDTH, HEIGHT),))
    assert speed.refused == ()
    assert speed.one_at_a_time.at_a_time == 1
    assert (speed.computer.workers, speed.full_load.at_a_time) == (1, 2 * speed.computer.max_batch)
    assert speed.full_load.parts >= 1
    assert speed.deadline_ms == DeadlineSettings().default_ms
    for said in (*STAGES, "whole", "bars@1", "fixed", "filters", speed.computer.cpu, "peak memory", "p99"):
        assert said in outcome.stdout
    assert f"deadline.default_ms = {speed.deadline_ms}" in outcome.stdout.splitlines()[-1]


def test_benchmark_names_what_cannot_be_judged_and_goes_on(
    cangate: CommandLine, store: Path, ok: Path, tmp_path: Path
) -> None:
    """A truncated, an empty and a text file, once each, however often the others are judged."""
    frames = tmp_path / "frames"
    frames.mkdir()
    good = (ok / "part1.png").read_bytes()
    for name, content in (("good", good), ("cut", good[:300]), ("empty", b""), ("text", b"no picture")):
        (frames / f"{name}.png").write_bytes(content)
    (frames / "notes.txt").touch()
    document = tmp_path / "speed.json"
    outcome = cangate("benchmark", "bars", frames, "--store", store, "--seconds", "0.5", "--json", document)
    assert (outcome.status, outcome.stderr) == (0, "")
    speed = Speed.model_validate_json(document.read_text())
    assert {(refused.name, refused.reason) for refused in speed.refused} == {
        ("cut.png", "frame_corrupt"),
        ("empty.png", "frame_corrupt"),
        ("text.png", "frame_corrupt"),
    }
    assert len(speed.refused) == 3
    assert speed.frames.count == 1
    assert "left out: 3" in outcome.stdout
    for name in ("notes.txt", "cut.png", "empty.png", "text.png"):
        assert outcome.stdout.count(name) == 1


def test_benchmark_fails_where_nothing_can_be_judged(cangate: CommandLine, store: Path, tmp_path: Path) -> None:
    """One line with the reason of the first, and nothing is written, not even a folder."""
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "text.png").write_text("no picture")
    document = tmp_path / "new" / "speed.json"
    outcome = cangate("benchmark", "bars", frames, "--store", store, "--seconds", "0.5", "--json", document)
    assert outcome.status == 1
    (line,) = outcome.stderr.splitlines()
    assert "text.png" in line
    assert "frame_corrupt" in line
    assert not document.parent.exists()


def test_benchmark_trains_a_model_where_it_is_given_none(cangate: CommandLine, tmp_path: Path) -> None:
    """And says so; the frames are rendered in the size asked for."""
    document = tmp_path / "speed.json"
    given = ("--seconds", "0.5", "--size", "320x240", "--json", document, "-c", write_config(tmp_path))
    outcome = cangate("benchmark", *given)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "no MODEL given" in outcome.stdout.splitlines()[0]
    speed = Speed.model_validate_json(document.read_text())
    assert speed.frames.sizes_wh == ((320, 240),)
    assert speed.recipe.embed.embedder == "filters"
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("other",), "other"),
        (("bars@9",), "bars@9"),
        (("bars", "/nowhere"), "/nowhere"),
        (("bars", "--size", "1280"), "1280"),
        (("bars", "--size", "100x1280"), "100x1280"),
        (("bars", "--size", "8192x8192"), "images.max_pixels"),
        (("bars", ".", "--size", "320x240"), "--size"),
        (("bars", "--seconds", "0"), "--seconds"),
        (("bars", "--seconds", "nan"), "--seconds"),
        (("bars", "--seconds", "inf"), "--seconds"),
        (("bars", "--workers", "0"), "--workers"),
        (("bars", "--colour"), "--colour"),
        (("bars", "--json", "/dev/null/speed.json"), "/dev/null"),
    ],
)
def test_benchmark_refuses_bad_arguments_in_one_line(
    cangate: CommandLine, store: Path, arguments: tuple[str, ...], named: str
) -> None:
    """Before anything is rendered or judged."""
    assert named in cangate("benchmark", *arguments, "--store", store).one_line_error()


def test_benchmark_refuses_a_folder_without_pictures(cangate: CommandLine, store: Path, tmp_path: Path) -> None:
    """The empty case."""
    line = cangate("benchmark", "bars", tmp_path, "--store", store).one_line_error()
    assert "no pictures" in line
