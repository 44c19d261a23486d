"""The station that judges a recording in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from adapters.clock import SystemClock
from schemas.messages import Gate
from schemas.settings import ComputeSettings, Settings
from service.cli import playback
from service.compute import Compute, LoadedModel
from service.model.registry import ModelRegistry
from service.replay.direct import DirectStation
from service.replay.player import Pace, play
from tests.support.recordings import recorded_part


@pytest.mark.parametrize(("device", "max_batch", "places"), [("cpu", 1, 4), ("cuda", 8, 18)])
def test_direct_station_is_as_wide_as_the_service(
    device: str, max_batch: int, places: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One frame at a time on a CPU, micro-batches of the configured size on a GPU."""
    package = SimpleNamespace(build_pipeline=lambda _: None, ref=None)
    monkeypatch.setattr(playback, "device_of", lambda _: torch.device(device))
    monkeypatch.setattr(playback, "read_package", lambda _: package)
    monkeypatch.setattr(ModelRegistry, "resolve", lambda *_: tmp_path)
    settings = Settings(compute=ComputeSettings(prepare_workers=3, max_batch=8))
    compute = playback.direct_station(settings, None, "canister")._compute
    compute.close()
    assert (compute.max_batch, compute.places) == (max_batch, places)


class _DefectCompute:
    """Judges with a defect."""

    def __init__(self) -> None:
        self.is_closed = False

    async def judge(self, job: object) -> None:  # noqa: ARG002 - the signature of Compute
        raise KeyError("a defect")

    def close(self) -> None:
        self.is_closed = True


async def test_direct_station_with_a_defect_ends_the_play() -> None:
    """At once, in that very error: no part is waited for until its deadline."""
    compute = _DefectCompute()
    station = DirectStation(
        cast("Compute", compute),
        cast("LoadedModel", None),
        station="line1",
        gate_on_error=Gate.REJECT,
        clock=SystemClock(),
    )
    parts = iter([recorded_part(number) for number in range(3)])
    async with asyncio.timeout(20), station:  # shorter than what any part is waited for
        with pytest.raises(KeyError, match="a defect"):
            await anext(play(parts, station, Pace(None, 4), clock=SystemClock()))
    assert compute.is_closed
