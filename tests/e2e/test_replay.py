"""A line is recorded, killed, and played again: real processes, a real mosquitto, a real OPC UA client."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from adapters.recordings.reader import Session
from service.replay.parts import RecordedPart
from tests.support.mqtt import PlantClient, private_mosquitto
from tests.support.parts import draw_part
from tests.support.service import ServiceProcess, command, run
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

PARTS = 12


@pytest.fixture
async def line(tmp_path: Path, store: Path) -> AsyncIterator[tuple[ServiceProcess, PlantClient]]:
    """A service that records, and the plant around it."""
    extra = f'[record]\nenabled = true\nfolder = "{tmp_path}/recordings"\n'
    async with (
        private_mosquitto() as broker,
        ServiceProcess(tmp_path, broker.port, "bars", store, extra) as service,
        PlantClient(broker.port) as plant,
    ):
        yield service, plant


async def show_parts(service: ServiceProcess, plant: PlantClient) -> list[dict[str, Any]]:
    """Show parts, every third damaged and every other inside its message; the last is no image. Return the verdicts."""
    for number in range(PARTS):
        encoded = cv2.imencode(".png", draw_part(5000 + number, damaged=number % 3 == 0))[1].tobytes()
        if number == PARTS - 1:
            encoded = encoded[:900]
        event = {"event_id": f"e{number}", "part_id": f"P{number}", "trigger_id": str(number + 1)}
        if number % 2:
            await plant.send("image-ready/raw", encoded, user_properties=list(event.items()))
        else:
            (service.frames / f"{number}.png").write_bytes(encoded)
            image = {"uri": (service.frames / f"{number}.png").as_uri()}
            await plant.send("image-ready", json.dumps(event | {"trigger_id": number + 1, "image": image}).encode())
    return [json.loads((await plant.next("verdict")).payload) for _ in range(PARTS)]


def the_session(folder: Path) -> Session:
    (found,) = (folder / "recordings").iterdir()
    return Session.open(found)


def by_id(parts: list[RecordedPart]) -> dict[str, RecordedPart]:
    return {part.event.event_id: part for part in parts}


async def test_record_that_hears_nothing_says_so(tmp_path: Path) -> None:
    """The folder of a session without parts is removed, so none is named."""
    config = tmp_path / "config.toml"
    async with private_mosquitto() as broker:
        config.write_text(f'[mqtt]\nport = {broker.port}\n[images]\nroots = ["{tmp_path}"]\n')
        async with command("record", "-c", str(config), "-o", str(tmp_path / "out")) as recording, asyncio.timeout(60):
            assert recording.stdout is not None
            assert b"recording line1 into" in await recording.stdout.readline()
            recording.send_signal(signal.SIGINT)
            assert (await recording.stdout.read(), await recording.wait()) == (b"nothing was recorded\n", 0)
    assert list((tmp_path / "out").iterdir()) == []


async def test_line_is_recorded_inside_and_outside(line: tuple[ServiceProcess, PlantClient]) -> None:
    """The bytes that were judged and the verdicts that were published, by the service and by `cangate record`."""
    service, plant = line
    out = service.folder / "outside"
    async with command("record", "-c", str(service.config), "-o", str(out), "--parts", str(PARTS)) as recording:
        assert recording.stdout is not None
        async with asyncio.timeout(60):
            assert b"recording line1 into" in await recording.stdout.readline()
            verdicts = await show_parts(service, plant)
            assert await recording.wait() == 0
    await service.stop(signal.SIGTERM)
    session = the_session(service.folder)
    parts = by_id(list(session.parts()))
    assert (session.count(), session.troubles, session.info.origin) == (PARTS, [], "service")
    for verdict in verdicts:
        part = parts[verdict["event_id"]]
        assert part.verdict is not None
        assert json.loads(part.verdict.to_json()) == verdict
        number = int(part.event.event_id[1:])
        assert part.event.inline is bool(number % 2)
        drawn = cv2.imencode(".png", draw_part(5000 + number, damaged=number % 3 == 0))[1].tobytes()
        assert part.frame == (drawn[:900] if number == PARTS - 1 else drawn)
    (folder,) = out.iterdir()
    outside = Session.open(folder)
    assert {part.event.event_id: (part.frame, part.verdict) for part in outside.parts()} == {
        name: (part.frame, part.verdict) for name, part in parts.items()
    }
    assert (outside.count(), outside.info.origin) == (PARTS, "mqtt")


async def test_line_is_played_again_and_killed(line: tuple[ServiceProcess, PlantClient]) -> None:
    """A live station answers replayed parts as before, marked, and moves no gate; its session outlives SIGKILL."""
    service, plant = line
    first = {verdict["event_id"]: verdict for verdict in await show_parts(service, plant)}
    for _ in range(PARTS):
        await plant.next("gate")
    await eventually(lambda: len(list(the_session(service.folder).parts())) == PARTS)
    session = the_session(service.folder).path
    status, out, err = await run("replay", session, "--via", "mqtt", "--speed", "max", "-c", service.config)
    told = f"replay: {PARTS} parts, 7 ok, 4 damaged, 1 error, 0 unanswered, 0 mismatches"
    assert (status, out.splitlines()[-1]) == (0, told), err
    for _ in range(PARTS):
        again = json.loads((await plant.next("verdict")).payload)
        before = first[again["event_id"].split("/", 2)[2]]
        assert again["replayed"] is True
        same = ("part_id", "trigger_id", "decision", "reason", "boxes", "score", "threshold")
        assert {name: again[name] for name in same} == {name: before[name] for name in same}
    assert plant.waiting("gate") == 0
    assert not list(service.frames.glob("replay-*"))

    await service.stop(signal.SIGKILL)
    killed = Session.open(session)
    assert len(list(killed.parts())) == PARTS, "a recording holds no replayed parts"
    assert killed.count() is None
    (trouble,) = killed.troubles
    assert "cut off" in trouble
    status, out, err = await run("replay", session, "--speed", "max", "-c", service.config)
    assert (status, out.splitlines()[-1]) == (0, told), err
