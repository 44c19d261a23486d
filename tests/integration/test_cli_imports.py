"""What a command imports: torch takes seconds, and only what computes need spend them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.model.registry import ModelRegistry
from service.model.training import TrainedModel

WITHOUT_TORCH = """
import sys
try:
    from service.cli.main import main
    main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


def run(folder: Path, *arguments: str) -> list[str]:
    """Run `cangate` in a process of its own; return its exit status and whether it has imported torch."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    ended = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=120)
    return [str(ended.returncode), ended.stderr.splitlines()[-1]]


@pytest.mark.parametrize("command", ["calibrate", "compare", "config", "evaluate", "inspect", "models", "replay"])
def test_help_waits_for_no_torch(tmp_path: Path, command: str) -> None:
    """Nor does what is wrong with the arguments."""
    assert run(tmp_path, command, "--help") == ["0", "False"]


@pytest.mark.parametrize(
    "arguments",
    [("list",), ("show", "bars"), ("export", "bars", "bars.zip"), ("import", "given.zip")],
    ids=lambda arguments: arguments[0],
)
def test_packages_are_looked_at_and_carried_without_torch(
    trained: TrainedModel, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Their files are verified all the same."""
    registry = ModelRegistry(tmp_path / "models")
    trained.publish(registry)
    registry.activate("bars", "1")
    assert run(tmp_path, "models", "export", "bars", "given.zip") == ["0", "False"]
    assert run(tmp_path, "models", *arguments) == ["0", "False"]
