"""What is broken in a drill, one thing at a time, and what must be seen then."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.drill.ledger import Findings
from adapters.drill.line import DrillLine
from adapters.drill.part import Way
from schemas.messages import FaultCode, Verdict

_STATUS_S = 30.0
_PARTS = 40
_RATE_HZ = 8.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a drill showed: `findings` on all parts so far; `wrong` is how this drill failed, empty where it did not."""

    name: str
    seconds: float
    findings: Findings
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One drill. needs_mosquitto: it breaks the broker's process."""

    name: str
    run: Callable[[DrillLine], Awaitable[list[str]]]
    needs_mosquitto: bool = False


async def play(scenario: Scenario, line: DrillLine) -> Outcome:
    """Run one drill on a line that works, and return what it showed."""
    began, before = time.monotonic(), line.ledger.findings()
    missing = await scenario.run(line)
    await line.settle()
    findings = line.ledger.findings()
    wrong = (*missing, *findings.broken(before))
    return Outcome(scenario.name, time.monotonic() - began, findings, wrong)


async def _steady(line: DrillLine) -> list[str]:
    before = len(line.ledger.parts)
    await line.show(_PARTS, _RATE_HZ)
    await line.settle()
    opened = {way for part in line.ledger.parts.values() for _, way in part.opened}
    missing = [f"no gate was opened on {way} for any part" for way in (Way.MQTT, Way.TAGS) if way not in opened]
    if len(line.ledger.parts) - before != _PARTS:
        missing.append("not every part was shown")
    return missing


async def _meanwhile(line: DrillLine, breaking: Callable[[], Awaitable[None]]) -> None:
    """Show parts, and break something after a quarter of them."""
    showing = asyncio.create_task(line.show(_PARTS, _RATE_HZ))
    await asyncio.sleep(_PARTS / _RATE_HZ / 4)
    await breaking()
    await showing


async def _broker_killed(line: DrillLine) -> list[str]:
    await _meanwhile(line, line.kill_broker)
    await line.service.ready()
    return []


async def _broker_frozen(line: DrillLine) -> list[str]:
    await _meanwhile(line, lambda: line.freeze_broker(3.0))
    return []


async def _connection_cut(line: DrillLine) -> list[str]:
    async def cut() -> None:
        with line.outage():
            for _ in range(5):
                line.proxy.cut()
                await asyncio.sleep(0.5)

    await _meanwhile(line, cut)
    await line.service.ready()
    return []


async def _connection_slow(line: DrillLine) -> list[str]:
    async def delay() -> None:
        line.proxy.delay_s = 0.1
        await asyncio.sleep(2.0)
        line.proxy.delay_s = 0.0

    await _meanwhile(line, delay)
    return []


async def _afterwards(line: DrillLine) -> list[str]:
    told = await line.show_afterwards()
    return [f"afterwards no gate was told anything on {way}" for way in (Way.MQTT, Way.TAGS) if way not in told]


async def _service_killed(line: DrillLine) -> list[str]:
    await _meanwhile(line, line.kill_service)
    return await _afterwards(line)


async def _service_frozen(line: DrillLine) -> list[str]:
    await _meanwhile(line, lambda: line.freeze_service(2.5))
    return []


async def _gate_killed(line: DrillLine) -> list[str]:
    async def replace() -> None:
        await line.close_gate()
        await line.open_gate()

    await _meanwhile(line, replace)
    return await _afterwards(line)


async def _disk_full(line: DrillLine) -> list[str]:
    line.service.limit_files(0)
    await line.show(_PARTS // 2, _RATE_HZ)
    missing = await _fault(line, FaultCode.JOURNAL_FAILING)
    line.service.limit_files(None)
    await line.settle()
    return missing + await _fault(line, None)


async def _journal_corrupt(line: DrillLine) -> list[str]:
    async def spoil() -> None:
        with line.outage():
            await line.service.stop(signal.SIGTERM)
            await asyncio.to_thread(_overwrite, line.service.journal)
            await line.service.start()

    await _meanwhile(line, spoil)
    missing = await _afterwards(line) + await _fault(line, FaultCode.JOURNAL_FAILING)
    line.plant.send(json.dumps({"command": "reset_fault"}).encode(), leaf="cmd")
    return missing + await _fault(line, None)


async def _overload(line: DrillLine) -> list[str]:
    before = line.plant.heartbeat
    await line.show(240, 60.0, deadline_ms=500)
    missing = [] if line.plant.heartbeat > before else ["the heartbeat stood still"]
    return missing + await _afterwards(line)


_HOSTILE: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("missing frame", {"image": {"uri": "{frames}/gone.png"}}, "frame_missing"),
    ("outside the roots", {"image": {"uri": "file:///etc/hostname"}}, "frame_refused"),
    ("unknown scheme", {"image": {"uri": "ftp://camera/1.png"}}, "frame_refused"),
    ("text for a picture", {"image": {"uri": "{frames}/text.png"}}, "frame_corrupt"),
    ("no bytes", {"image": {"uri": "{frames}/empty.png"}}, "frame_corrupt"),
    ("wrong hash", {"image": {"uri": "{frames}/0.png", "sha256": "0" * 64}}, "frame_refused"),
    ("deadline is a text", {"image": {"uri": "{frames}/0.png"}, "deadline_ms": "soon"}, "frame_refused"),
    ("no image", {}, "frame_refused"),
    ("expired", {"image": {"uri": "{frames}/0.png"}, "captured_at": "2020-01-01T00:00:00Z"}, "deadline_missed"),
)
_UNANSWERABLE = (b"", b"{", b"null", b"[]", b'{"event_id": 5.5}', b"\xff\xfe", b'{"a":' * 5000, b"x" * 70_000)


async def _hostile(line: DrillLine) -> list[str]:
    folder = line.frames
    await asyncio.to_thread((folder / "text.png").write_bytes, b"I am no picture")
    await asyncio.to_thread((folder / "empty.png").write_bytes, b"")
    for payload in _UNANSWERABLE:
        line.plant.send(payload)
    for number, (_, fields, _) in enumerate(_HOSTILE):
        event = {"event_id": f"hostile-{time.monotonic_ns()}-{number}", "deadline_ms": 10_000} | fields
        text = json.dumps(event).replace("{frames}", folder.as_uri())
        line.ledger.ask(str(event["event_id"]), time.monotonic() + 60)
        line.plant.send(text.encode())
    await line.settle()
    said = {
        event_id.rsplit("-", 1)[1]: Verdict.model_validate_json(next(iter(part.verdicts)))
        for event_id, part in line.ledger.parts.items()
        if event_id.startswith("hostile-") and part.verdicts
    }
    missing = []
    for number, (name, _, reason) in enumerate(_HOSTILE):
        verdict = said.get(str(number))
        if verdict is None or (verdict.reason, verdict.gate) != (reason, "REJECT"):
            missing.append(f"{name}: {reason} expected, got {verdict.reason if verdict else 'silence'}")
    if "Traceback" in line.service.said():
        missing.append("a traceback in the log")
    return missing


async def _fault(line: DrillLine, code: FaultCode | None) -> list[str]:
    """Wait until the station names this fault, None for no fault at all."""
    status: dict[str, Any] = {}
    give_up = time.monotonic() + _STATUS_S
    while time.monotonic() < give_up:
        status = await line.service.status()
        if (status["fault"] or {}).get("code") == code:
            return []
        await asyncio.sleep(0.1)
    wanted = "no fault" if code is None else f"fault {code.value}"
    return [f"{wanted} expected, status says {status.get('state')} {status.get('fault')}"]


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xde\xad" * 8192)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


SCENARIOS = (
    Scenario("steady", _steady),
    Scenario("hostile input", _hostile),
    Scenario("connection cut five times", _connection_cut),
    Scenario("connection slow (100 ms each way)", _connection_slow),
    Scenario("broker killed", _broker_killed, needs_mosquitto=True),
    Scenario("broker frozen for 3 s", _broker_frozen, needs_mosquitto=True),
    Scenario("PLC client gone and back", _gate_killed),
    Scenario("service frozen for 2.5 s", _service_frozen),
    Scenario("overload, 60 parts a second for 4 s", _overload),
    Scenario("disk full", _disk_full),
    Scenario("service killed", _service_killed),
    Scenario("journal corrupt at start", _journal_corrupt),
)
"""Every drill, in the order in which they are played on one line."""
