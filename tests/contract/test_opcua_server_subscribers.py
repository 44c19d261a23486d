"""Subscribers that ask for too much: it is revised or refused, and no write of a tag waits for them."""

from __future__ import annotations

import asyncio
import math
import struct
from typing import Any, cast

import pytest
from asyncua import Client, ua
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary

from schemas.messages import Decision
from schemas.tags import Tag
from tests.support.opcua import ServedStation, answer, verdict
from tests.support.opcua_requests import SERVER, ask, create, item, subscribe
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("without_traceback")]
LIMIT = 1000
SCHEMA = ua.NodeId(ua.Int32(8252))  # 340 KB of XML, the largest value of the standard's address space


@pytest.mark.parametrize(
    ("requested", "revised"),
    [(0.0, 10.0), (-5.0, 10.0), (math.nan, 10.0), (-math.inf, 10.0), (10.0, 10.0), (math.inf, 2e5), (1e12, 2e5)],
)
async def test_publishing_interval_is_one_that_can_be_kept(flooder: Client, requested: float, revised: float) -> None:
    """When made and when changed."""
    made = await subscribe(flooder, requested)
    assert made.RevisedPublishingInterval == revised
    wish = ua.ModifySubscriptionParameters(
        SubscriptionId=made.SubscriptionId, RequestedPublishingInterval=ua.Duration(requested)
    )
    status, body = await ask(flooder, "ModifySubscription", struct_to_binary(wish))
    changed = struct_from_binary(ua.ModifySubscriptionResult, body)
    assert (status, changed.RevisedPublishingInterval) == ("Good", revised)


async def test_tags_are_written_beside_a_subscription_that_asked_for_no_interval(
    station: ServedStation, flooder: Client
) -> None:
    """Its life is soon over; asyncua found that out within the write of a tag, again and again."""
    made = await subscribe(flooder, 0.0)
    for tag in (Tag.ResultSeq, Tag.Verdict, Tag.Heartbeat, Tag.Results) * 15:
        await create(flooder, made.SubscriptionId, item(station.node(tag).nodeid))
    for seq in range(1, 60):
        await station.adapter.publish(answer(verdict(seq)))
    assert await station.read(Tag.ResultSeq) == [59]


@pytest.mark.parametrize(("requested", "revised"), [(0, 500), (1, 1), (500, 500), (2**32 - 1, 500)])
async def test_queue_size_is_bounded_when_made_and_when_changed(
    station: ServedStation, flooder: Client, requested: int, revised: int
) -> None:
    """At the change asyncua takes what it is told; 0 was without end."""
    made = await subscribe(flooder, 1000.0)
    (created,) = await create(flooder, made.SubscriptionId, item(station.node(Tag.Heartbeat).nodeid, queue=requested))
    assert created.RevisedQueueSize == revised
    wish = ua.ModifyMonitoredItemsParameters(
        SubscriptionId=made.SubscriptionId,
        ItemsToModify=[
            ua.MonitoredItemModifyRequest(
                MonitoredItemId=item_id,
                RequestedParameters=ua.MonitoringParameters(
                    SamplingInterval=ua.Duration(math.nan), QueueSize=ua.UInt32(requested)
                ),
            )
            for item_id in (created.MonitoredItemId, 2**31)
        ],
    )
    changed, unknown = await flooder.uaclient.modify_monitored_items(wish)
    assert (changed.RevisedQueueSize, changed.RevisedSamplingInterval) == (revised, 1000.0)
    assert unknown.StatusCode.name == "BadMonitoredItemIdInvalid"


async def test_item_is_told_of_under_the_handle_it_was_given_last(station: ServedStation, flooder: Client) -> None:
    """A change of an item may give it another, and with another client it would be told of under nobody's."""
    made = await subscribe(flooder, 60_000.0)
    (created,) = await create(flooder, made.SubscriptionId, item(station.node(Tag.ResultSeq).nodeid, queue=10))
    change = ua.MonitoredItemModifyRequest(
        MonitoredItemId=created.MonitoredItemId,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=ua.UInt32(7), SamplingInterval=ua.Duration(math.nan), QueueSize=ua.UInt32(10)
        ),
    )
    wish = ua.ModifyMonitoredItemsParameters(SubscriptionId=made.SubscriptionId, ItemsToModify=[change])
    await flooder.uaclient.modify_monitored_items(wish)
    await station.adapter.publish(answer(verdict(1)))
    status, body = await ask(flooder, "Publish", struct.pack("<i", 0))
    assert status == "Good"
    (part,) = struct_from_binary(ua.PublishResult, body).NotificationMessage.NotificationData
    assert [(one.ClientHandle, one.Value.Value.Value) for one in part.MonitoredItems] == [(1, 0), (7, 1)]


async def test_items_of_all_subscriptions_are_bounded(station: ServedStation, flooder: Client) -> None:
    """Each is told within the write of its tag; whoever deletes his makes room."""
    node_id = station.node(Tag.TriggerImageUri).nodeid
    made = [await subscribe(flooder, 60_000.0) for _ in range(2)]
    for turn in range(5):
        await create(flooder, made[turn % 2].SubscriptionId, *[item(node_id) for _ in range(LIMIT)])
    with pytest.raises(ua.UaStatusCodeError, match="BadTooManyMonitoredItems"):
        await create(flooder, made[0].SubscriptionId, item(node_id))
    await flooder.uaclient.delete_subscriptions([made[1].SubscriptionId])
    (created,) = await create(flooder, made[0].SubscriptionId, item(node_id))
    assert created.StatusCode.is_good()
    gone = ua.DeleteMonitoredItemsParameters(
        SubscriptionId=made[0].SubscriptionId, MonitoredItemIds=[created.MonitoredItemId] * 2
    )
    results = await flooder.uaclient.delete_monitored_items(gone)
    assert [result.name for result in results] == ["Good", "BadMonitoredItemIdInvalid"]


async def test_value_that_asyncua_writes_is_shared_by_all_items(station: ServedStation, flooder: Client) -> None:
    """It writes the status anew each second: copied and encoded for each of 4,000 items, that took half of it.

    What it takes on the wire is not kept with the item, which may live for days.
    """
    status = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus))
    made = await subscribe(flooder, 60_000.0)
    await create(flooder, made.SubscriptionId, *[item(status) for _ in range(20)])
    server = station.adapter._server
    assert server is not None
    told = server.iserver.subscription_service.subscriptions[made.SubscriptionId].monitored_item_srv._monitored_items
    await server.iserver.server_status_node.write_value(await server.iserver.server_status_node.read_value())
    shared = {id(one.mvalue.current_dvalue) for one in told.values()}
    assert (len(told), len(shared)) == (20, 1)
    assert {type(one.mvalue.current_dvalue) for one in told.values()} == {ua.DataValue}
    status_code, body = await ask(flooder, "Publish", struct.pack("<i", 0))
    assert status_code == "Good"
    (part,) = struct_from_binary(ua.PublishResult, body).NotificationMessage.NotificationData
    assert len({repr(one.Value) for one in part.MonitoredItems}) == 1


async def test_first_values_beyond_one_message_come_in_several(flooder: Client) -> None:
    """Twenty times 340 KB reach the subscriber, none twice."""
    told: list[Any] = []

    class Ear:
        def datachange_notification(self, node: Any, value: Any, data: Any) -> None:  # noqa: ARG002 - asyncua's
            told.append(value)

    async with await flooder.create_subscription(10, Ear()) as subscription:
        await subscription.subscribe_data_change([flooder.get_node(SCHEMA)] * 20)
        await eventually(lambda: len(told) == 20, 20)
    assert len(set(told)) == 1


def deadband(kind: ua.DeadbandType, value: float = 0.1) -> ua.DataChangeFilter:
    return ua.DataChangeFilter(
        Trigger=ua.DataChangeTrigger.StatusValue, DeadbandType=ua.UInt32(kind), DeadbandValue=ua.Double(value)
    )


async def test_deadband_is_for_numbers_alone(station: ServedStation, flooder: Client) -> None:
    """Texts and arrays have no distance; a number that comes and goes is told of."""
    refused = {
        **dict.fromkeys((Tag.Reason, Tag.Results, Tag.Boxes, Tag.Ready), "BadFilterNotAllowed"),
        **dict.fromkeys((Tag.Score, Tag.LatencyMs, Tag.ResultSeq, Tag.Threshold), "Good"),
    }
    made = await subscribe(flooder, 10.0)
    absolute = deadband(ua.DeadbandType.Absolute)
    created = await create(flooder, made.SubscriptionId, *[item(station.node(tag).nodeid, absolute) for tag in refused])
    assert [result.StatusCode.name for result in created] == list(refused.values())
    others = await create(
        flooder,
        made.SubscriptionId,
        item(station.node(Tag.LatencyMs).nodeid, deadband(ua.DeadbandType.Percent)),
        item(station.node(Tag.LatencyMs).nodeid, ua.EventFilter()),
        item(station.node(Tag.LatencyMs).nodeid, absolute, attribute=ua.AttributeIds.DisplayName),
        item(station.node(Tag.Reason).nodeid, deadband(ua.DeadbandType.None_)),
        *[item(station.node(Tag.LatencyMs).nodeid, deadband(ua.DeadbandType.Absolute, no)) for no in (-1.0, math.nan)],
    )
    assert [result.StatusCode.name for result in others] == [
        "BadMonitoredItemFilterUnsupported",
        "BadFilterNotAllowed",
        "BadFilterNotAllowed",
        "Good",
        "BadDeadbandFilterInvalid",
        "BadDeadbandFilterInvalid",
    ]
    change = ua.MonitoredItemModifyRequest(
        MonitoredItemId=others[3].MonitoredItemId, RequestedParameters=ua.MonitoringParameters(Filter=absolute)
    )
    (changed,) = await flooder.uaclient.modify_monitored_items(
        ua.ModifyMonitoredItemsParameters(SubscriptionId=made.SubscriptionId, ItemsToModify=[change])
    )
    assert changed.StatusCode.name == "BadFilterNotAllowed"
    for seq, decision in enumerate((Decision.OK, Decision.ERROR, Decision.DAMAGED), 1):
        await station.adapter.publish(answer(verdict(seq, decision)))


async def test_deadband_lets_pass_what_differs_by_more(station: ServedStation, flooder: Client) -> None:
    """From what was told last: of ResultSeq in steps of one, with a deadband of one, each second is told."""
    told: asyncio.Queue[Any] = asyncio.Queue()

    class Ear:
        def datachange_notification(self, node: Any, value: Any, data: Any) -> None:  # noqa: ARG002 - asyncua's
            told.put_nowait(value)

    async with await flooder.create_subscription(10, Ear()) as subscription, asyncio.timeout(10):
        await subscription.deadband_monitor(station.node(Tag.ResultSeq), ua.Double(1), queuesize=10)
        assert await told.get() == 0
        for seq in (1, 2, 3, 4, 5, 9):
            await station.adapter.publish(answer(verdict(seq)))
        assert [await told.get() for _ in range(3)] == [2, 4, 9]


def where(*elements: ua.ContentFilterElement) -> ua.EventFilter:
    return ua.EventFilter(WhereClause=ua.ContentFilter(Elements=list(elements)))


def both(first: int, second: int) -> ua.ContentFilterElement:
    operands = [ua.ElementOperand(Index=ua.UInt32(index)) for index in (first, second)]
    return ua.ContentFilterElement(FilterOperator=ua.FilterOperator.And, FilterOperands=operands)


async def test_event_filter_that_takes_for_ever_is_refused(flooder: Client) -> None:
    """One that goes round, one that doubles at each of forty steps, one that selects fields without a name."""
    yes = ua.ContentFilterElement(
        FilterOperator=ua.FilterOperator.Equals,
        FilterOperands=[ua.LiteralOperand(Value=ua.Variant(1)) for _ in range(2)],
    )
    nameless = ua.SimpleAttributeOperand(BrowsePath=[ua.QualifiedName("Message"), ua.QualifiedName(None)])
    filters = [
        where(),
        where(both(1, 2), yes, yes),
        where(both(0, 0)),
        where(*(both(at + 1, at + 1) for at in range(40)), yes),
        ua.EventFilter(SelectClauses=[nameless]),
        ua.EventFilter(SelectClauses=[ua.SimpleAttributeOperand()] * 51),
        ua.EventFilter(SelectClauses=[ua.SimpleAttributeOperand(AttributeId=ua.UInt32(99))]),
    ]
    made = await subscribe(flooder, 10.0)
    created = await create(
        flooder,
        made.SubscriptionId,
        *[
            item(ua.NodeId(ua.Int32(ua.ObjectIds.Server)), chosen, attribute=ua.AttributeIds.EventNotifier)
            for chosen in filters
        ],
        item(ua.NodeId(ua.Int32(ua.ObjectIds.Server)), attribute=ua.AttributeIds.EventNotifier),
    )
    assert [result.StatusCode.name for result in created] == ["Good"] * 2 + ["BadEventFilterInvalid"] * 6


async def test_event_filter_that_cannot_be_evaluated_lets_nothing_pass(station: ServedStation, flooder: Client) -> None:
    """It compares texts with numbers; who asks for everything beside it is told."""
    server = station.adapter._server
    assert server is not None
    odd = ua.ContentFilterElement(
        FilterOperator=ua.FilterOperator.GreaterThan,
        FilterOperands=[ua.LiteralOperand(Value=ua.Variant(value)) for value in ("text", 1)],
    )
    told: asyncio.Queue[Any] = asyncio.Queue()

    class Ear:
        def event_notification(self, event: Any) -> None:
            told.put_nowait(event)

    node_id = ua.NodeId(ua.Int32(ua.ObjectIds.Server))
    made = await subscribe(flooder, 10.0)
    (created,) = await create(
        flooder, made.SubscriptionId, item(node_id, where(odd), attribute=ua.AttributeIds.EventNotifier)
    )
    assert created.StatusCode.is_good()
    async with await flooder.create_subscription(10, Ear()) as subscription, asyncio.timeout(10):
        await subscription.subscribe_events()
        generator = await server.get_event_generator()
        await generator.trigger(message="news")
        assert (await told.get()).Message.Text == "news"
    waiting = server.iserver.subscription_service.subscriptions[made.SubscriptionId]._triggered_events
    assert waiting == {}


def selecting(count: int) -> ua.EventFilter:
    message = ua.SimpleAttributeOperand(BrowsePath=[ua.QualifiedName("Message")], AttributeId=ua.AttributeIds.Value)
    return ua.EventFilter(SelectClauses=[message] * count)


def event_item(chosen: ua.EventFilter, queue: int = 0) -> ua.MonitoredItemCreateRequest:
    return item(SERVER, chosen, attribute=ua.AttributeIds.EventNotifier, queue=queue)


async def test_event_items_of_all_subscriptions_are_bounded(flooder: Client) -> None:
    """One too many is refused alone; whoever deletes his makes room."""
    made = [await subscribe(flooder, 60_000.0) for _ in range(2)]
    (created,) = await create(flooder, made[0].SubscriptionId, event_item(selecting(1)))
    results = await create(flooder, made[1].SubscriptionId, *[event_item(selecting(1))] * 100)
    statuses = [result.StatusCode.name for result in results]
    assert statuses == ["Good"] * 99 + ["BadTooManyMonitoredItems"]
    await flooder.uaclient.delete_monitored_items(
        ua.DeleteMonitoredItemsParameters(
            SubscriptionId=made[0].SubscriptionId, MonitoredItemIds=[created.MonitoredItemId]
        )
    )
    (created,) = await create(flooder, made[1].SubscriptionId, event_item(selecting(1)))
    assert created.StatusCode.is_good()


@pytest.mark.parametrize(("requested", "revised"), [(0, 50), (1, 1), (50, 50), (2**32 - 1, 50)])
async def test_event_queue_is_bounded_when_made_and_when_changed(flooder: Client, requested: int, revised: int) -> None:
    made = await subscribe(flooder, 1000.0)
    (created,) = await create(flooder, made.SubscriptionId, event_item(selecting(1), requested))
    assert created.RevisedQueueSize == revised
    wish = ua.MonitoredItemModifyRequest(
        MonitoredItemId=created.MonitoredItemId,
        RequestedParameters=ua.MonitoringParameters(QueueSize=ua.UInt32(requested)),
    )
    (changed,) = await flooder.uaclient.modify_monitored_items(
        ua.ModifyMonitoredItemsParameters(SubscriptionId=made.SubscriptionId, ItemsToModify=[wish])
    )
    assert changed.RevisedQueueSize == revised


async def test_events_come_in_messages_of_a_bounded_size_and_are_not_kept_for_ever(
    station: ServedStation, flooder: Client
) -> None:
    """A hundred items are told of sixty events of 200 KB each: neither the queues nor a message hold them all."""
    server = station.adapter._server
    assert server is not None
    made = await subscribe(flooder, 10.0)
    created = await create(flooder, made.SubscriptionId, *[event_item(selecting(20))] * 20)
    await create(flooder, made.SubscriptionId, event_item(selecting(50)))
    generator = await server.get_event_generator()
    for _ in range(60):
        await generator.trigger(message="x" * 10_000)
    one = cast("Any", server.iserver.subscription_service.subscriptions[made.SubscriptionId])
    waiting = sum(len(told) for queue in one.news.events.values() for told in queue)
    assert waiting == one.news._event_bytes
    assert waiting < 6 * 1024 * 1024
    sizes, more = [], True
    while more:
        status, body = await ask(flooder, "Publish", struct.pack("<i", 0))
        assert status == "Good"
        sizes.append(len(body))
        more = struct_from_binary(ua.PublishResult, body).MoreNotifications
        assert sum(_body_sizes(one)) < 4 * 1024 * 1024
    assert len(sizes) > 3
    assert max(sizes) < 1.1 * 1024 * 1024
    assert (one.news._event_bytes, one.news.events) == (0, {})

    await generator.trigger(message="y" * 10_000)
    await flooder.uaclient.delete_monitored_items(
        ua.DeleteMonitoredItemsParameters(
            SubscriptionId=made.SubscriptionId, MonitoredItemIds=[result.MonitoredItemId for result in created]
        )
    )
    assert len(one.news.events) == 1
    _, body = await ask(flooder, "Publish", struct.pack("<i", 0))
    (told,) = struct_from_binary(ua.PublishResult, body).NotificationMessage.NotificationData
    (event,) = told.Events
    kinds = [field.VariantType.name for field in event.EventFields]
    assert kinds == ["LocalizedText"] * 26 + ["StatusCode"] * 24
    assert one.news._event_bytes == 0


async def test_subscriber_is_told_no_more_at_a_time_than_it_asked_for(station: ServedStation, flooder: Client) -> None:
    """Changes and events together (OPC 10000-4, 5.13.2.2); the rest comes with the next messages, in its order."""
    server = station.adapter._server
    assert server is not None
    made = await subscribe(flooder, 10.0, most=3)
    tags = (Tag.Verdict, Tag.ResultPartId, Tag.ResultEventId, Tag.ResultSeq)
    await create(flooder, made.SubscriptionId, *[item(station.node(tag).nodeid) for tag in tags])
    await create(flooder, made.SubscriptionId, event_item(selecting(1)))
    generator = await server.get_event_generator()
    for _ in range(4):
        await generator.trigger(message="x")
    counts: list[tuple[int, int]] = []
    more = True
    while more:
        _, body = await ask(flooder, "Publish", struct.pack("<i", 0))
        published = struct_from_binary(ua.PublishResult, body)
        more = published.MoreNotifications
        told = published.NotificationMessage.NotificationData
        changes = sum(len(part.MonitoredItems) for part in told if isinstance(part, ua.DataChangeNotification))
        counts.append((changes, sum(len(part.Events) for part in told if isinstance(part, ua.EventNotificationList))))
    assert counts == [(3, 0), (1, 2), (0, 2)]


def _body_sizes(subscription: Any) -> list[int]:
    kept = subscription._not_acknowledged_results.values()
    return [len(part.Body) for result in kept for part in result.NotificationMessage.NotificationData]


async def test_what_is_never_acknowledged_is_not_kept_for_ever(station: ServedStation, flooder: Client) -> None:
    """Each message is a megabyte; who does not say that he has it may ask again for the last few."""
    server = station.adapter._server
    assert server is not None
    made = await subscribe(flooder, 10.0)
    for seq in range(1, 9):
        await station.adapter.publish(answer(verdict(seq)))
    await create(flooder, made.SubscriptionId, *[item(station.node(Tag.Results).nodeid) for _ in range(LIMIT)])
    for seq in range(9, 17):
        await ask(flooder, "Publish", struct.pack("<i", 0))
        await station.adapter.publish(answer(verdict(seq)))
    kept = server.iserver.subscription_service.subscriptions[made.SubscriptionId]._not_acknowledged_results
    size = sum(
        len(part.Body) for result in kept.values() for part in result.NotificationMessage.NotificationData if part.Body
    )
    assert 1 <= len(kept) < 8
    assert size < 4 * 1024 * 1024


@pytest.mark.parametrize("are_waiting", [False, True])
async def test_rest_of_a_notification_waits_for_a_request_and_no_interval(
    station: ServedStation, flooder: Client, *, are_waiting: bool
) -> None:
    """OPC 10000-4, 5.13.1.2 and 3: else a result that is more than fits would take as many intervals as messages."""
    tags = [Tag.Verdict, Tag.Reject, Tag.ResultValid, Tag.Reason, Tag.ResultEventId, Tag.ResultTriggerId, Tag.ResultSeq]
    made = await subscribe(flooder, 60_000.0, most=3)
    await create(flooder, made.SubscriptionId, *[item(station.node(tag).nodeid) for tag in tags])
    if are_waiting:
        answers = await asyncio.gather(*[ask(flooder, "Publish", struct.pack("<i", 0)) for _ in range(3)])
    else:
        answers = [await ask(flooder, "Publish", struct.pack("<i", 0)) for _ in range(3)]
    results = [struct_from_binary(ua.PublishResult, body) for _, body in answers]
    told = [len(part.MonitoredItems) for one in results for part in one.NotificationMessage.NotificationData]
    assert told == [3, 3, 1]
    assert [one.MoreNotifications for one in results] == [True, True, False]
