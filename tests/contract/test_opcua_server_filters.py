"""What a subscriber asks of events: conditions that are evaluated let pass what they say, the others are refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua.ua.ua_binary import struct_from_binary

from adapters.opcua.server.subscriptions.like import is_like
from tests.support.opcua import ServedStation, answer, verdict
from tests.support.opcua_requests import SERVER, ask, create, item, subscribe

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("without_traceback")]
STANDARD = 2
BASE_EVENT = ua.NodeId(ua.Int32(ua.ObjectIds.BaseEventType))
RESULT_READY, STATE_CHANGED = (ua.NodeId(ua.Int32(one), ua.Int16(STANDARD)) for one in (1024, 1018))
Is = ua.FilterOperator


def of(*path: str, namespace: int = 0) -> ua.SimpleAttributeOperand:
    names = [ua.QualifiedName(name, ua.Int16(namespace)) for name in path]
    base = ua.NodeId(ua.Int32(ua.ObjectIds.BaseEventType))
    return ua.SimpleAttributeOperand(TypeDefinitionId=base, BrowsePath=names, AttributeId=ua.AttributeIds.Value)


def literal(value: Any) -> ua.LiteralOperand:
    return ua.LiteralOperand(Value=ua.Variant(value))


def at(index: int) -> ua.ElementOperand:
    return ua.ElementOperand(Index=ua.UInt32(index))


def where(operator: ua.FilterOperator, *operands: Any) -> ua.ContentFilterElement:
    return ua.ContentFilterElement(FilterOperator=operator, FilterOperands=list(operands))


def chosen(*elements: ua.ContentFilterElement) -> ua.EventFilter:
    return ua.EventFilter(SelectClauses=[of("EventType")], WhereClause=ua.ContentFilter(Elements=list(elements)))


async def test_events_pass_where_their_condition_holds(station: ServedStation, flooder: Client) -> None:
    """Told of one result that names no measurement: what is missing is null, and a comparison with it does not hold."""
    missing = of("MeasId", namespace=STANDARD)
    simulated = of("IsSimulated", namespace=STANDARD)
    of_result, of_state = where(Is.OfType, literal(RESULT_READY)), where(Is.OfType, literal(STATE_CHANGED))
    holds = [
        chosen(where(Is.Like, of("SourceName"), literal("Vision%"))),
        chosen(where(Is.Like, of("Message"), literal("result _v[a-e]nt-1"))),  # a LocalizedText
        chosen(where(Is.IsNull, missing)),
        chosen(where(Is.Not, at(1)), where(Is.IsNull, simulated)),
        chosen(where(Is.Equals, simulated, literal(False))),
        chosen(where(Is.Or, at(1), at(2)), where(Is.Equals, missing, literal("m")), of_result),
        chosen(where(Is.And, at(1), at(2)), where(Is.Between, of("Severity"), literal(50), literal(150)), of_result),
        chosen(where(Is.InList, of("EventType"), literal(STATE_CHANGED), literal(RESULT_READY))),
        chosen(where(Is.InList, of("EventType"), missing, literal(RESULT_READY))),
        chosen(where(Is.OfType, literal(BASE_EVENT))),  # a type above it
        chosen(where(Is.IsNull, of("emitting_node"))),  # no field, but what asyncua calls something of its own
        chosen(),
    ]
    does_not = [
        chosen(where(Is.OfType, literal(ua.NodeId(ua.Int32(ua.ObjectIds.TransitionEventType))))),
        chosen(where(Is.Like, of("SourceName"), literal("vision%"))),
        chosen(where(Is.Like, missing, literal("%"))),
        chosen(where(Is.IsNull, of("SourceName"))),
        chosen(where(Is.Equals, missing, literal("m"))),
        chosen(where(Is.Not, at(1)), where(Is.Equals, missing, literal("m"))),
        chosen(where(Is.And, at(1), at(2)), where(Is.GreaterThan, of("Severity"), literal(500)), of_result),
        chosen(where(Is.Or, at(1), at(2)), where(Is.InList, missing, literal("m")), of_state),
        chosen(where(Is.Not, at(1)), where(Is.InList, of("EventType"), literal(STATE_CHANGED), missing)),
    ]
    made = await subscribe(flooder, 10.0)
    items = [item(SERVER, one, attribute=ua.AttributeIds.EventNotifier, queue=0) for one in (*does_not, *holds)]
    for handle, one in enumerate(items):
        one.RequestedParameters.ClientHandle = ua.UInt32(handle)
    results = await create(flooder, made.SubscriptionId, *items)
    assert {result.StatusCode.name for result in results} == {"Good"}
    await station.adapter.publish(answer(verdict(1)))
    told = await _told(flooder, last=len(items) - 1)
    assert told == set(range(len(does_not), len(items)))


async def _told(client: Client, last: int) -> set[int]:
    """Return which items were told of a result, until the last one is."""
    told: set[int] = set()
    while last not in told:
        status, body = await ask(client, "Publish", struct.pack("<i", 0))
        assert status == "Good"
        for part in struct_from_binary(ua.PublishResult, body).NotificationMessage.NotificationData:
            told |= {event.ClientHandle for event in part.Events if event.EventFields[0].Value == RESULT_READY}
    return told


@pytest.mark.parametrize(
    ("condition", "fault"),
    [
        (where(Is.Cast, of("Severity"), literal(ua.NodeId(ua.Int32(12)))), "BadFilterOperatorUnsupported"),
        (where(Is.BitwiseAnd, of("Severity"), literal(1)), "BadFilterOperatorUnsupported"),
        (where(Is.BitwiseOr, of("Severity"), literal(1)), "BadFilterOperatorUnsupported"),
        (where(Is.InView, literal(SERVER)), "BadFilterOperatorUnsupported"),
        (where(Is.RelatedTo, *[literal(SERVER)] * 4), "BadFilterOperatorUnsupported"),
        (where(Is.Equals, of("Severity")), "BadFilterOperandCountMismatch"),
        (where(Is.IsNull), "BadFilterOperandCountMismatch"),
        (where(Is.InList, of("Severity")), "BadFilterOperandCountMismatch"),
        (where(Is.Not, at(2), at(2)), "BadFilterOperandCountMismatch"),
        (where(Is.Like, of("Message"), literal("x" * 257)), "BadFilterOperandInvalid"),
        (where(Is.Like, of("Message"), literal("[z-a]")), "BadFilterOperandInvalid"),
        (where(Is.Like, of("Message"), literal(1)), "BadFilterOperandInvalid"),
        (where(Is.Like, of("Message"), of("SourceName")), "BadFilterOperandInvalid"),
        (where(Is.OfType, literal("BaseEventType")), "BadFilterOperandInvalid"),
        (where(Is.OfType, literal(SERVER)), "BadFilterOperandInvalid"),
        (where(Is.OfType, literal(ua.NodeId(ua.String("nothing"), ua.Int16(1)))), "BadFilterOperandInvalid"),
        (where(Is.OfType, of("EventType")), "BadFilterOperandInvalid"),
    ],
)
async def test_condition_that_is_not_evaluated_is_refused_by_name(
    station: ServedStation,  # noqa: ARG001 - it serves
    flooder: Client,
    condition: ua.ContentFilterElement,
    fault: str,
) -> None:
    """When made and when changed; the filter result says which of the conditions it is."""
    good = where(Is.Equals, of("Severity"), literal(1))
    refused = chosen(where(Is.Or, at(1), at(2)), condition, good)
    made = await subscribe(flooder, 10.0)
    items = [
        item(SERVER, one, attribute=ua.AttributeIds.EventNotifier, queue=0)
        for one in (refused, chosen(where(Is.Or, at(1), at(2)), good, good))
    ]
    (created, other) = await create(flooder, made.SubscriptionId, *items)
    change = ua.MonitoredItemModifyRequest(
        MonitoredItemId=other.MonitoredItemId, RequestedParameters=ua.MonitoringParameters(Filter=refused)
    )
    (changed,) = await flooder.uaclient.modify_monitored_items(
        ua.ModifyMonitoredItemsParameters(SubscriptionId=made.SubscriptionId, ItemsToModify=[change])
    )
    for result in (created, changed):
        assert result.StatusCode.name == "BadEventFilterInvalid"
        why = result.FilterResult
        assert isinstance(why, ua.EventFilterResult)
        assert [one.StatusCode.name for one in why.WhereClauseResult.ElementResults] == ["Good", fault, "Good"]
        assert [one.name for one in why.SelectClauseResults] == ["Good"]
    assert other.StatusCode.is_good()


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ("main", "main", True),
        ("main", "Main", False),
        ("", "", True),
        ("", "%", True),
        ("x", "", False),
        ("green", "%en%", True),
        ("entail", "%en%", True),
        ("abcd", "a%c", False),
        ("abXab", "%ab%ab", True),
        ("ab", "%ab%ab", False),
        ("a\nb", "a_b", True),
        ("5%", r"5\%", True),
        ("50", r"5\%", False),
        ("abc", "[a-c][ab][^d-f]", True),
        ("abd", "[a-c][ab][^d-f]", False),
        ("-]", "[x-]]", True),
        ("[.*", "[.*", True),
        ("a[", "a[[^]", True),
        (r"a\b", r"a\\b", True),
        (None, "%", False),
        (7, "%", False),
    ],
)
async def test_like_knows_the_wildcards_of_the_standard(text: object, pattern: str, expected: bool) -> None:
    """OPC 10000-4, 7.7.3: any text, any character, one of a list or none of it; letters are what they are."""
    assert is_like(text, pattern) is expected


async def test_like_takes_no_way_back() -> None:
    """A pattern that a plain expression would try for hours."""
    assert not is_like("a" * 5000, "%a" * 100 + "%b")
