"""What happens to a command whose standard output takes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "service.cli")
ENDLESS = """
from importlib import import_module
import sys
from service.cli.common import console
from service.cli.main import main

def forever(loop: bool = False) -> None:
    while True:
        console.print("a part")

setattr(import_module(f"service.cli.{sys.argv[1]}"), sys.argv[1], forever)
main()
"""


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which "$@" is `cangate ARGUMENTS`."""
    words = ("bash", "-c", line, "bash", *COMMAND, *map(str, arguments))
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("models", "list"), ("models", "list", "--help")])
def test_full_disk_is_told_in_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Exit status 1, and no traceback at the end of the process either."""
    store = ("--store", tmp_path) if arguments[-1] == "list" else ()
    done = shell('"$@" > /dev/full', *arguments, *store)
    assert (done.returncode, done.stderr) == (1, "cangate: cannot write to standard output: No space left on device\n")


def test_command_whose_output_is_read_no_further_comes_to_its_end(store: Path) -> None:
    """As behind `| head -1`: what it does besides is done, its status is what it is otherwise."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        (*COMMAND, "models", "list", "--store", store), stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [("run",), ("demo",), ("simulate",), ("record",), ("replay", "--loop")])
def test_command_without_an_end_ends_with_its_reader(arguments: tuple[str, ...]) -> None:
    """Else it would run on, and nobody would see it."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        (sys.executable, "-c", ENDLESS, *arguments), stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_command_without_standard_output_works(tmp_path: Path) -> None:
    """Whoever starts it may have closed it."""
    done = shell('"$@" >&-', "models", "list", "--store", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
