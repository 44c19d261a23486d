"""Commands to a station that go wrong in ways nobody expected."""

from __future__ import annotations

import errno
from typing import cast

import pytest
import torch
from pydantic import JsonValue
from structlog.testing import capture_logs

from schemas.messages import Command, CommandName
from service.commands import StationCommands
from service.compute import LoadedModel
from service.errors import PackageError
from service.model.active import ActiveModel
from service.station import Station


class Failing:
    """A model that cannot be exchanged, for whatever reason."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def activate(self, name: str, version: str) -> LoadedModel:  # noqa: ARG002 - as the model's own
        raise self.error

    async def set_threshold(self, tau: float) -> LoadedModel:  # noqa: ARG002 - as above
        raise self.error


@pytest.mark.parametrize(
    ("command", "args", "error", "told"),
    [
        (
            CommandName.SET_THRESHOLD,
            {"threshold": 0.5},
            OSError(errno.ENOSPC, "No space left on device"),
            "OSError: [Errno 28] No space left on device",
        ),
        (
            CommandName.ACTIVATE_MODEL,
            {"name": "canister", "version": 2},
            torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB."),
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        ),
        (CommandName.ACTIVATE_MODEL, {"name": "canister", "version": 3}, PackageError("no such version"), None),
    ],
)
async def test_command_that_fails_is_answered_in_one_line(
    command: CommandName, args: dict[str, JsonValue], error: Exception, told: str | None
) -> None:
    """A full disk or GPU is no reason to leave whoever asked without an answer; a defect is logged with its trace."""
    models = cast("ActiveModel", Failing(error))
    commands = StationCommands("line1", station=cast("Station", None), models=models, reset_fault=lambda: None)
    with capture_logs() as logged:
        reply = await commands.handle(Command(command=command, args=args), "mqtt")
    assert (reply.station, reply.command, reply.ok) == ("line1", command, False)
    assert reply.error == (told or str(error))
    (line,) = logged
    expected = ("command_failed", True) if told else ("command_refused", False)
    assert expected == (line["event"], bool(line.get("exc_info")))
