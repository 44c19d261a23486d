"""Which trigger is new, and which texts belong to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asyncua import ua

from adapters.opcua.client.nodes import Address, read_mapping
from adapters.opcua.client.texts import Reading, TextHistory, texts_beside
from adapters.opcua.client.triggers import TriggerMemory
from adapters.opcua.events import TriggerTexts
from schemas.settings import OpcUaClientSettings
from service.errors import UsageError

NONE = TriggerTexts()
MORNING = datetime(2026, 1, 1, 6, tzinfo=UTC)


def memory(*, answered_in_plc: int | None = None) -> TriggerMemory:
    """Return the memory of a service that has just started and connected."""
    started = TriggerMemory()
    started.connected(plc_started=MORNING, answered_in_plc=answered_in_plc)
    return started


def test_at_the_start_of_the_service_a_standing_trigger_is_old_unless_the_plc_knows_better() -> None:
    """Without `result_trigger_id` nobody can tell; with it the PLC itself says what was answered last."""
    assert not memory().take(5, NONE, standing=True)
    assert not memory(answered_in_plc=5).take(5, NONE, standing=True)
    assert memory(answered_in_plc=4).take(5, NONE, standing=True)
    assert not memory(answered_in_plc=4).take(0, NONE, standing=True)


def test_at_the_start_of_the_service_a_verdict_on_its_way_is_not_made_again() -> None:
    """What the last run left unanswered is answered from the journal."""
    started = memory(answered_in_plc=4)
    started.answered(5)
    assert not started.take(5, NONE, standing=True)
    assert started.take(6, NONE, standing=False)


def test_only_a_change_to_something_else_than_zero_is_a_trigger() -> None:
    """The same again is none, nor is 0; the same after 0 is."""
    watched = memory()
    values = [0, 3, 3, 0, 3, 2, 0, 0]
    assert [watched.take(value, NONE, standing=value == 0) for value in values] == [
        False, True, False, False, True, True, False, False,
    ]  # fmt: skip


def test_after_a_reconnect_another_trigger_is_new_and_the_same_is_not() -> None:
    """Whatever was given while the PLC was out of reach."""
    watched = memory()
    watched.take(0, NONE, standing=True)
    assert watched.take(1, NONE, standing=False)
    watched.connected(plc_started=MORNING, answered_in_plc=0)
    assert not watched.take(1, TriggerTexts(part_id="written ahead"), standing=True)
    watched.connected(plc_started=MORNING, answered_in_plc=0)
    assert watched.take(2, NONE, standing=True)


def test_after_a_restart_of_the_plc_the_same_number_with_other_texts_is_new() -> None:
    """A counter that began again may have reached the number that was seen last."""
    watched = memory()
    watched.take(0, NONE, standing=True)
    assert watched.take(1, TriggerTexts(part_id="A"), standing=False)
    watched.connected(plc_started=MORNING + timedelta(hours=1), answered_in_plc=None)
    assert watched.take(1, TriggerTexts(part_id="B"), standing=True)
    watched.connected(plc_started=MORNING + timedelta(hours=2), answered_in_plc=None)
    assert not watched.take(1, TriggerTexts(part_id="B"), standing=True)


def told(text: str | None, at: float | None, *, status: int = ua.StatusCodes.Good) -> ua.DataValue:
    """Return a value of a text node, set `at` seconds after the morning began."""
    stamp: Any = None if at is None else MORNING + timedelta(seconds=at)
    return ua.DataValue(ua.Variant(text), ua.StatusCode(ua.UInt32(status)), SourceTimestamp=stamp)


def history(*values: ua.DataValue) -> TextHistory:
    noted = TextHistory()
    for value in values:
        noted.note(value)
    return noted


@pytest.mark.parametrize(
    ("moment", "slack", "expected"),
    [(0.5, 0.0, "A"), (1.0, 0.0, "B"), (1.9, 0.0, "B"), (1.9, 0.1, "C"), (9.0, 0.0, "C")],
)
def test_text_of_a_trigger_is_the_one_that_held_when_it_was_given(moment: float, slack: float, expected: str) -> None:
    """Also where the newer text was told first; a text sampled a moment late was set before."""
    noted = history(told("C", 2.0), told("A", 0.0), told("B", 1.0))
    assert noted.at(MORNING + timedelta(seconds=moment), timedelta(seconds=slack), None) == expected


def test_text_without_a_stamp_or_older_than_all_is_the_newest_known() -> None:
    """A server that stamps nothing leaves the order of what it tells."""
    assert history().at(MORNING, timedelta(), None) == ""
    assert history(told("A", None), told("B", None)).at(MORNING, timedelta(), None) == "B"
    assert history(told("A", 1.0)).at(None, timedelta(), None) == "A"
    assert history(told("A", 1.0)).at(MORNING, timedelta(), None) == "A"


def test_text_that_is_bad_or_null_is_empty() -> None:
    """A value that the PLC itself calls bad says nothing."""
    assert history(told("A", 0.0, status=ua.StatusCodes.BadNotConnected)).at(MORNING, timedelta(), None) == ""
    assert history(told(None, 0.0)).at(MORNING, timedelta(), None) == ""


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [
        ("A", 1.999, True),
        ("A", 2.0, True),
        ("A", 1.9, False),  # so long before that another part may have come in between
        ("A", 2.001, False),  # of the next part
        ("A", 1.0, False),  # of the part before
        ("", 1.999, False),  # cleared, and not yet seen to be written
    ],
)
def test_text_needs_no_second_look_where_it_was_told_with_its_trigger(text: str, at: float, expected: bool) -> None:
    """The trigger before was set at 1.0 s, this one at 2.0 s; what cannot be told apart is looked at."""
    before, moment = MORNING + timedelta(seconds=1), MORNING + timedelta(seconds=2)
    assert history(told("Z", 0.5), told(text, at)).is_told(moment, before) is expected
    assert not history(told(text, at)).is_told(moment, None)
    assert not history(told(text, None)).is_told(None, before)


def set_to(trigger: int, at: float) -> ua.DataValue:
    """Return a value of the trigger, set `at` seconds after the morning began."""
    stamp: Any = MORNING + timedelta(seconds=at)
    return ua.DataValue(ua.Variant(trigger, ua.VariantType.UInt32), SourceTimestamp=stamp)


@pytest.mark.parametrize(
    ("told_texts", "reading", "expected"),
    [
        ([("A", 0.9)], (1, 1.0, "A", 0.9), "A"),  # a PLC that waits
        ([("Z", 0.0)], (1, 1.0, "A", 1.004), "A"),  # its server saw the trigger first, and the text a moment later
        ([("Z", 0.0)], (1, 7.0, "A", 7.0), "A"),  # its server stamps with the time of the look
        ([("A", 0.9), ("B", 1.5)], (1, 1.0, "B", 1.5), "A"),  # it has written ahead for the next part
        ([("A", 0.9), ("B", 1.004)], (2, 1.005, "B", 1.004), "A"),  # the next part came at once
        ([("A", 0.9)], (1, 1.0, "B", 1.004), "A"),  # the same, looked at between its text and its trigger
        ([("A", 0.9), ("B", 1.004)], None, "A"),  # the same, told in one burst
    ],
    ids=["waits", "sampled late", "stamps looks", "written ahead", "next at once", "between", "burst"],
)
def test_texts_beside_a_trigger_are_those_written_before_it(
    told_texts: list[tuple[str, float]], reading: tuple[int, float, str, float] | None, expected: str
) -> None:
    """Part 1 was given at 1.0 s; whatever the server and the PLC program do, it is inspected under its own id."""
    noted = history(*(told(text, at) for text, at in told_texts))
    look = None
    if reading is not None:
        trigger, trigger_at, text, text_at = reading
        look = Reading(set_to(trigger, trigger_at), {"part_id": told(text, text_at)}, None)
        noted.note(look.texts["part_id"])
    before = MORNING + timedelta(seconds=0.5)
    texts = texts_beside(set_to(1, 1.0), {"part_id": noted}, look, slack=timedelta(milliseconds=5), since=before)
    assert texts == TriggerTexts(part_id=expected)


@pytest.mark.parametrize(
    ("text", "index", "uri"),
    [
        ("ns=2;s=Station1.Trigger", 2, None),
        ('ns=3;s="Vision"."line1"."Trigger"', 3, None),
        ("i=2258", 0, None),
        ("ns=4;g=09087e75-8e5e-499b-954f-f2a9603db28a", 4, None),
        ("nsu=urn:plc;s=a;b=c", 0, "urn:plc"),
        (" nsu=http://www.siemens.com/simatic-s7-opcua;i=7 ", 0, "http://www.siemens.com/simatic-s7-opcua"),
    ],
)
def test_addresses_are_node_ids_with_index_or_uri(text: str, index: int, uri: str | None) -> None:
    """Both notations of OPC 10000-6, 5.1.12, semicolons in names included."""
    address = Address.parse("trigger", text)
    assert (address.node_id.NamespaceIndex, address.namespace_uri) == (index, uri)
    assert address.in_namespace(9).NamespaceIndex == 9
    assert address.in_namespace(9).Identifier == address.node_id.Identifier


@pytest.mark.parametrize(
    "text",
    ["x", "ns=2", "ns=2;i=abc", "ns=-1;i=2", "ns=65536;s=a", "nsu=;s=a", "ns=2;g=no-guid", "ns=x;s=a", ";", "Trigger"],
)
def test_address_that_is_no_node_id_is_refused_by_its_key(text: str) -> None:
    """One line with key and text."""
    with pytest.raises(UsageError, match=r"^opcua\.client\.reject: ") as caught:
        read_mapping(OpcUaClientSettings(trigger="i=1", result_seq="i=2", reject=text), station="line1")
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({}, "opcua.client.trigger"),
        ({"trigger": "i=1"}, "opcua.client.result_seq"),
        ({"trigger": "i=1", "result_seq": "i=1"}, "same node"),
    ],
)
def test_mapping_must_name_what_is_needed(keys: dict[str, str], named: str) -> None:
    """A client without trigger or sequence could do nothing."""
    with pytest.raises(UsageError, match=named):
        read_mapping(OpcUaClientSettings.model_validate(keys), station="line1")
