"""Processes that demo and drills start: whoever stops waiting for them leaves none behind."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from adapters.drill.model import DrillModel
from adapters.drill.service import DrilledService, ServiceDidNotStart
from adapters.simulation.broker import MosquittoBroker
from tests.support.waiting import eventually

NEVER_READY = "import signal; signal.pause()"


@pytest.fixture
def service(tmp_path: Path) -> DrilledService:
    """A service that is never ready."""
    drilled = DrilledService(tmp_path, 1, DrillModel(tmp_path, "bars", tmp_path, ()), {})
    drilled.command = (sys.executable, "-c", NEVER_READY)
    return drilled


async def test_service_that_nobody_waits_for_any_more_is_ended(service: DrilledService) -> None:
    """As when the self-test is told to stop while it starts one."""
    starting = asyncio.create_task(service.__aenter__())
    await eventually(lambda: service.alive)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not service.alive


async def test_service_that_is_not_ready_in_time_is_ended(
    service: DrilledService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would run on, and nobody could end it."""
    monkeypatch.setattr("adapters.drill.service._START_S", 0.1)
    with pytest.raises(ServiceDidNotStart):
        await service.__aenter__()
    assert not service.alive


async def test_broker_that_nobody_waits_for_any_more_is_ended(tmp_path: Path) -> None:
    """One that never listens, here: a program that only says who it is."""
    program, said = tmp_path / "mosquitto", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {said}.part && mv {said}.part {said}\nexec sleep 600\n")
    program.chmod(0o755)
    starting = asyncio.create_task(MosquittoBroker(program).__aenter__())
    await eventually(said.exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(ProcessLookupError):
        os.kill(int(said.read_text()), 0)
