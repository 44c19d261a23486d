"""Clients of the OPC UA server that ask for too much: they are told so or let go, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import math
import struct
from typing import cast

import pytest
from asyncua import Client, ua
from asyncua.ua.ua_binary import struct_to_binary, to_binary
from structlog.testing import capture_logs

from schemas.tags import Tag
from tests.support.opcua import ServedStation, answer, plain_client, verdict
from tests.support.opcua_requests import NULL_NODE, SERVER, ask, create, header, item, send, subscribe
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("without_traceback")]
LIMIT = 1000
PATHS = 300
SCHEMA = ua.NodeId(ua.Int32(8252))  # 340 KB of XML, the largest value of the standard's address space
STRUCTURE = ua.NodeId(ua.Int32(22))  # of 270 references
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
    "BrowseNext": bytes(1),
}


@pytest.mark.parametrize("kind", COUNTED)
async def test_operations_are_counted_before_they_are_looked_at(flooder: Client, kind: str) -> None:
    """A length is enough for the refusal: nothing follows it here."""
    limit = PATHS if kind == "TranslateBrowsePathsToNodeIds" else LIMIT
    status, _ = await ask(flooder, kind, COUNTED[kind] + struct.pack("<i", limit + 1))
    assert status == "BadTooManyOperations"


@pytest.mark.parametrize("count", [0, -1])
@pytest.mark.parametrize("kind", COUNTED)
async def test_no_operations_at_all_are_no_defect(flooder: Client, kind: str, count: int) -> None:
    """An array that is empty or null (OPC 10000-6, 5.2.5)."""
    status, _ = await ask(flooder, kind, COUNTED[kind] + struct.pack("<i", count))
    assert status == "BadNothingToDo"


async def test_server_says_what_it_has_room_for_and_what_it_does_not_do(flooder: Client) -> None:
    """Clients ask at connect, and took null for no limit or for a fault."""
    shown = {
        "ServerCapabilities_MaxSessions": 300,
        "ServerCapabilities_MaxSubscriptions": 200,
        "ServerCapabilities_MaxMonitoredItems": 5000,
        "ServerCapabilities_MaxMonitoredItemsQueueSize": 500,
        "ServerCapabilities_MinSupportedSampleRate": 10.0,
        "ServerCapabilities_ServerProfileArray": [],
        "ServerCapabilities_LocaleIdArray": [],
        "ServerDiagnostics_EnabledFlag": False,
        "ServerRedundancy_RedundancySupport": 0,
        "Auditing": False,
    }
    ids = [ua.NodeId(ua.Int32(getattr(ua.ObjectIds, f"Server_{name}"))) for name in shown]
    read = await flooder.read_attributes([flooder.get_node(one) for one in ids])
    assert [value.Value.Value for value in read if value.Value is not None] == list(shown.values())
    assert all(value.SourceTimestamp for value in read)


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
        write = struct_to_binary(ua.WriteParameters(NodesToWrite=[ua.WriteValue(NodeId=SERVER)]))
        assert (await ask(flooder, "Write", write))[0] == "BadInternalError"
    assert [(line["event"], line["exc_info"]) for line in logged] == [("opcua_request_broke", True)]


async def test_tags_are_read_as_they_are_subscribed_to(station: ServedStation) -> None:
    """A read value has the type, status and timestamps that were written, absent ones included."""
    await station.adapter.publish(answer(verdict(1)))
    values = await station.client.uaclient.read(
        ua.ReadParameters(
            TimestampsToReturn=ua.TimestampsToReturn.Both,
            NodesToRead=[
                ua.ReadValueId(NodeId=node_id, AttributeId=attribute)
                for node_id, attribute in (
                    (station.node(Tag.Verdict).nodeid, ua.AttributeIds.Value),
                    (station.node(Tag.Results).nodeid, ua.AttributeIds.Value),
                    (station.node(Tag.Verdict).nodeid, ua.AttributeIds.DisplayName),
                    (ua.NodeId(ua.String("nothing")), ua.AttributeIds.Value),
                )
            ],
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
