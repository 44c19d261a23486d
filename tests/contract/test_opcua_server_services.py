"""Services of the OPC UA server beside those of a running line: long browses, and what there is not, by its status."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

import pytest
from asyncua import Client, ua

from adapters.opcua.server.continuation import MAX_CONTINUATION_POINTS
from tests.support.opcua import STATION, ServedStation, plain_client
from tests.support.opcua_requests import SERVER, ask

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("without_traceback")]
NOWHERE = ua.NodeId(ua.String("nowhere"), ua.Int16(1))
INVALID = "BadContinuationPointInvalid"
NO_ROOM = "BadNoContinuationPoints"


async def browse(client: Client, node_ids: Sequence[ua.NodeId], most: int = 0) -> list[ua.BrowseResult]:
    """Browse all references of nodes, so many of each at once."""
    described = [ua.BrowseDescription(NodeId=one, BrowseDirection=ua.BrowseDirection.Both) for one in node_ids]
    asked = ua.BrowseParameters(RequestedMaxReferencesPerNode=ua.Counter(most), NodesToBrowse=described)
    return list(await client.uaclient.browse(asked))


async def go_on(client: Client, *points: bytes | None, release: bool = False) -> list[ua.BrowseResult]:
    return list(
        await client.uaclient.browse_next(
            ua.BrowseNextParameters(
                ReleaseContinuationPoints=cast("ua.Boolean", release),
                ContinuationPoints=[cast("ua.ContinuationPoint", point) for point in points],
            )
        )
    )


def statuses(results: Sequence[ua.BrowseResult]) -> list[str]:
    return [result.StatusCode.name for result in results]


async def test_browse_goes_on_where_it_stopped(station: ServedStation, flooder: Client) -> None:
    """Page by page the references are those of one long answer, and a point is good for once."""
    line = ua.NodeId(ua.String(STATION), ua.Int16(station.namespace))
    (whole,) = await browse(flooder, [line])
    (page,) = await browse(flooder, [line], 10)
    found, points = list(page.References), [page.ContinuationPoint]
    while page.ContinuationPoint:
        assert len(page.References) == 10
        (page,) = await go_on(flooder, page.ContinuationPoint)
        found += page.References
        points.append(page.ContinuationPoint)
    assert found == whole.References
    assert len(points) == (len(found) + 9) // 10
    assert statuses(await go_on(flooder, *points, b"nonsense", None)) == [INVALID] * (len(points) + 2)
    assert [one.ContinuationPoint for one in await browse(flooder, [line], len(found))] == [None]


async def test_browse_that_is_not_wanted_any_more_is_released(flooder: Client) -> None:
    """And what belongs to another session is not there."""
    (page,) = await browse(flooder, [SERVER], 1)
    async with plain_client(flooder.server_url.geturl()) as stranger:
        assert statuses(await go_on(stranger, page.ContinuationPoint)) == [INVALID]
        assert statuses(await go_on(stranger, page.ContinuationPoint, release=True)) == [INVALID]
    (released,) = await go_on(flooder, page.ContinuationPoint, release=True)
    assert (released.StatusCode.name, released.References, released.ContinuationPoint) == ("Good", [], None)
    assert statuses(await go_on(flooder, page.ContinuationPoint)) == [INVALID]


async def test_session_keeps_so_many_browses_and_no_more(flooder: Client) -> None:
    """Those of one request that find no place are told so; those of an earlier one make room."""
    shown = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerCapabilities_MaxBrowseContinuationPoints))
    assert await flooder.get_node(shown).read_value() == MAX_CONTINUATION_POINTS
    (early,) = await browse(flooder, [SERVER], 1)
    results = await browse(flooder, [SERVER] * (MAX_CONTINUATION_POINTS + 2) + [NOWHERE], 1)
    assert statuses(results) == [*["Good"] * MAX_CONTINUATION_POINTS, NO_ROOM, NO_ROOM, "BadNodeIdUnknown"]
    assert statuses(await go_on(flooder, early.ContinuationPoint)) == [INVALID]
    points = [result.ContinuationPoint for result in results[:MAX_CONTINUATION_POINTS]]
    assert statuses(await go_on(flooder, *points)) == ["Good"] * MAX_CONTINUATION_POINTS


async def test_history_is_refused_node_by_node(station: ServedStation, flooder: Client) -> None:
    """A tag keeps none, and no answer at all would look like a time without values."""
    now = cast("ua.DateTime", datetime.now(UTC))
    details = ua.ReadRawModifiedDetails(StartTime=now, EndTime=now)
    score = ua.NodeId(ua.String(f"{STATION}.Score"), ua.Int16(station.namespace))
    asked = ua.HistoryReadParameters(HistoryReadDetails=cast("ua.ExtensionObject", details))
    asked.NodesToRead = [ua.HistoryReadValueId(NodeId=one) for one in (score, NOWHERE)]
    results = await flooder.uaclient.history_read(asked)
    assert [one.StatusCode.name for one in results] == ["BadHistoryOperationUnsupported", "BadNodeIdUnknown"]
    asked.NodesToRead = []
    with pytest.raises(ua.UaStatusCodeError, match="BadNothingToDo"):
        await flooder.uaclient.history_read(asked)


async def test_browse_path_that_leads_nowhere_is_refused_alone(flooder: Client) -> None:
    """One without a step or from a node that is not there; the others of the request are followed."""
    step = ua.RelativePathElement(
        ReferenceTypeId=ua.NodeId(ua.Int32(ua.ObjectIds.HierarchicalReferences)),
        IsInverse=cast("ua.Boolean", False),
        IncludeSubtypes=cast("ua.Boolean", True),
        TargetName=ua.QualifiedName("ServerStatus"),
    )
    paths = [
        ua.BrowsePath(StartingNode=SERVER),
        ua.BrowsePath(StartingNode=NOWHERE, RelativePath=ua.RelativePath(Elements=[step])),
        ua.BrowsePath(StartingNode=SERVER, RelativePath=ua.RelativePath(Elements=[step])),
    ]
    results = await flooder.uaclient.translate_browsepaths_to_nodeids(paths)
    assert [one.StatusCode.name for one in results] == ["BadNothingToDo", "BadNodeIdUnknown", "Good"]
    assert statuses(await browse(flooder, [NOWHERE])) == ["BadNodeIdUnknown"]


@pytest.mark.parametrize("kind", ["SetTriggering", "Cancel", "QueryFirst", "QueryNext", "HistoryUpdate"])
async def test_service_that_there_is_not_is_unsupported(flooder: Client, kind: str) -> None:
    """Nobody may do it, so it is no matter of rights."""
    assert (await ask(flooder, kind, struct.pack("<iiii", -1, -1, -1, -1)))[0] == "BadServiceUnsupported"


async def test_method_that_cannot_be_called_says_why(flooder: Client) -> None:
    """The object or the method is unknown, the method is none, or the standard's is not carried out here."""
    monitored = ua.NodeId(ua.Int32(ua.ObjectIds.Server_GetMonitoredItems))
    refresh = ua.NodeId(ua.Int32(ua.ObjectIds.ConditionType_ConditionRefresh))
    conditions = ua.NodeId(ua.Int32(ua.ObjectIds.ConditionType))
    calls = {
        (NOWHERE, monitored): "BadNodeIdUnknown",
        (SERVER, NOWHERE): "BadMethodInvalid",
        (SERVER, SERVER): "BadMethodInvalid",
        (SERVER, monitored): "BadNotImplemented",
        (conditions, refresh): "BadNotImplemented",
    }
    asked = [ua.CallMethodRequest(ObjectId=owner, MethodId=method) for owner, method in calls]
    results = await flooder.uaclient.call(asked)
    assert [one.StatusCode.name for one in results] == list(calls.values())
