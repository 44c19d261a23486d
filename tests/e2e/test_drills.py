"""The fault suite: a whole line, broken on purpose, one thing after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from adapters.drill.line import DrillLine, drill_line
from adapters.drill.model import DrillModel, drill_model
from adapters.drill.scenarios import SCENARIOS, Scenario, play
from tests.support.waiting import Standstill

pytestmark = pytest.mark.e2e

_STANDSTILL_S = 0.3
"""A machine that stood still for so long says nothing about what came late: the drill is played again."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DrillModel:
    return drill_model(tmp_path_factory.mktemp("drill") / "model")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line(model: DrillModel, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DrillLine]:
    async with drill_line(tmp_path_factory.mktemp("line") / "line", model) as opened:
        yield opened


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_line_keeps_its_promise(line: DrillLine, scenario: Scenario) -> None:
    """Nothing lost or answered twice, no gate silent, contradicted or opened late, rising numbers, faults by name."""
    if scenario.needs_mosquitto and line.mosquitto is None:
        pytest.skip("mosquitto is not installed")
    for may_repeat in (True, True, False):
        async with Standstill() as standstill:
            outcome = await play(scenario, line)
        if not outcome.wrong:
            return
        assert may_repeat, outcome
        assert standstill.longest_s > _STANDSTILL_S, outcome


def test_scenarios_have_names_of_their_own() -> None:
    """`cangate selftest --only` picks by name."""
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)


def test_drill_model_shows_good_and_damaged_parts(model: DrillModel) -> None:
    """Frames lie where the service may read them."""
    assert len(model.uris) == 12
    assert all(Path(uri.removeprefix("file://")).parent == model.frames for uri in model.uris)
