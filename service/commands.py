"""Commands to a station, whichever way they come in."""

from __future__ import annotations

import sys
from collections.abc import Callable

import structlog
from pydantic import JsonValue

from schemas.messages import Command, CommandName, CommandReply
from service.compute import LoadedModel
from service.errors import CangateError, UsageError, brief
from service.model.active import ActiveModel
from service.station import Station

log = structlog.get_logger(__name__)

_LONGEST_ERROR = 500


class StationCommands:
    """Carries commands out, one after another where they exchange the model."""

    def __init__(
        self, station_id: str, *, station: Station, models: ActiveModel, reset_fault: Callable[[], None]
    ) -> None:
        self._id = station_id
        self._station = station
        self._models = models
        self._reset_fault = reset_fault

    async def handle(self, command: Command, source: str) -> CommandReply:
        """Carry out `command` and say how it went; never raises, whatever the command or the machine does."""
        try:
            result = await self._carry_out(command)
        except CangateError as exc:
            log.warning("command_refused", command=command.command, source=source, error=str(exc))
            return self._failure(command, str(exc))
        except Exception as exc:  # the supervised boundary: a full disk or GPU is no reason to drop the connection
            log.exception("command_failed", command=command.command, source=source)
            return self._failure(command, brief(exc))
        log.info("command", command=command.command, source=source)
        return CommandReply(station=self._id, command=command.command, ok=True, result=result)

    def _failure(self, command: Command, error: str) -> CommandReply:
        # it may quote what was asked for
        return CommandReply(station=self._id, command=command.command, ok=False, error=error[:_LONGEST_ERROR])

    async def _carry_out(self, command: Command) -> dict[str, JsonValue]:
        args = command.args
        match command.command:
            case CommandName.ACTIVATE_MODEL:
                return _model(await self._models.activate(_text(args, "name"), _text(args, "version")))
            case CommandName.ROLLBACK_MODEL:
                return _model(await self._models.rollback(_text(args, "name") if "name" in args else None))
            case CommandName.SET_THRESHOLD:
                return _model(await self._models.set_threshold(_positive(args, "threshold")))
            case CommandName.PAUSE:
                self._station.paused = True
            case CommandName.RESUME:
                self._station.paused = False
            case CommandName.RESET_FAULT:
                self._reset_fault()
                if self._models.current is None:
                    await self._models.load()
            case CommandName.PING:
                pass
        return {"state": self._station.status().state.value}


def _model(loaded: LoadedModel) -> dict[str, JsonValue]:
    return {"model": loaded.ref.model_dump(mode="json")}


def _text(args: dict[str, JsonValue], name: str) -> str:
    value = args.get(name)
    # a version may well be written as a number
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value):
        raise UsageError(f"args.{name} must be a text")
    return str(value)


def _positive(args: dict[str, JsonValue], name: str) -> float:
    value = args.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max:
        return float(value)
    raise UsageError(f"args.{name} must be a positive number")
