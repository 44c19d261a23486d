"""How commands end that are told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from service.cli import sessions
from service.errors import UsageError
from tests.support.cli import CommandLine
from tests.support.waiting import loop_turns


@pytest.fixture
def cangate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line."""
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def terminal() -> Iterator[None]:
    """The process has one: these tests may themselves run below nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


async def _told(number: int) -> None:
    os.kill(os.getpid(), number)
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")],
)
@pytest.mark.parametrize("within", ["a loop", "plain code"])
@pytest.mark.usefixtures("terminal")
def test_command_that_is_stopped_cleans_up(
    cangate: CommandLine, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int, word: str, within: str
) -> None:
    """Ctrl-C, SIGTERM, a closed terminal: one line, the exit status that shells know, what was begun is put away."""
    put_away = []

    def stopped(_config: object) -> None:
        try:
            if within == "a loop":
                asyncio.run(_told(number))
            else:
                os.kill(os.getpid(), number)
                signal.pause()
        finally:
            put_away.append(number)

    monkeypatch.setattr(sessions, "load_settings", stopped)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    done = cangate("sessions", "list")
    assert (done.status, done.stderr) == (status, f"cangate: {word}\n")
    assert put_away == [number]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


@pytest.mark.usefixtures("terminal")
def test_command_hears_once_that_its_terminal_is_closed(cangate: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shell and terminal both say it, and what tidies up is not interrupted by that."""
    put_away = []

    async def until_told() -> None:
        try:
            await _told(signal.SIGHUP)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            await loop_turns(1)
            put_away.append("all")

    monkeypatch.setattr(sessions, "load_settings", lambda _config: asyncio.run(until_told()))
    assert (cangate("sessions", "list").status, put_away) == (129, ["all"])


@pytest.mark.usefixtures("terminal")
def test_command_that_takes_ctrl_c_over_ends_with_its_terminal(
    cangate: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cangate run` and `cangate record` do: they end in their own way."""

    async def until_told() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        os.kill(os.getpid(), signal.SIGHUP)
        await stop.wait()
        raise UsageError("ended in its own way")

    monkeypatch.setattr(sessions, "load_settings", lambda _config: asyncio.run(until_told()))
    assert cangate("sessions", "list").one_line_error() == "cangate: ended in its own way"


def test_command_below_nohup_outlives_its_terminal(cangate: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is ignored stays ignored."""

    def told(_config: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        raise UsageError("went on")

    monkeypatch.setattr(sessions, "load_settings", told)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert cangate("sessions", "list").one_line_error() == "cangate: went on"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("where", ["a file", "a question"])
def test_command_whose_input_ends_has_failed(cangate: CommandLine, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Nobody has interrupted it, as typer has it: one line, status 1."""

    def ended(_config: object) -> None:
        if where == "a file":
            raise EOFError
        abort = typer.Abort()
        abort.__context__ = EOFError()
        raise abort

    monkeypatch.setattr(sessions, "load_settings", ended)
    done = cangate("sessions", "list")
    assert (done.status, done.stderr) == (1, "cangate: a file or the standard input ends too early\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.usefixtures("terminal")
def test_command_in_the_background_of_a_shell_can_be_terminated(
    cangate: CommandLine, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    """Ctrl-C is ignored there."""
    monkeypatch.setattr(sessions, "load_settings", lambda _config: os.kill(os.getpid(), number))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert cangate("sessions", "list").status == status
    finally:
        signal.signal(signal.SIGINT, before)


_INTERRUPTED_WHILE_IT_IMPORTS = """
import os, signal, sys
from service.cli.__main__ import main

class Finder:
    def find_spec(self, *_):
        os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
main()
"""


def test_command_that_is_interrupted_before_it_knows_itself_ends_in_silence() -> None:
    """It takes half a second to import what a command line needs, and nothing is begun before."""
    ended = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_WHILE_IT_IMPORTS], capture_output=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")
