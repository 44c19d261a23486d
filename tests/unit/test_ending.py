"""How commands end that are told to stop."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from service.cli import sessions
from tests.support.cli import CommandLine


@pytest.fixture
def cangate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line."""
    return CommandLine(monkeypatch, capsys)


async def _told(number: int) -> None:
    os.kill(os.getpid(), number)
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("within", ["a loop", "plain code"])
def test_command_that_is_stopped_cleans_up(
    cangate: CommandLine, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int, word: str, within: str
) -> None:
    """Ctrl-C and SIGTERM alike: one line, the exit status that shells know, and what was begun is put away."""
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
    before = signal.getsignal(signal.SIGTERM)
    done = cangate("sessions", "list")
    assert (done.status, done.stderr) == (status, f"cangate: {word}\n")
    assert put_away == [number]
    assert signal.getsignal(signal.SIGTERM) is before


def test_command_in_the_background_of_a_shell_can_be_terminated(
    cangate: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is ignored there."""
    monkeypatch.setattr(sessions, "load_settings", lambda _config: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert cangate("sessions", "list").status == 143
    finally:
        signal.signal(signal.SIGINT, before)
