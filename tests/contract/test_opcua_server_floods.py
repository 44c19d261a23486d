"""Clients of the OPC UA server that ask for too much: they are told so or let go, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import logging
import math
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import pytest_asyncio
from asyncua import Client, ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary, to_binary
from structlog.testing import capture_logs

from schemas.messages import Decision
from schemas.tags import Tag
from tests.support.opcua import ServedStation, answer, plain_client, served_station, verdict
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIMIT = 1000
PATHS = 300
SERVER = ua.NodeId(ua.Int32(ua.ObjectIds.Server))
SCHEMA = ua.NodeId(ua.Int32(8252))  # 340 KB of XML, the largest value of the standard's address space
STRUCTURE = ua.NodeId(ua.Int32(22))  # of 270 references
NULL_NODE = b"\0\0"
COUNTED = {
    "Read": bytes(12),
    "Write": b"",
    "TranslateBrowsePathsToNodeIds": b"",
    "RegisterNodes": b"",
    "UnregisterNodes": b"",
    "Call": b"",
    "CreateMonitoredItems": bytes(8),
    "ModifyMonitoredItems": bytes(8),
    "DeleteMonitoredItems": bytes(4),
    "SetMonitoringMode": bytes(8),
    "SetPublishingMode": bytes(1),
    "DeleteSubscriptions": b"",
    "TransferSubscriptions": b"",
    "Browse": NULL_NODE + bytes(8 + 4 + 4),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServedStation]:
    """Serve one station for all tests: to start a server takes a second."""
    async with served_station(tmp_path_factory.mktemp("pki")) as station:
        yield station


@pytest_asyncio.fixture(loop_scope="module")
async def station(served: ServedStation) -> ServedStation:
    await served.start_again()
    return served


@pytest_asyncio.fixture(loop_scope="module")
async def flooder(station: ServedStation) -> AsyncIterator[Client]:
    """A client beside the station's own, whose subscriptions end with it."""
    async with plain_client(station.adapter.endpoint) as client:
        yield client


@pytest.fixture(autouse=True)
def _without_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client asks for, no defect is logged."""
    yield
    records = caplog.get_records("call")
    assert [record.getMessage() for record in records if record.exc_info and record.levelno > logging.DEBUG] == []


def header(client: Client, additional: bytes = NULL_NODE + b"\0") -> bytes:
    """Return a request's header with an additional header of one's own (OPC 10000-4, 7.32)."""
    protocol = client.uaclient.protocol
    assert protocol is not None
    made = ua.RequestHeader()
    protocol._setup_request_header(made)
    return struct_to_binary(made).removesuffix(NULL_NODE + b"\0") + additional


def send(client: Client, kind: str, parameters: bytes, made: bytes | None = None) -> asyncio.Future[Buffer]:
    """Send a request that asyncua's client would not; return what will be its answer."""
    protocol = client.uaclient.protocol
    assert protocol is not None
    assert protocol.transport is not None
    type_id = ua.NodeId(ua.Int32(getattr(ua.ObjectIds, f"{kind}Request_Encoding_DefaultBinary")))
    protocol._request_id += 1
    answered = protocol._callbackmap[protocol._request_id] = asyncio.get_running_loop().create_future()
    message = to_binary(ua.NodeId, type_id) + (made or header(client)) + parameters
    protocol.transport.write(protocol._connection.message_to_binary(message, request_id=protocol._request_id))
    return answered


async def ask(client: Client, kind: str, parameters: bytes) -> tuple[str, Buffer]:
    """Return the name of the status that a request is answered with, and what follows it."""
    async with asyncio.timeout(20):
        body = await send(client, kind, parameters)
    nodeid_from_binary(body)
    return struct_from_binary(ua.ResponseHeader, body).ServiceResult.name, body


async def subscribe(client: Client, interval_ms: float, lifetime: int = 40) -> ua.CreateSubscriptionResult:
    """Create a subscription for which nobody publishes."""
    parameters = ua.CreateSubscriptionParameters(
        RequestedPublishingInterval=ua.Duration(interval_ms),
        RequestedLifetimeCount=ua.UInt32(lifetime),
        RequestedMaxKeepAliveCount=ua.UInt32(10),
        PublishingEnabled=True,
    )
    name, body = await ask(client, "CreateSubscription", struct_to_binary(parameters))
    assert name == "Good"
    return struct_from_binary(ua.CreateSubscriptionResult, body)


def item(
    node_id: ua.NodeId,
    chosen: ua.MonitoringFilter | None = None,
    *,
    attribute: ua.AttributeIds = ua.AttributeIds.Value,
    queue: int = 1,
) -> ua.MonitoredItemCreateRequest:
    wanted = ua.MonitoringParameters(
        ClientHandle=ua.UInt32(1), SamplingInterval=ua.Duration(math.nan), QueueSize=ua.UInt32(queue)
    )
    if chosen is not None:
        wanted.Filter = chosen
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=node_id, AttributeId=attribute),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=wanted,
    )


async def create(
    client: Client, subscription: int, *items: ua.MonitoredItemCreateRequest
) -> list[ua.MonitoredItemCreateResult]:
    parameters = ua.CreateMonitoredItemsParameters(SubscriptionId=subscription, ItemsToCreate=list(items))
    return list(await client.uaclient.create_monitored_items(parameters))


@pytest.mark.parametrize("kind", COUNTED)
async def test_operations_are_counted_before_they_are_looked_at(flooder: Client, kind: str) -> None:
    """A length is enough for the refusal: nothing follows it here."""
    limit = PATHS if kind == "TranslateBrowsePathsToNodeIds" else LIMIT
    status, _ = await ask(flooder, kind, COUNTED[kind] + struct.pack("<i", limit + 1))
    assert status == "BadTooManyOperations"


@pytest.mark.parametrize("kind", COUNTED)
async def test_no_operations_at_all_are_no_defect(flooder: Client, kind: str) -> None:
    """An array that is null (OPC 10000-6, 5.2.5)."""
    status, _ = await ask(flooder, kind, COUNTED[kind] + struct.pack("<i", -1))
    assert status == "BadNothingToDo"


async def test_as_many_operations_as_the_server_shows_are_carried_out(station: ServedStation, flooder: Client) -> None:
    """Honest clients read the limit and split their calls."""
    shown = dict.fromkeys(("Read", "Write", "MethodCall", "Browse", "RegisterNodes"), LIMIT)
    for name, limit in {**shown, "TranslateBrowsePathsToNodeIds": PATHS}.items():
        node = getattr(ua.ObjectIds, f"Server_ServerCapabilities_OperationLimits_MaxNodesPer{name}")
        assert await flooder.get_node(ua.NodeId(node)).read_value() == limit
    items = flooder.get_node(
        ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall))
    )
    assert await items.read_value() == LIMIT

    verdicts = [station.node(Tag.Verdict)] * LIMIT
    assert await flooder.read_values(verdicts) == [0] * LIMIT
    with pytest.raises(ua.UaStatusCodeError, match="BadTooManyOperations"):
        await flooder.read_values([*verdicts, station.node(Tag.Verdict)])
    made = await subscribe(flooder, 1000.0)
    created = await create(
        flooder, made.SubscriptionId, *[item(station.node(Tag.TriggerPartId).nodeid) for _ in range(LIMIT)]
    )
    assert {result.StatusCode.name for result in created} == {"Good"}
    described = ua.BrowseDescription(NodeId=station.node(Tag.Verdict).nodeid)
    assert len(await flooder.uaclient.browse(ua.BrowseParameters(NodesToBrowse=[described] * LIMIT))) == LIMIT


async def test_as_many_browse_paths_as_the_server_shows_are_translated(flooder: Client) -> None:
    """Each of seven steps, which is more than any node of the server needs."""
    step = ua.RelativePathElement(
        ReferenceTypeId=ua.NodeId(ua.Int32(ua.ObjectIds.HierarchicalReferences)),
        IncludeSubtypes=cast("ua.Boolean", True),
        TargetName=ua.QualifiedName("nothing"),
    )
    path = ua.BrowsePath(StartingNode=SERVER, RelativePath=ua.RelativePath(Elements=[step] * 7))
    found = await flooder.uaclient.translate_browsepaths_to_nodeids([path] * PATHS)
    assert [result.StatusCode.name for result in found] == ["BadNoMatch"] * PATHS


async def test_defect_of_ours_is_logged_as_one(
    station: ServedStation, flooder: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may look as what a stranger's bytes cause; those leave a line and no traceback."""

    async def broken(*_: object) -> None:
        raise ValueError("a defect")

    described = struct_to_binary(
        ua.ReadParameters(NodesToRead=[ua.ReadValueId(NodeId=station.node(Tag.Verdict).nodeid)])
    )
    with capture_logs() as logged:
        assert (await ask(flooder, "Read", described[:-3]))[0] == "BadDecodingError"
        assert (await ask(flooder, "Write", struct.pack("<i", 5)))[0] == "BadDecodingError"
        assert (await ask(flooder, "Browse", b"\x09"))[0] == "BadDecodingError"
    assert [(line["event"], line.get("exc_info")) for line in logged] == [("opcua_request_failed", None)] * 3
    server = station.adapter._server
    assert server is not None
    monkeypatch.setattr(server.iserver.attribute_service, "write", broken)
    with capture_logs() as logged:
        assert (await ask(flooder, "Write", struct.pack("<i", 0)))[0] == "BadInternalError"
    assert [(line["event"], line["exc_info"]) for line in logged] == [("opcua_request_broke", True)]


async def test_tags_are_read_as_they_are_subscribed_to(station: ServedStation) -> None:
    """A read value has the type, status and timestamps that were written, absent ones included."""
    await station.adapter.publish(answer(verdict(1)))
    values = await station.client.uaclient.read(
        ua.ReadParameters(
            NodesToRead=[
                ua.ReadValueId(NodeId=node_id, AttributeId=attribute)
                for node_id, attribute in (
                    (station.node(Tag.Verdict).nodeid, ua.AttributeIds.Value),
                    (station.node(Tag.Results).nodeid, ua.AttributeIds.Value),
                    (station.node(Tag.Verdict).nodeid, ua.AttributeIds.DisplayName),
                    (ua.NodeId(ua.String("nothing")), ua.AttributeIds.Value),
                )
            ]
        )
    )
    assert station.adapter._tags is not None
    tags = station.adapter._tags
    kept = [
        tags.aspace.read_attribute_value(tags.node_ids[tag], ua.AttributeIds.Value)
        for tag in (Tag.Verdict, Tag.Results)
    ]
    for read, written in zip(values, kept, strict=False):
        assert (read.Value, read.StatusCode) == (written.Value, written.StatusCode)
        assert read.SourceTimestamp is not None
        assert read.ServerTimestamp is not None
    assert values[2].Value == ua.Variant(ua.LocalizedText(Tag.Verdict.name))
    assert values[3].StatusCode == ua.StatusCode(ua.UInt32(ua.StatusCodes.BadNodeIdUnknown))


async def test_answer_beyond_all_measure_is_refused(flooder: Client) -> None:
    """The operations are few enough, what they ask for is 170 MB."""
    with pytest.raises(ua.UaStatusCodeError, match="BadResponseTooLarge"):
        await flooder.read_values([flooder.get_node(SCHEMA)] * LIMIT)


async def test_browse_answers_what_fits_and_says_of_which_nodes_it_does_not(flooder: Client) -> None:
    """All references of 500 nodes fit, unless somebody names the busiest node 500 times."""
    described = ua.BrowseDescription(NodeId=STRUCTURE, BrowseDirection=ua.BrowseDirection.Both)
    results = await flooder.uaclient.browse(ua.BrowseParameters(NodesToBrowse=[described] * LIMIT))
    statuses = [result.StatusCode.name for result in results]
    assert statuses[:30] == ["Good"] * 30
    assert set(statuses[-400:]) == {"BadNoContinuationPoints"}


async def test_browse_path_without_end_is_refused(flooder: Client) -> None:
    """It goes to and fro between a type and its subtype."""
    there, back = (
        ua.RelativePathElement(
            ReferenceTypeId=ua.NodeId(ua.Int32(ua.ObjectIds.HasSubtype)),
            IsInverse=cast("ua.Boolean", is_inverse),
            IncludeSubtypes=cast("ua.Boolean", True),
            TargetName=ua.QualifiedName(name),
        )
        for is_inverse, name in ((False, "Argument"), (True, "Structure"))
    )
    short, endless = (
        ua.BrowsePath(StartingNode=STRUCTURE, RelativePath=ua.RelativePath(Elements=[there, back] * turns))
        for turns in (1, 700)
    )
    (found,) = await flooder.uaclient.translate_browsepaths_to_nodeids([short])
    assert [target.TargetId for target in found.Targets] == [STRUCTURE]
    with pytest.raises(ua.UaStatusCodeError, match="BadTooManyOperations"):
        await flooder.uaclient.translate_browsepaths_to_nodeids([endless])


NOTHINGS = b"\x97" + struct.pack("<i", 60_000) + bytes(60_000)
"""A Variant of 60,000 DataValues without anything: a byte each on the wire, ten microseconds to make."""


async def test_message_of_too_many_pieces_is_not_taken_apart(station: ServedStation, flooder: Client) -> None:
    """One operation can hold an array; so can the header, and a login, for which nobody needs a session."""
    write = struct.pack("<i", 1) + NULL_NODE + struct.pack("<Ii", 13, -1) + b"\x01" + NOTHINGS
    assert (await ask(flooder, "Write", write))[0] == "BadEncodingLimitsExceeded"
    stranger = plain_client(station.adapter.endpoint)
    await stranger.connect_sessionless()
    locales = struct.pack("<ii", -1, 1_000) + struct.pack("<i", 0) * 1_000
    assert (await ask(stranger, "GetEndpoints", locales))[0] == "BadEncodingLimitsExceeded"
    literal = to_binary(ua.NodeId, ua.NodeId(ua.Int32(ua.ObjectIds.LiteralOperand_Encoding_DefaultBinary)))
    additional = literal + b"\x01" + struct.pack("<i", len(NOTHINGS)) + NOTHINGS
    with capture_logs() as logged:
        answered = send(stranger, "GetEndpoints", b"", header(stranger, additional))
        await asyncio.wait([answered], timeout=10)
    assert isinstance(answered.exception(), ConnectionError)
    assert [line["event"] for line in logged] == ["opcua_connection_refused"]
    await stranger.disconnect_sessionless()


async def test_message_beyond_all_measure_ends_its_connection(station: ServedStation, flooder: Client) -> None:
    """The 680 KB that once made 165 MB are not collected."""
    with pytest.raises((ua.UaError, ConnectionError)):
        await flooder.read_values([station.node(Tag.Results)] * 20_000)
    assert await station.read(Tag.Verdict) == [0]


async def test_client_that_does_not_read_is_let_go(station: ServedStation) -> None:
    """Answers of 4 MB are asked for and left lying: past the bound the connection ends, with one line."""
    client = plain_client(station.adapter.endpoint)
    await client.connect()
    assert client.uaclient.protocol is not None
    assert client.uaclient.protocol.transport is not None
    client.uaclient.protocol.transport.pause_reading()
    asked = ua.ReadParameters(NodesToRead=[ua.ReadValueId(NodeId=SCHEMA, AttributeId=ua.AttributeIds.Value)] * 12)
    with capture_logs() as logged:
        answers = [send(client, "Read", struct_to_binary(asked)) for _ in range(20)]
        server = station.adapter._server
        assert server is not None
        await eventually(lambda: len(server.connections) == 1, 10)
    assert [line["event"] for line in logged] == ["opcua_connection_refused"]
    assert "does not read" in logged[0]["reason"]
    assert await station.read(Tag.Verdict) == [0]
    client.uaclient.protocol.transport.resume_reading()
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*answers, return_exceptions=True)
    assert any(isinstance(one, ConnectionError) for one in ended)
    await client.disconnect()


async def test_burst_of_requests_is_answered_whole(station: ServedStation, flooder: Client) -> None:
    """More than the server looks at once wait in the socket, and none is lost."""
    asked = struct_to_binary(ua.ReadParameters(NodesToRead=[ua.ReadValueId(NodeId=station.node(Tag.Verdict).nodeid)]))
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*[send(flooder, "Read", asked) for _ in range(400)])
    assert len(answers) == 400


@pytest.mark.parametrize(
    ("requested", "revised"),
    [(0.0, 10.0), (-5.0, 10.0), (math.nan, 10.0), (-math.inf, 10.0), (10.0, 10.0), (math.inf, 3.6e6), (1e12, 3.6e6)],
)
async def test_publishing_interval_is_one_that_can_be_kept(flooder: Client, requested: float, revised: float) -> None:
    """And a later wish changes nothing."""
    made = await subscribe(flooder, requested)
    assert made.RevisedPublishingInterval == revised
    wish = ua.ModifySubscriptionParameters(
        SubscriptionId=made.SubscriptionId,
        RequestedPublishingInterval=ua.Duration(requested),
        RequestedLifetimeCount=ua.UInt32(2**32 - 1),
        RequestedMaxKeepAliveCount=ua.UInt32(2**32 - 1),
    )
    status, body = await ask(flooder, "ModifySubscription", struct_to_binary(wish))
    changed = struct_from_binary(ua.ModifySubscriptionResult, body)
    assert (status, changed.RevisedPublishingInterval) == ("Good", revised)
    assert changed.RevisedLifetimeCount == 40


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
    )
    assert [result.StatusCode.name for result in others] == [
        "BadMonitoredItemFilterUnsupported",
        "BadFilterNotAllowed",
        "BadFilterNotAllowed",
        "Good",
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
    """ResultSeq in steps of one with a deadband of one: only the jump is told."""
    told: asyncio.Queue[Any] = asyncio.Queue()

    class Ear:
        def datachange_notification(self, node: Any, value: Any, data: Any) -> None:  # noqa: ARG002 - asyncua's
            told.put_nowait(value)

    async with await flooder.create_subscription(10, Ear()) as subscription, asyncio.timeout(10):
        await subscription.deadband_monitor(station.node(Tag.ResultSeq), ua.Double(1), queuesize=10)
        assert await told.get() == 0
        for seq in (1, 2, 3, 9):
            await station.adapter.publish(answer(verdict(seq)))
        assert await told.get() == 9


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
    waiting = sum(len(told) for queue in one._event_queues.values() for told in queue)
    assert waiting == one._event_bytes
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
    assert (one._event_bytes, one._triggered_events) == (0, {})

    await generator.trigger(message="y" * 10_000)
    await flooder.uaclient.delete_monitored_items(
        ua.DeleteMonitoredItemsParameters(
            SubscriptionId=made.SubscriptionId, MonitoredItemIds=[result.MonitoredItemId for result in created]
        )
    )
    assert len(one._triggered_events) == 1
    _, body = await ask(flooder, "Publish", struct.pack("<i", 0))
    (told,) = struct_from_binary(ua.PublishResult, body).NotificationMessage.NotificationData
    (event,) = told.Events
    kinds = [field.VariantType.name for field in event.EventFields]
    assert kinds == ["LocalizedText"] * 26 + ["StatusCode"] * 24
    assert one._event_bytes == 0


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


async def test_sessions_without_a_login_do_not_pile_up(station: ServedStation) -> None:
    """Nobody needs a password to ask for a session: the last one of a connection is kept, and none without end."""
    client = plain_client(station.adapter.endpoint)
    await client.connect_sessionless()
    server = station.adapter._server
    assert server is not None
    before = len(server.iserver.sessions)
    try:
        wanted = ua.CreateSessionParameters(RequestedSessionTimeout=ua.Duration(60_000))
        for _ in range(5):
            assert (await ask(client, "CreateSession", struct_to_binary(wanted)))[0] == "Good"
        assert len(server.iserver.sessions) == before + 1
        wanted.RequestedSessionTimeout = ua.Duration(math.nan)
        assert (await ask(client, "CreateSession", struct_to_binary(wanted)))[0] == "BadInvalidArgument"
    finally:
        await client.disconnect_sessionless()
