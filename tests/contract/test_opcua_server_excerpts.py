"""What of a value a client asks for: parts by index, encodings and timestamps, read or subscribed to."""

from __future__ import annotations

import struct
from datetime import datetime

import pytest
from asyncua import Client, ua
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary

from schemas.messages import Box
from schemas.tags import Tag
from tests.support.opcua import ServedStation, answer, verdict
from tests.support.opcua_requests import SERVER, ask, create, item, subscribe

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("without_traceback")]
VALUE = ua.AttributeIds.Value
STATUS = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_BuildInfo))  # a structure
SCHEMA = ua.NodeId(ua.Int32(8252))  # a ByteString
STATIC = ua.NodeId(ua.Int32(ua.ObjectIds.TimestampsToReturn_EnumStrings))
NOWHERE = ua.NodeId(ua.String("nothing"))
Stamps = ua.TimestampsToReturn
BOXES = (Box(x1=1, y1=2, x2=3, y2=4, score=0.9), Box(x1=5, y1=6, x2=7, y2=8, score=0.8))


async def read(
    client: Client,
    node_id: ua.NodeId,
    index_range: str | None = None,
    encoding: ua.QualifiedName | None = None,
    *,
    attribute: ua.AttributeIds = VALUE,
    stamps: Stamps = Stamps.Both,
) -> ua.DataValue:
    wanted = ua.ReadValueId(NodeId=node_id, AttributeId=attribute, IndexRange=index_range)
    wanted.DataEncoding = encoding or ua.QualifiedName()
    parameters = ua.ReadParameters(TimestampsToReturn=stamps, NodesToRead=[wanted])
    (value,) = await client.uaclient.read(parameters)
    return value


def shown(value: ua.DataValue) -> object:
    """Return what a value holds, or the name of its status."""
    assert value.StatusCode is not None
    assert value.Value is not None
    return value.Value.Value if value.StatusCode.is_good() else value.StatusCode.name


async def test_part_of_a_tag_is_read(station: ServedStation) -> None:
    """As far as there is anything of it (OPC 10000-4, 7.27)."""
    await station.adapter.publish(answer(verdict(1, boxes=BOXES)))
    await station.adapter.publish(answer(verdict(2, boxes=BOXES, part_id="C-200")))
    boxes, part_id, results, seq = (
        station.node(tag).nodeid for tag in (Tag.Boxes, Tag.ResultPartId, Tag.Results, Tag.ResultSeq)
    )
    assert (await station.read(Tag.Boxes))[0] == [1, 2, 3, 4, 5, 6, 7, 8]
    (newest, oldest) = (await station.client.read_values([station.node(Tag.Results)]))[0]
    expected = [
        (boxes, "0", [1]),
        (boxes, "4:7", [5, 6, 7, 8]),
        (boxes, "6:60", [7, 8]),
        (boxes, "8", "BadIndexRangeNoData"),
        (boxes, "50:60", "BadIndexRangeNoData"),
        (boxes, "", [1, 2, 3, 4, 5, 6, 7, 8]),
        (part_id, "2:3", "20"),
        (part_id, "9", "BadIndexRangeNoData"),
        (results, "0", [newest]),
        (results, "0:1,0:9", [newest[:10], oldest[:10]]),
        (SCHEMA, "0:3", b"<xs:"),
        (boxes, "x", "BadIndexRangeInvalid"),
        (boxes, "3:3", "BadIndexRangeInvalid"),
        (boxes, "0,0", "BadIndexRangeNoData"),
        (seq, "0", "BadIndexRangeNoData"),
        (station.node(Tag.Score).nodeid, "x", "BadIndexRangeInvalid"),
        (NOWHERE, "x", "BadNodeIdUnknown"),
    ]
    for node_id, text, what in expected:
        assert (node_id, text, shown(await read(station.client, node_id, text))) == (node_id, text, what)
    name = await read(station.client, boxes, "0", attribute=ua.AttributeIds.DisplayName)
    assert shown(name) == "BadIndexRangeNoData"
    part = await read(station.client, boxes, "0")
    assert part.SourceTimestamp == (await read(station.client, boxes)).SourceTimestamp


@pytest.mark.parametrize(
    ("encoding", "of_scalar", "of_structure"),
    [
        (ua.QualifiedName("Default Binary"), "BadDataEncodingInvalid", "Good"),
        (ua.QualifiedName("Default JSON"), "BadDataEncodingInvalid", "BadDataEncodingUnsupported"),
        (ua.QualifiedName("Default XML"), "BadDataEncodingInvalid", "BadDataEncodingUnsupported"),
        (ua.QualifiedName("Default Binary", ua.Int16(1)), "BadDataEncodingInvalid", "BadDataEncodingInvalid"),
        (ua.QualifiedName("nothing"), "BadDataEncodingInvalid", "BadDataEncodingInvalid"),
    ],
)
async def test_encoding_is_one_of_a_structure(
    station: ServedStation, encoding: ua.QualifiedName, of_scalar: str, of_structure: str
) -> None:
    """And no attribute's but the value's."""
    verdict_id = station.node(Tag.Verdict).nodeid
    scalar = await read(station.client, verdict_id, encoding=encoding)
    structure = await read(station.client, STATUS, encoding=encoding)
    name = await read(station.client, STATUS, encoding=encoding, attribute=ua.AttributeIds.DisplayName)
    statuses = [value.StatusCode.name for value in (scalar, structure, name) if value.StatusCode]
    assert statuses == [of_scalar, of_structure, "BadDataEncodingInvalid"]
    made = await subscribe(station.client, 1000.0)
    wishes = [item(verdict_id), item(STATUS)]
    for wish in wishes:
        wish.ItemToMonitor.DataEncoding = encoding
    created = await create(station.client, made.SubscriptionId, *wishes)
    assert [result.StatusCode.name for result in created] == [of_scalar, of_structure]


@pytest.mark.parametrize("stamps", [Stamps.Source, Stamps.Server, Stamps.Both, Stamps.Neither])
async def test_timestamps_are_those_that_are_asked_for(station: ServedStation, flooder: Client, stamps: Stamps) -> None:
    """Read and told, of tags and of what has no timestamps of its own; a change of mind counts from then on."""
    await station.adapter.publish(answer(verdict(1)))
    whole = await read(station.client, station.node(Tag.Results).nodeid)
    expected = (
        whole.SourceTimestamp if stamps in (Stamps.Source, Stamps.Both) else None,
        whole.ServerTimestamp if stamps in (Stamps.Server, Stamps.Both) else None,
    )
    value = await read(station.client, station.node(Tag.Results).nodeid, stamps=stamps)
    assert (value.Value, value.SourceTimestamp, value.ServerTimestamp) == (whole.Value, *expected)
    static = await read(station.client, STATIC, stamps=stamps)
    assert (shown(static) is not None, static.ServerTimestamp is not None) == (True, expected[1] is not None)

    made = await subscribe(flooder, 10.0)
    wanted = item(station.node(Tag.Results).nodeid)
    (created,) = await flooder.uaclient.create_monitored_items(
        ua.CreateMonitoredItemsParameters(made.SubscriptionId, TimestampsToReturn=stamps, ItemsToCreate=[wanted])
    )
    (told,) = await changes(flooder)
    assert (told.Value, told.SourceTimestamp, told.ServerTimestamp) == (whole.Value, *expected)
    change = ua.MonitoredItemModifyRequest(created.MonitoredItemId, wanted.RequestedParameters)
    await flooder.uaclient.modify_monitored_items(
        ua.ModifyMonitoredItemsParameters(made.SubscriptionId, Stamps.Neither, [change])
    )
    await station.adapter.publish(answer(verdict(2)))
    (told,) = await changes(flooder)
    assert (told.SourceTimestamp, told.ServerTimestamp) == (None, None)


async def changes(client: Client) -> list[ua.DataValue]:
    """Return the values that the next message tells."""
    _, body = await ask(client, "Publish", struct.pack("<i", 0))
    message = struct_from_binary(ua.PublishResult, body).NotificationMessage
    return [one.Value for part in message.NotificationData for one in part.MonitoredItems]


@pytest.mark.parametrize("stamps", [-1, 4, 7])
async def test_timestamps_that_there_are_not_are_refused(station: ServedStation, flooder: Client, stamps: int) -> None:
    """4 is the standard's word for none of them."""
    made = await subscribe(flooder, 1000.0)
    number = struct.pack("<Ii", made.SubscriptionId, stamps)
    described = struct_to_binary(ua.ReadValueId(NodeId=station.node(Tag.Verdict).nodeid, AttributeId=VALUE))
    for kind, parameters in {
        "Read": struct.pack("<dii", 0.0, stamps, 1) + described,
        "CreateMonitoredItems": number + struct.pack("<i", 1) + struct_to_binary(item(SERVER)),
        "ModifyMonitoredItems": number + struct.pack("<i", 0),
    }.items():
        assert (kind, (await ask(flooder, kind, parameters))[0]) == (kind, "BadTimestampsToReturnInvalid")


@pytest.mark.parametrize(
    ("max_age", "status"),
    [
        (-1.0, "BadMaxAgeInvalid"),
        (float("nan"), "BadMaxAgeInvalid"),
        (0.0, "Good"),
        (1e9, "Good"),
        (float("inf"), "Good"),
    ],
)
async def test_age_is_none_that_is_negative(station: ServedStation, max_age: float, status: str) -> None:
    """A value is always as new as it can be."""
    wanted = ua.ReadValueId(NodeId=station.node(Tag.Verdict).nodeid, AttributeId=VALUE)
    parameters = ua.ReadParameters(MaxAge=ua.Duration(max_age), NodesToRead=[wanted])
    assert (await ask(station.client, "Read", struct_to_binary(parameters)))[0] == status


async def test_subscriber_is_told_of_a_part_where_the_part_changes(station: ServedStation, flooder: Client) -> None:
    """One that is not there yet is no mistake: it may come (OPC 10000-4, 5.13.2.1)."""
    await station.adapter.publish(answer(verdict(1, boxes=BOXES[:1], part_id="C-1")))
    made = await subscribe(flooder, 10.0)
    wishes = [item(station.node(tag).nodeid, queue=10) for tag in (Tag.Boxes, Tag.ResultPartId, Tag.Boxes)]
    for wish, text in zip(wishes, ("4:7", "0:1", "0:1"), strict=True):
        wish.ItemToMonitor.IndexRange = text
    created = await create(flooder, made.SubscriptionId, *wishes)
    assert [result.StatusCode.name for result in created] == ["Good"] * 3
    assert [shown(value) for value in await changes(flooder)] == ["BadIndexRangeNoData", "C-", [1, 2]]
    await station.adapter.publish(answer(verdict(2, boxes=BOXES, part_id="C-2")))
    assert [shown(value) for value in await changes(flooder)] == [[5, 6, 7, 8]]
    await station.adapter.publish(answer(verdict(3, boxes=BOXES, part_id="C-3")))
    await station.adapter.publish(answer(verdict(4, boxes=BOXES, part_id="D-4")))
    (told,) = await changes(flooder)
    assert (shown(told), isinstance(told.SourceTimestamp, datetime)) == ("D-", True)


async def test_subscriber_to_a_part_that_cannot_be_is_refused(station: ServedStation, flooder: Client) -> None:
    """When it asks, by name; the others of the same request are made."""
    made = await subscribe(flooder, 1000.0)
    boxes = station.node(Tag.Boxes).nodeid
    wishes = [
        (item(boxes), "x", "BadIndexRangeInvalid"),
        (item(station.node(Tag.Score).nodeid), "1:0", "BadIndexRangeInvalid"),
        (item(NOWHERE), "0", "BadNodeIdUnknown"),
        (item(boxes), "0:3", "Good"),
    ]
    for wish, text, _ in wishes:
        wish.ItemToMonitor.IndexRange = text
    created = await create(flooder, made.SubscriptionId, *[wish for wish, _, _ in wishes])
    assert [result.StatusCode.name for result in created] == [status for _, _, status in wishes]
