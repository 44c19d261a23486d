"""What the journal costs on the wire: none, normal, full, one after the other on the same machine.

    python -m benchmarks.wire [--events 200] [--rate 5] [--rounds 2]

Runs the service in a process of its own behind a private mosquitto, once without any journal (a stand-in that keeps
nothing), once with `journal.sync = "normal"`, once with `full`, and does that `rounds` times, since a shared machine
has good and bad minutes. Wire overhead is publish to verdict at the client minus the sum of the verdict's stages_ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from adapters.drill.ledger import Ledger
from adapters.drill.model import DrillModel, drill_model
from adapters.drill.plant import DrillPlant
from adapters.drill.service import STATION, DrilledService
from adapters.simulation.broker import MosquittoBroker, find_mosquitto
from schemas.messages import Verdict
from schemas.settings import Settings
from service.bootstrap import build
from service.logs import configure_logging
from service.ports import Answer, Arrival, JournalEntry, VerdictQuery

MODES = ("none", "normal", "full")
_DEADLINE_MS = 5000
_WARM_UP = 10


class NoJournal:
    """Fulfils Journal and keeps nothing: what the wire costs without one."""

    fault: str | None = None

    def reset_fault(self) -> None:
        """Nothing fails here."""

    async def accept(self, arrival: Arrival, deadline_at: datetime) -> JournalEntry | None:  # noqa: ARG002 - the port's
        """Know nothing of any event."""
        return None

    def secure(self, answer: Answer, arrival: Arrival) -> bool:  # noqa: ARG002 - the port's
        """Say that all is well."""
        return True

    async def store(self, answered: Sequence[tuple[Answer, Arrival]]) -> None:
        """Keep nothing."""

    async def store_late(self, event_id: str, verdict_json: bytes) -> None:
        """Keep nothing."""

    async def confirm(self, sink: str, seq: int) -> None:
        """Keep nothing."""

    async def confirmed(self, sink: str) -> int | None:  # noqa: ARG002 - the port's
        """Know no sink."""
        return None

    async def answered(self, *, after: int, limit: int) -> tuple[Sequence[JournalEntry], int | None]:  # noqa: ARG002
        """Know nothing."""
        return [], None

    async def unanswered(self) -> Sequence[JournalEntry]:
        """Know nothing."""
        return []

    async def last_seq(self) -> int:
        """Begin anew each time."""
        return 0

    async def answered_ids(self, limit: int) -> Sequence[str]:  # noqa: ARG002 - the port's
        """Know nothing."""
        return []

    async def find(self, event_id: str) -> bytes | None:  # noqa: ARG002 - the port's
        """Know nothing."""
        return None

    async def page(self, query: VerdictQuery) -> Sequence[bytes]:  # noqa: ARG002 - the port's
        """Know nothing."""
        return []


async def serve_without_journal(config: Path) -> None:
    """Run the service as `cangate run` does, but for the journal."""
    settings = Settings.load(config)
    configure_logging(settings.log)
    service = build(settings, NoJournal())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await service.runner.run(stop)


async def overhead_ms(folder: Path, model: DrillModel, mode: str, events: int, rate_hz: float) -> list[float]:
    """Return the wire overhead of each event, ms."""
    executable = find_mosquitto()
    if executable is None:
        raise SystemExit("mosquitto is not installed")
    ledger = Ledger()
    sections = {"journal": {"sync": "normal" if mode == "none" else mode}}
    async with MosquittoBroker(executable) as broker:
        service = DrilledService(
            folder, broker.port, model, {name: dict(section) for name, section in sections.items()}
        )
        if mode == "none":
            service.command = (sys.executable, "-m", "benchmarks.wire", "--serve")
        async with service, DrillPlant(broker.port, station=STATION, ledger=ledger) as plant:
            asked: dict[str, float] = {}
            for number in range(events + _WARM_UP):
                event_id = f"e{number}"
                asked[event_id] = asyncio.get_running_loop().time()
                uri = model.uris[number % len(model.uris)]
                plant.show(event_id, uri, number=number, deadline_ms=_DEADLINE_MS)
                await asyncio.sleep(1 / rate_hz)
            async with asyncio.timeout(30):
                while ledger.unanswered():  # noqa: ASYNC110 - told by another thread
                    await asyncio.sleep(0.05)
    overhead = []
    for event_id in list(asked)[_WARM_UP:]:
        ((text, heard),) = ledger.parts[event_id].verdicts.items()
        verdict = Verdict.model_validate(json.loads(text), strict=False)
        overhead.append((heard - asked[event_id]) * 1000 - verdict.stages_ms.total())
    return overhead


async def run(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="cangate-wire-") as name:
        folder = Path(name)
        model = await asyncio.to_thread(drill_model, folder / "model")
        for number in range(arguments.rounds):
            for mode in MODES:
                seen = await overhead_ms(folder / f"{number}-{mode}", model, mode, arguments.events, arguments.rate)
                median, p95, p99 = np.percentile(seen, [50, 95, 99])
                print(
                    f"journal {mode:<6} round {number + 1}: wire overhead median {median:.1f} ms, "
                    f"p95 {p95:.1f} ms, p99 {p99:.1f} ms, n {len(seen)}",
                    flush=True,
                )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--rate", type=float, default=5.0, help="events a second")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--serve", type=Path, metavar="CONFIG", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    asyncio.run(run(arguments) if arguments.serve is None else serve_without_journal(arguments.serve))


if __name__ == "__main__":
    main()
