"""`cangate models`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from service.model.registry import ModelRegistry
from service.model.training import TrainedModel
from tests.support.cli import CommandLine


@pytest.fixture
def registry(trained: TrainedModel, tmp_path: Path) -> ModelRegistry:
    """A store with two versions, the first of them active."""
    registry = ModelRegistry(tmp_path / "models")
    for _ in range(2):
        trained.publish(registry)
    registry.activate("bars", "1")
    return registry


def test_list_of_an_empty_store_says_so(cangate: CommandLine, tmp_path: Path) -> None:
    """Nothing there is no mistake."""
    outcome = cangate("models", "list", "--store", tmp_path)
    assert outcome.status == 0
    assert "no models" in outcome.stdout


def test_list_marks_the_active_version(cangate: CommandLine, registry: ModelRegistry) -> None:
    """One line a version; a damaged package is told apart and does not hide the others."""
    (registry.store / "bars" / "2" / "model.json").unlink()
    outcome = cangate("models", "list", "--store", registry.store)
    lines = outcome.stdout.splitlines()
    assert outcome.status == 0
    assert any("bars@1" in line and "yes" in line for line in lines)
    assert ["bars@2", "refused"] in [line.split() for line in lines]
    assert lines[-1].startswith("bars@2 is refused: package ")
    assert max(len(line.rstrip()) for line in lines[:-1]) < 100


def test_show_prints_the_manifest(cangate: CommandLine, registry: ModelRegistry) -> None:
    """As JSON that a machine can read."""
    outcome = cangate("models", "show", "bars@2", "--store", registry.store)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert json.loads(outcome.stdout)["version"] == "2"


def test_verify_tells_an_intact_package_from_a_damaged_one(cangate: CommandLine, registry: ModelRegistry) -> None:
    """Files and golden scores are checked; a damaged file is named in one line."""
    intact = cangate("models", "verify", "bars", "--store", registry.store)
    assert intact.status == 0
    assert "golden frames reproduce" in intact.stdout
    (registry.store / "bars" / "1" / "memory.safetensors").write_bytes(b"")
    assert "memory.safetensors" in cangate("models", "verify", "bars", "--store", registry.store).one_line_error()


def test_activate_and_roll_back(cangate: CommandLine, registry: ModelRegistry) -> None:
    """Forth and back again, and no further than there is."""
    assert cangate("models", "activate", "bars", "2", "--store", registry.store).status == 0
    assert registry.active("bars") == "2"
    assert cangate("models", "rollback", "bars", "--store", registry.store).status == 0
    assert registry.active("bars") == "1"
    assert "no earlier" in cangate("models", "rollback", "bars", "--store", registry.store).one_line_error()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--expect", "labels", "--labels", "nix.csv"), "--expect and --labels belong to --require-replay"),
        (("--expect", "recorded"), "--expect and --labels belong to --require-replay"),
        (("--labels", "nix.csv"), "--expect and --labels belong to --require-replay"),
        (("--labels", "nix.csv", "--require-replay", "session"), "--labels belongs to --expect labels"),
    ],
)
def test_activate_refuses_what_would_not_be_looked_at(
    cangate: CommandLine, registry: ModelRegistry, arguments: tuple[str, ...], complaint: str
) -> None:
    """Who gives labels believes that they were counted."""
    done = cangate("models", "activate", "bars", "2", *arguments, "--store", registry.store)
    assert complaint in done.one_line_error()
    assert registry.active("bars") == "1"


def test_list_shows_a_broken_pointer_in_its_row(cangate: CommandLine, registry: ModelRegistry) -> None:
    """The versions and the other models are listed all the same."""
    (registry.store / "bars" / "active.json").write_text("{")
    outcome = cangate("models", "list", "--store", registry.store)
    lines = [line.split() for line in outcome.stdout.splitlines()]
    assert (outcome.status, outcome.stderr) == (0, "")
    assert lines[1] == ["bars", "refused"]
    assert [line[0] for line in lines[2:4]] == ["bars@1", "bars@2"]
    assert lines[4][:3] == ["bars", "is", "refused:"]


def test_import_refuses_what_never_ends(cangate: CommandLine, registry: ModelRegistry) -> None:
    """A device is no package, and nobody writes into a pipe."""
    pipe = registry.store / "pipe"
    os.mkfifo(pipe)
    for file in ("/dev/zero", pipe):
        for command in (("import",), ("import-pickle", "--name", "bars")):
            line = cangate("models", *command, file, "--store", registry.store).one_line_error()
            assert line == f"cangate: {file}: no regular file"


@pytest.mark.parametrize(
    "arguments", [("show", "other"), ("verify", "bars@7"), ("activate", "bars", "7"), ("rollback", "other")]
)
def test_a_missing_model_is_refused_by_name(
    cangate: CommandLine, registry: ModelRegistry, arguments: tuple[str, ...]
) -> None:
    """In one line, by every command."""
    line = cangate("models", *arguments, "--store", registry.store).one_line_error()
    assert arguments[1].partition("@")[0] in line
