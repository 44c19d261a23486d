"""What an answer says to whom."""

from __future__ import annotations

import pytest

from schemas.messages import Gate
from service.ports import Answer, Asker
from tests.support.opcua import verdict


@pytest.mark.parametrize(
    ("named", "judged", "about"),
    [
        ("C-1", "C-1", True),
        ("C-2", "C-1", False),  # the event id was left standing
        ("C-2", None, False),
        (None, "C-1", True),  # named by its event alone
        ("", "C-1", True),
        (None, None, True),
    ],
)
def test_verdict_is_on_the_part_that_its_asker_named(named: str | None, judged: str | None, about: bool) -> None:
    """Whichever trigger asks: another part than was judged must not pass."""
    said = verdict(part_id=judged, trigger_id=7)
    assert Answer(said, said.to_json(), 0.0, Asker("opcua", 8, named), repeated=True).is_about_their_part is about


@pytest.mark.parametrize(
    ("gate", "at", "for_gate", "told"),
    [
        (Gate.PASS, 9.4, True, Gate.PASS),
        (Gate.PASS, 9.6, True, None),  # it would arrive too late
        (Gate.REJECT, 9.6, True, Gate.REJECT),
        (Gate.REJECT, 99.0, True, Gate.REJECT),
        (Gate.PASS, 0.0, False, None),
        (Gate.REJECT, 0.0, False, None),
    ],
)
def test_gate_hears_of_its_own_parts_and_of_none_that_passes_too_late(
    gate: Gate, at: float, for_gate: bool, told: Gate | None
) -> None:
    """Half a second is needed to arrive, ten seconds there are."""
    said = verdict(gate=gate)
    answer = Answer(said, said.to_json(), 10.0, Asker("mqtt"), for_gate=for_gate, transit_s=0.5)
    assert answer.gate_at(at) is told
