"""Which trigger is new, and where a PLC's nodes are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from adapters.opcua.client.nodes import Address, read_mapping
from adapters.opcua.client.triggers import TriggerMemory, span_of
from adapters.opcua.events import DefaultEventIds, TriggerNumbers, TriggerTexts, trigger_arrival
from schemas.settings import OpcUaClientSettings
from service.errors import UsageError
from service.ports import Arrival
from tests.support.opcua import answer, verdict

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


def test_at_the_start_of_the_service_a_node_without_a_value_gets_its_first_trigger() -> None:
    """It is a change, unless the PLC, or a verdict that is on its way, says that it was answered."""
    started = memory()
    started.has_none()
    assert started.take(1, NONE, standing=True)
    assert not started.take(1, NONE, standing=False)
    for answered_in_plc, on_its_way, value, expected in ((5, 0, 5, False), (5, 0, 6, True), (None, 5, 5, False)):
        started = memory(answered_in_plc=answered_in_plc)
        started.has_none()
        started.answered(on_its_way)
        assert started.take(value, NONE, standing=True) is expected


def test_after_a_reconnect_a_node_without_a_value_hides_no_old_trigger_and_loses_no_new_one() -> None:
    """What was judged before is known, and what a restarted PLC gives first may have the same number."""
    watched = memory()
    watched.take(0, NONE, standing=True)
    assert watched.take(1, TriggerTexts(part_id="A"), standing=False)
    watched.connected(plc_started=MORNING, answered_in_plc=None)
    watched.has_none()
    assert not watched.take(1, TriggerTexts(part_id="A"), standing=True)
    watched.connected(plc_started=MORNING + timedelta(hours=1), answered_in_plc=None)
    watched.has_none()
    assert watched.take(1, TriggerTexts(part_id="B"), standing=True)


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


def test_restart_of_the_plc_is_remembered_until_what_stands_there_was_taken() -> None:
    """The first connection after it failed before it came to the trigger, and the second finds the same start."""
    watched = memory()
    watched.take(0, NONE, standing=True)
    assert watched.take(1, TriggerTexts(part_id="A"), standing=False)
    restarted = MORNING + timedelta(hours=1)
    assert watched.connected(plc_started=restarted, answered_in_plc=0)
    assert not watched.connected(plc_started=None, answered_in_plc=0)
    assert not watched.connected(plc_started=restarted, answered_in_plc=0)
    assert watched.take(1, TriggerTexts(part_id="B"), standing=True)
    assert not watched.connected(plc_started=restarted, answered_in_plc=0)
    assert not watched.take(1, TriggerTexts(part_id="C"), standing=True)


def given(event_id: str, part_id: str = "", *, source: str = "plc") -> Arrival:
    """Return the event of trigger 1."""
    texts = TriggerTexts(part_id=part_id, event_id=event_id)
    ids = DefaultEventIds("line1", MORNING)
    return trigger_arrival(1, texts, ids, names=NONE, received_at=MORNING, received_monotonic=0.0, source=source)


def test_number_means_the_part_that_it_was_given_for_last() -> None:
    """Another event, another part of the same event, none that is judged; who has no such number is not concerned."""
    numbers = TriggerNumbers("plc")
    first, other = given("e1", "A"), given("e2", "A")
    said = verdict(1, event_id="e1", part_id="A", trigger_id=1)
    assert numbers.mean(answer(said, first))
    numbers.give(1, first.event, MORNING)
    assert numbers.mean(answer(said, first))
    for newest in (other.event, first.event.model_copy(update={"part_id": "B"}), None):
        numbers.give(1, newest, MORNING)
        assert not numbers.mean(answer(said, first))
    numbers.give(1, first.event.model_copy(update={"part_id": None}), MORNING)
    assert numbers.mean(answer(said, first))
    assert numbers.mean(answer(verdict(2, trigger_id=2)))
    assert numbers.mean(answer(verdict(3, trigger_id=None)))


def test_what_an_earlier_run_was_given_is_older_than_what_this_one_was() -> None:
    """The last of it has the number until then."""
    numbers = TriggerNumbers("plc")
    first, second, third = given("e1"), given("e2"), given("e3")
    earlier = [first.event, second.event]
    numbers.recall(earlier)
    assert [numbers.mean(answer(verdict(1, event_id=each), first)) for each in ("e1", "e2")] == [False, True]
    numbers.give(1, third.event, MORNING)
    numbers.recall(earlier)
    assert [numbers.mean(answer(verdict(1, event_id=each), first)) for each in ("e2", "e3")] == [False, True]


def test_restarted_plc_means_nothing_that_was_asked_before() -> None:
    """Whoever asked, under whatever number; what is asked from then on counts."""
    numbers, asked = TriggerNumbers("plc"), given("e1", "C-1")
    numbers.give(1, asked.event, MORNING)
    own, by_camera, later = verdict(1, event_id="e1"), verdict(2, trigger_id=2), verdict(3, trigger_id=3)
    at = own.received_at + timedelta(hours=1)
    numbers.begin_again(at)
    late_own = own.model_copy(update={"received_at": at})  # a clock was set back meanwhile
    assert [numbers.mean(answer(own, asked)), numbers.mean(answer(late_own, asked))] == [False, False]
    assert not numbers.mean(answer(by_camera))
    assert numbers.mean(answer(later.model_copy(update={"received_at": at})))
    without_number = verdict(4)
    assert not numbers.mean(answer(without_number))
    assert numbers.mean(answer(without_number.model_copy(update={"received_at": at})))
    numbers.give(1, asked.event, MORNING)
    assert numbers.mean(answer(own, asked))


def test_number_of_another_source_is_its_own_if_it_came_later() -> None:
    """A camera's parts are not rejected for good since a PLC, or a replay in its place, has used their numbers."""
    numbers = TriggerNumbers("plc")
    by_camera = verdict(5, event_id="m1", trigger_id=1)
    for event in (given("e1").event, None):
        numbers.give(1, event, by_camera.received_at)
        assert numbers.mean(answer(by_camera))
        numbers.give(1, event, by_camera.received_at + timedelta(seconds=1))
        assert not numbers.mean(answer(by_camera))


def test_number_that_was_told_is_nobody_s_until_its_event_is_made() -> None:
    """A look at the texts takes its time, and a result of the part before must not pass meanwhile."""
    numbers, first, second = TriggerNumbers("plc"), given("e1"), given("e2")
    said = verdict(1, event_id="e1", trigger_id=1)
    numbers.give(1, first.event, MORNING)
    numbers.tell(1)
    assert not numbers.mean(answer(said, first))
    numbers.settle(1)  # the same value, told again
    assert numbers.mean(answer(said, first))
    for each in (second, first):
        numbers.tell(1)
        numbers.give(1, each.event, MORNING)
        assert numbers.mean(answer(said, first)) is (each is first)


@pytest.mark.parametrize(
    ("stands", "is_new"),
    [
        ((1, TriggerTexts("C-1", "file:///1.png", "e1")), False),
        ((1, TriggerTexts("C-1", "file:///1.png")), False),
        ((1, TriggerTexts("C-2", "file:///2.png", "e2")), True),
        ((1, TriggerTexts("C-1", "file:///1.png", "e2")), True),
        ((2, TriggerTexts("C-1", "file:///1.png", "e1")), True),
        ((1, TriggerTexts()), True),
    ],
)
def test_trigger_that_the_last_run_answered_is_known_by_its_texts(
    stands: tuple[int, TriggerTexts], *, is_new: bool
) -> None:
    """By the number alone a part of a counter that began again would be left without an answer for good."""
    memory = TriggerMemory()
    memory.answered_last(1, TriggerTexts("C-1", "file:///1.png", "e1"))
    memory.connected(plc_started=None, answered_in_plc=0)
    assert memory.take(*stands, standing=True) is is_new


def test_numbers_are_remembered_within_a_bound() -> None:
    """The oldest goes first."""
    numbers = TriggerNumbers("plc")
    for number in range(1, 5000):
        numbers.give(number, None, MORNING)
    assert len(numbers._newest) == 1000
    assert 4999 in numbers._newest


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
    [
        "x",
        "ns=2",
        "ns=2;i=abc",
        "ns=-1;i=2",
        "ns=65536;s=a",
        "nsu=;s=a",
        "ns=2;g=no-guid",
        "ns=x;s=a",
        ";",
        "Trigger",
        "ns=2;i=-5",
        "nsu=urn:plc;i=4294967296",
    ],
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


@pytest.mark.parametrize(
    ("published_s", "waited_s", "span_s"),
    [
        (0.02, 0.02, 0.02),
        (1.0, 1.0, 0.15),  # a keep-alive came before it: it was told at the end of its interval
        (1.0, 1.3, 0.15),
        (1.0, 0.01, 1.0),  # we stood still, and the server had no leave to tell
        (0.0, 0.02, None),  # it never says when
        (-1.0, 0.02, None),
        (None, 0.02, None),
    ],
)
def test_what_one_response_tells_was_written_within_its_span(
    published_s: float | None, waited_s: float, span_s: float | None
) -> None:
    """By the server's clock; a publishing interval, unless it had to wait for us."""
    published = None if published_s is None else MORNING + timedelta(seconds=published_s)
    span = span_of(published, MORNING, waited=timedelta(seconds=waited_s), publishing=timedelta(milliseconds=50))
    assert span == (None if span_s is None else timedelta(seconds=span_s))
