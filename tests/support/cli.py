"""Runs the command line in this process."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

import pytest

from service.cli.main import main
from service.logs import StandardError


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exit status and what was written."""

    status: int
    stdout: str
    stderr: str

    def one_line_error(self, status: int = 2) -> str:
        """Return the one line that a refusal is: this exit status and nothing else on standard error."""
        assert self.status == status, self
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self
        return lines[0]


class CommandLine:
    """`cangate`, with captured output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        """Run `cangate ARGUMENTS`."""
        self._monkeypatch.setattr(sys, "argv", ["cangate", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        for handler in logging.root.handlers[:]:
            if isinstance(handler, StandardError):  # ends its thread
                handler.flush()
                logging.root.removeHandler(handler)
                handler.close()
        captured = self._capsys.readouterr()
        status = ended.value.code
        assert status is None or isinstance(status, int)
        return Outcome(status or 0, captured.out, captured.err)
