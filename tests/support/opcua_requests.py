"""Requests to an OPC UA server that asyncua's client would not make."""

from __future__ import annotations

import asyncio
import math

from asyncua import Client, ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary, to_binary

SERVER = ua.NodeId(ua.Int32(ua.ObjectIds.Server))
NULL_NODE = b"\0\0"


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


async def subscribe(
    client: Client, interval_ms: float, lifetime: int = 40, *, most: int = 0
) -> ua.CreateSubscriptionResult:
    """Create a subscription for which nobody publishes. most: what one notification may tell; 0: no limit."""
    parameters = ua.CreateSubscriptionParameters(
        RequestedPublishingInterval=ua.Duration(interval_ms),
        RequestedLifetimeCount=ua.UInt32(lifetime),
        RequestedMaxKeepAliveCount=ua.UInt32(10),
        MaxNotificationsPerPublish=ua.UInt32(most),
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
