"""The station that judges a recording in this process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from schemas.settings import ComputeSettings, Settings
from service.cli import playback
from service.model.registry import ModelRegistry


@pytest.mark.parametrize(("device", "max_batch", "places"), [("cpu", 1, 4), ("cuda", 8, 18)])
def test_direct_station_is_as_wide_as_the_service(
    device: str, max_batch: int, places: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One frame at a time on a CPU, micro-batches of the configured size on a GPU."""
    package = SimpleNamespace(build_pipeline=lambda _: None, ref=None)
    monkeypatch.setattr(playback, "compute_device", lambda _: torch.device(device))
    monkeypatch.setattr(playback, "read_package", lambda _: package)
    monkeypatch.setattr(ModelRegistry, "resolve", lambda *_: tmp_path)
    settings = Settings(compute=ComputeSettings(prepare_workers=3, max_batch=8))
    compute = playback.direct_station(settings, None, "canister")._compute
    compute.close()
    assert (compute.max_batch, compute.places) == (max_batch, places)
