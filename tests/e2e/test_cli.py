"""The command line as a shell sees it: output, one line of complaint, exit status."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def cangate(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def one_line(text: str) -> str:
    """Return the only line of `text`."""
    (line,) = text.splitlines()
    return line


def test_help_lists_every_command(tmp_path: Path) -> None:
    """`--help` names the commands and asks for nothing heavy."""
    done = cangate("--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in ("run", "demo", "train", "inspect", "models", "config", "export"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["explode"],
        ["run", "--bogus"],
        ["config", "check", "-c", "nowhere.toml"],
        ["run", "-c", "nowhere.toml"],
        ["train", "no-such-folder", "--name", "m"],
    ],
    ids=" ".join,
)
def test_unusable_arguments_are_one_line_and_exit_2(tmp_path: Path, arguments: list[str]) -> None:
    """Exactly one clear line on standard error, no traceback."""
    done = cangate(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert one_line(done.stderr).startswith("cangate: ")


def test_run_says_one_line_although_there_is_more_to_warn_of(tmp_path: Path) -> None:
    """A password that others may read, or hear, is news of a service that runs, not of one that cannot."""
    (tmp_path / "data" / "frames").mkdir(parents=True)
    (tmp_path / "password").write_text("s3cret")
    (tmp_path / "password").chmod(0o644)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mqtt = "host = '192.0.2.1'\nusername = 'cangate'\npassword_file = 'password'\n"
        config = tmp_path / "config.toml"
        config.write_text(f"[mqtt]\n{mqtt}[opcua.server]\nenabled = false\n[http]\nport = {port}\n")
        done = cangate("run", "-c", config, cwd=tmp_path)
    assert (done.returncode, str(port) in one_line(done.stderr)) == (2, True), done.stderr


def test_demo_ends_by_itself(tmp_path: Path) -> None:
    """The whole line: one line a part, the last line of the contract, exit status 0; a narrow terminal wraps none."""
    done = cangate("demo", "--parts", 6, "--rate", 3, cwd=tmp_path, COLUMNS="50")
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.splitlines()
    assert last.startswith("demo: 6 parts, ")
    assert last.endswith(" 0 error, 0 gate mismatches")
    parts = [line for line in done.stdout.splitlines() if line.startswith("C-")]
    assert len(parts) == 6
    assert "Traceback" not in done.stderr
