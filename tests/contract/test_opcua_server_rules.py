"""Rules of the OPC UA server that need no server."""

from __future__ import annotations

import asyncio

import pytest
from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st

from adapters.clock import SystemClock
from adapters.opcua.events import DefaultEventIds
from adapters.opcua.server.tags import complete
from schemas.messages import Decision
from schemas.tags import VerdictCode, result_seq


def test_tag_write_that_would_let_clients_in_between_is_refused() -> None:
    """A release of asyncua whose in-process write suspends shows itself at once, not as torn results."""

    async def suspending() -> ua.StatusCode:
        await asyncio.sleep(0)
        return ua.StatusCode()

    with pytest.raises(RuntimeError, match="suspended"):
        complete(suspending())


@given(st.lists(st.integers(1, 2**32 - 1) | st.integers(1, 3), max_size=50))
def test_default_event_ids_never_repeat(triggers: list[int]) -> None:
    """Whatever a PLC's counter does, no part inherits the verdict of another."""
    ids = DefaultEventIds("line1", SystemClock().now())
    made = [ids.next(trigger) for trigger in triggers]
    assert len(set(made)) == len(triggers)


@pytest.mark.parametrize(("seq", "shown"), [(1, 1), (2**32 - 1, 2**32 - 1), (2**32, 1), (2**32 + 1, 2)])
def test_result_seq_is_modulo_2_to_32_without_zero(seq: int, shown: int) -> None:
    """0 means that there is no result yet, so no result may have it."""
    assert result_seq(seq) == shown


def test_verdict_code_of_every_decision_is_never_none() -> None:
    """0 never means OK (contract section 3)."""
    assert [VerdictCode.of(decision) for decision in Decision] == [
        VerdictCode.OK,
        VerdictCode.DAMAGED,
        VerdictCode.ERROR,
    ]
