"""`cangate selftest`: break a line on purpose and see whether the promise is kept."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from adapters.drill.line import drill_line
from adapters.drill.model import drill_model
from adapters.drill.scenarios import SCENARIOS, Outcome, play
from adapters.simulation.broker import find_mosquitto
from schemas.settings import LogSettings
from service.cli.common import error_console, say
from service.errors import UsageError
from service.logs import configure_logging


def selftest(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Play only drills whose name contains this; may be repeated.")
    ] = None,
) -> None:
    """Break a line here on purpose, one thing after the other, and count what became of every part.

    Starts a private broker (mosquitto where it is installed), the service as a process of its own, a PLC's gate over
    OPC UA and a camera, all on loopback; then kills, freezes, cuts, floods and fills up. Nothing outside a temporary
    folder is touched. Exits 1 where a part was lost, answered twice, let pass too late, or a gate
    was told nothing or something else than the verdict. Takes some minutes.

    Example: cangate selftest --only broker --only journal
    """
    configure_logging(LogSettings(level="error"))
    wanted = tuple(only or [""])
    for word in wanted:
        if not any(word in scenario.name for scenario in SCENARIOS):
            names = ", ".join(scenario.name for scenario in SCENARIOS)
            raise UsageError(f"--only: no drill has {word!r} in its name; there are: {names}")
    chosen = [scenario for scenario in SCENARIOS if any(word in scenario.name for word in wanted)]
    if all(scenario.needs_mosquitto for scenario in chosen) and find_mosquitto() is None:
        raise UsageError("nothing to play: mosquitto is not installed")
    outcomes = asyncio.run(_watch(wanted))
    last = outcomes[-1].findings
    failed = [outcome.name for outcome in outcomes if outcome.wrong]
    say(f"selftest: {len(outcomes)} drills, {len(failed)} failed; {last}")
    if failed:
        raise typer.Exit(1)


async def _watch(wanted: tuple[str, ...]) -> list[Outcome]:
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="cangate-selftest-", ignore_cleanup_errors=True) as folder:
        async with aclosing(_outcomes(Path(folder), wanted)) as playing:
            async for outcome in playing:
                outcomes.append(outcome)
                say(_row(outcome))
    return outcomes


async def _outcomes(folder: Path, wanted: tuple[str, ...]) -> AsyncGenerator[Outcome, None]:
    with error_console.status("training a small model"):
        model = await asyncio.to_thread(drill_model, folder / "model")
    async with drill_line(folder / "line", model) as line:
        for scenario in SCENARIOS:
            if not any(word in scenario.name for word in wanted):
                continue
            if scenario.needs_mosquitto and line.mosquitto is None:
                say(f"skipped  {scenario.name}: mosquitto is not installed")
                continue
            with error_console.status(scenario.name):
                yield await play(scenario, line)


def _row(outcome: Outcome) -> str:
    said = "FAILED" if outcome.wrong else "ok"
    return f"{said:<8} {outcome.name:<38} {outcome.seconds:5.1f} s  {'; '.join(outcome.wrong)}".rstrip()
