"""Arguments that no command can work with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import CommandLine


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "no-such-folder", "--name", "m"],
        ["inspect", "no-such-model", "a.png"],
        ["evaluate", "no-such-model", "-o", "report"],
        ["calibrate", "no-such-model"],
        ["replay", "no-such-session"],
        ["compare", "no-such-session", "no-such-model"],
        ["benchmark", "--model", "no-such-model"],
        ["demo", "--parts", "many"],
        ["demo", "--frames", "no-such-folder"],
    ],
    ids=" ".join,
)
def test_unusable_arguments_are_one_line_and_exit_2(
    cangate: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """Nothing is begun, and nothing written."""
    monkeypatch.chdir(tmp_path)
    assert cangate(*arguments).one_line_error().startswith("cangate: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("group", ["config", "certs", "models", "sessions", "export"])
def test_group_of_commands_offers_no_completion_of_its_own(cangate: CommandLine, group: str) -> None:
    """It completes nothing: that of the whole command line is `cangate --install-completion`."""
    done = cangate(group, "--help")
    assert (done.status, "completion" in done.stdout) == (0, False)
