"""`cangate demo`: the whole line on one machine, over real MQTT and OPC UA."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from schemas.messages import Decision, Gate
from schemas.settings import LogSettings
from service.cli.common import console, say, stage_bars
from service.cli.demo_line import DemoLine, DemoPart
from service.cli.tables import COLOURS
from service.logs import configure_logging


@dataclass(slots=True)
class Tally:
    """What the demo counts; a mismatch is a gate that did not do what the verdict says."""

    ok: int = 0
    damaged: int = 0
    error: int = 0
    mismatches: int = 0

    def take(self, part: DemoPart) -> None:
        """Count one part; one without a verdict is an error."""
        verdict = part.shot.verdict
        decision = Decision.ERROR if verdict is None else verdict.decision
        self.ok += decision is Decision.OK
        self.damaged += decision is Decision.DAMAGED
        self.error += decision is Decision.ERROR
        should_open = verdict is not None and verdict.gate is Gate.PASS
        self.mismatches += part.action is None or part.action.opened is not should_open

    def __str__(self) -> str:
        parts = self.ok + self.damaged + self.error
        return (
            f"demo: {parts} parts, {self.ok} ok, {self.damaged} damaged, {self.error} error, "
            f"{self.mismatches} gate mismatches"
        )


def demo(
    parts: Annotated[int, typer.Option(min=0, help="End after this many parts; 0 goes on until Ctrl-C.")] = 30,
    rate: Annotated[float, typer.Option(min=0.1, max=50, help="Parts per second.")] = 2.0,
    frames: Annotated[
        Path | None,
        typer.Option(help="Judge the pictures of this folder, trained on themselves, instead of rendered canisters."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Of the page; another one if it is in use.")] = 8080,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log of the service.")] = False,
) -> None:
    """Run a whole line here: camera, broker, inspection, PLC with its gate, page.

    Trains a model on rendered good canisters, starts a broker (mosquitto where it is installed, else an embedded one),
    the service, and a PLC as a separate OPC UA client; then shows parts, every third one damaged, and prints what
    became of each at the gate. Needs no GPU, no weights and no configuration; `CANGATE_...` in the environment is the
    plant's and not heeded here.

    Example: cangate demo --parts 20 --rate 3
    """
    configure_logging(LogSettings(level="info" if verbose else "error"))
    tally, interrupted = Tally(), False
    with tempfile.TemporaryDirectory(prefix="cangate-demo-") as folder:
        with stage_bars() as progress:
            line = DemoLine(Path(folder), parts, rate, frames, port, say=say, progress=progress)
            line.train()  # not within asyncio, which would wait for its end after Ctrl-C
        try:
            asyncio.run(_watch(line, tally))
        except KeyboardInterrupt:
            interrupted = True
    say(str(tally))
    if interrupted and parts:
        raise KeyboardInterrupt  # these are not the parts that were asked for
    if tally.error or tally.mismatches:
        raise typer.Exit(1)


async def _watch(line: DemoLine, tally: Tally) -> None:
    async with aclosing(line.run()) as shown:
        async for part in shown:
            tally.take(part)
            console.print(_row(part), soft_wrap=True)


def _row(part: DemoPart) -> str:
    event, verdict, action = part.shot.event, part.shot.verdict, part.action
    truth = escape(part.truth)
    gate = "gate silent" if action is None else "gate opened" if action.opened else "gate rejected"
    if verdict is None:
        return f"{event.part_id}  [yellow]no verdict[/]  {gate}  (really: {truth})"
    judged = f"[{COLOURS[verdict.decision]}]{verdict.decision:<7}[/]"
    if verdict.score is None:
        seen = str(verdict.reason)
    else:
        seen = f"s {verdict.score:.3f}  tau {verdict.threshold:.3f}  {len(verdict.boxes)} boxes"
    return f"{event.part_id}  {judged}  {seen}  {verdict.latency_ms:5.0f} ms  {gate:<13}  (really: {truth})"
