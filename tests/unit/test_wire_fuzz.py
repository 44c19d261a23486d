"""Whatever stands in a PLC's tags or in a command: it is read, and what cannot be used is named."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from adapters.mqtt.codec import InvalidCommand, read_command
from adapters.opcua.events import DefaultEventIds, TriggerTexts, trigger_arrival
from schemas.messages import REPLAY_PREFIX, CommandName, Reason

NAMES = TriggerTexts(part_id="TriggerPartId", image_uri="TriggerImageUri", event_id="TriggerEventId")
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.integers(1, 2**32 - 1), st.text(max_size=5000), st.text(max_size=5000), st.text(max_size=300))
def test_any_trigger_becomes_an_event_that_can_be_answered(
    trigger: int, part_id: str, image_uri: str, event_id: str
) -> None:
    """A trigger is an event with an id, always; a text that cannot be used makes it a refused one."""
    arrival = trigger_arrival(
        trigger,
        TriggerTexts(part_id, image_uri, event_id),
        DefaultEventIds("line1", datetime(2026, 1, 31, tzinfo=UTC)),
        names=NAMES,
        received_at=datetime(2026, 1, 31, tzinfo=UTC),
        received_monotonic=0.0,
        source="opcua",
    )
    event = arrival.event
    assert event.trigger_id == trigger
    assert event.replayed == event.event_id.startswith(REPLAY_PREFIX)
    assert event.event_id
    lost = (event.part_id or "") != part_id or ("" if arrival.image is None else arrival.image.uri) != image_uri
    if lost or (event_id and event.event_id != event_id):
        assert arrival.refusal is not None
        assert arrival.refusal.reason is Reason.FRAME_REFUSED


@given(st.binary(max_size=500))
def test_any_bytes_are_read_as_a_command_or_answered(payload: bytes) -> None:
    """What is no command is answered in one line."""
    command = read_command(payload)
    if isinstance(command, InvalidCommand):
        assert "\n" not in command.error


@given(_values, _values)
def test_any_values_are_read_as_a_command_or_answered(name: object, args: object) -> None:
    """A command has a known name and an object of arguments, or it is answered in one line."""
    command = read_command(to_json({"command": name, "args": args}, inf_nan_mode="constants"))
    if isinstance(command, InvalidCommand):
        assert "\n" not in command.error
    else:
        assert command.command in CommandName
        assert isinstance(command.args, dict)
