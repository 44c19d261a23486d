"""What tests share: `cangate` itself, a small model, parts that it has never seen, and what the page shows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.cli import CommandLine
from tests.support.hmi import HmiBench
from tests.support.parts import draw_part, small_store, write_parts

_FIRST_DAMAGED = 400


@pytest.fixture
def cangate(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line; what is logged counts as written, too."""
    return CommandLine(monkeypatch, capfd)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one small model, active."""
    return small_store(tmp_path_factory.mktemp("plant"))


@pytest.fixture(scope="module")
def ok(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good parts that no model has seen."""
    return write_parts(tmp_path_factory.mktemp("ok"), 5, first_seed=300)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four damaged parts."""
    return write_parts(tmp_path_factory.mktemp("damaged"), 4, first_seed=_FIRST_DAMAGED, damaged=True)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where their damage is: what differs from the same part without it."""
    folder = tmp_path_factory.mktemp("masks")
    for index in range(4):
        seed = _FIRST_DAMAGED + index
        difference = cv2.absdiff(draw_part(seed, damaged=True), draw_part(seed)).max(axis=2)
        cv2.imwrite(str(folder / f"part{index + 1}.png"), np.where(difference > 10, 255, 0).astype(np.uint8))
    return folder


@pytest.fixture
def bench(tmp_path: Path) -> HmiBench:
    """A station for the page to show, with nothing judged yet."""
    return HmiBench(tmp_path / "pictures")
