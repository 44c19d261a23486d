"""Whose a subscription is: other sessions cannot touch it, and its user may take it along to another session."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary

from adapters.opcua.server.adapter import OpcUaServerAdapter
from adapters.opcua.server.listener import StationServer
from adapters.simulation.broker import free_port
from schemas.settings import OpcUaServerSettings
from schemas.tags import NAMESPACE_URI, Tag
from tests.contract.test_opcua_server_access import needs_node_opcua
from tests.contract.test_opcua_server_security import ENCRYPTED, secure_client, users_file
from tests.support.node import node
from tests.support.opcua import (
    ServedStation,
    answer,
    plain_client,
    running,
    served_station,
    tag_node,
    verdict,
)
from tests.support.opcua_requests import ask, create, item, send, subscribe
from tests.support.waiting import eventually

LIFETIME = 100_000
REFUSED = "BadSubscriptionIdInvalid"


@pytest.fixture
async def station(tmp_path: Path) -> AsyncIterator[ServedStation]:
    async with served_station(tmp_path) as served:
        yield served


def server_of(adapter: OpcUaServerAdapter) -> StationServer:
    assert adapter._server is not None
    return adapter._server


async def watch(client: Client, namespace: int, interval_ms: float = 10.0) -> tuple[int, int]:
    """Subscribe to ResultSeq; return the ids of subscription and item."""
    made = await subscribe(client, interval_ms, LIFETIME)
    (created,) = await create(
        client, made.SubscriptionId, item(tag_node(client, namespace, Tag.ResultSeq).nodeid, queue=10)
    )
    assert created.StatusCode.is_good()
    return made.SubscriptionId, created.MonitoredItemId


async def publish(client: Client, *acks: ua.SubscriptionAcknowledgement) -> ua.PublishResult:
    """Ask for one message."""
    parameters = ua.PublishParameters(SubscriptionAcknowledgements=list(acks))
    status, body = await ask(client, "Publish", struct_to_binary(parameters))
    assert status == "Good"
    return struct_from_binary(ua.PublishResult, body)


def told(message: ua.NotificationMessage) -> list[Any]:
    """Return the values in a message."""
    return [one.Value.Value.Value for part in message.NotificationData for one in part.MonitoredItems]


async def transfer(client: Client, *subscriptions: int, with_values: bool = False) -> list[str]:
    parameters = ua.TransferSubscriptionsParameters(
        SubscriptionIds=[ua.UInt32(one) for one in subscriptions],
        SendInitialValues=with_values,
    )
    return [result.StatusCode.name for result in await client.uaclient.transfer_subscriptions(parameters)]


def _each(results: list[ua.StatusCode]) -> str:
    (status,) = results
    return str(status.name)


async def _delete(client: Client, subscription: int, _: int) -> str:
    return _each(await client.uaclient.delete_subscriptions([subscription]))


async def _silence(client: Client, subscription: int, _: int) -> str:
    parameters = ua.SetPublishingModeParameters(PublishingEnabled=False, SubscriptionIds=[ua.UInt32(subscription)])
    return _each(await client.uaclient.set_publishing_mode(parameters))


async def _modify(client: Client, subscription: int, _: int) -> str:
    parameters = ua.ModifySubscriptionParameters(SubscriptionId=ua.UInt32(subscription))
    return (await ask(client, "ModifySubscription", struct_to_binary(parameters)))[0]


async def _add_item(client: Client, subscription: int, _: int) -> str:
    (made,) = await create(client, subscription, item(ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_State))))
    return str(made.StatusCode.name)


async def _modify_item(client: Client, subscription: int, item_id: int) -> str:
    change = ua.MonitoredItemModifyRequest(MonitoredItemId=ua.UInt32(item_id))
    parameters = ua.ModifyMonitoredItemsParameters(SubscriptionId=ua.UInt32(subscription), ItemsToModify=[change])
    (changed,) = await client.uaclient.modify_monitored_items(parameters)
    return str(changed.StatusCode.name)


async def _disable_item(client: Client, subscription: int, item_id: int) -> str:
    parameters = ua.SetMonitoringModeParameters(
        SubscriptionId=ua.UInt32(subscription),
        MonitoringMode=ua.MonitoringMode.Disabled,
        MonitoredItemIds=[ua.UInt32(item_id)],
    )
    return _each(await client.uaclient.set_monitoring_mode(parameters))


async def _delete_item(client: Client, subscription: int, item_id: int) -> str:
    parameters = ua.DeleteMonitoredItemsParameters(
        SubscriptionId=ua.UInt32(subscription), MonitoredItemIds=[ua.UInt32(item_id)]
    )
    return _each(await client.uaclient.delete_monitored_items(parameters))


SERVICES: list[Callable[[Client, int, int], Any]] = [
    _silence,
    _modify,
    _add_item,
    _modify_item,
    _disable_item,
    _delete_item,
    _delete,
]


async def _status(service: Callable[[Client, int, int], Any], client: Client, subscription: int, item_id: int) -> str:
    try:
        status: str = await service(client, subscription, item_id)
    except ua.UaStatusCodeError as exc:
        return ua.StatusCode(ua.UInt32(exc.code)).name
    return status


@pytest.mark.parametrize("service", SERVICES)
async def test_subscription_of_another_is_as_one_that_is_not_there(
    station: ServedStation, service: Callable[[Client, int, int], Any]
) -> None:
    """Whoever is no owner is refused, with a subscription of his own or without, and the owner hears on."""
    subscription, item_id = await watch(station.client, station.namespace)
    assert told((await publish(station.client)).NotificationMessage) == [0]
    async with plain_client(station.adapter.endpoint) as stranger:
        assert await _status(service, stranger, subscription, item_id) == REFUSED
        await subscribe(stranger, 1000.0)
        assert await _status(service, stranger, subscription, item_id) == REFUSED
        assert await _status(service, stranger, 2**31, item_id) == REFUSED
    await station.adapter.publish(answer(verdict(1)))
    assert told((await publish(station.client)).NotificationMessage) == [1]


async def test_owner_may_do_everything_with_his_subscription(station: ServedStation) -> None:
    """Each service that a stranger is refused."""
    subscription, item_id = await watch(station.client, station.namespace)
    assert [await _status(service, station.client, subscription, item_id) for service in SERVICES] == ["Good"] * 7
    assert await _status(_delete, station.client, subscription, item_id) == REFUSED


async def test_subscription_lives_on_where_its_session_asks_anything_of_it(station: ServedStation) -> None:
    """OPC 10000-4, 5.13.1.1: not a Publish alone shows that somebody is there."""
    subscription, item_id = await watch(station.client, station.namespace, 3_600_000.0)
    one = server_of(station.adapter).iserver.subscription_service.subscriptions[subscription]
    for service in SERVICES[:-1]:
        one._publish_cycles_count = 1000
        assert await _status(service, station.client, subscription, item_id) == "Good"
        assert one._publish_cycles_count < 1000, service


async def test_subscription_that_nobody_could_take_over_ends_with_its_session(station: ServedStation) -> None:
    """Whatever is asked: it took a place that nobody could free."""
    await watch(station.client, station.namespace)
    assert (await ask(station.client, "CloseSession", b"\0"))[0] == "Good"
    assert not server_of(station.adapter).iserver.subscription_service.subscriptions


async def test_one_call_may_name_own_and_other_subscriptions(station: ServedStation) -> None:
    """Each has a result of its own, in the order asked."""
    theirs, _ = await watch(station.client, station.namespace)
    async with plain_client(station.adapter.endpoint) as stranger:
        own = (await subscribe(stranger, 1000.0)).SubscriptionId
        results = await stranger.uaclient.delete_subscriptions([theirs, own, theirs, 0])
        assert [result.name for result in results] == [REFUSED, "Good", REFUSED, REFUSED]
    assert list(server_of(station.adapter).iserver.subscription_service.subscriptions) == [theirs]


async def test_message_is_acknowledged_and_asked_for_again_by_its_owner_alone(station: ServedStation) -> None:
    """And who asks for one that is not there is told so: node-opcua asks on until it hears it."""
    subscription, _ = await watch(station.client, station.namespace)
    sequence = (await publish(station.client)).NotificationMessage.SequenceNumber
    ack = ua.SubscriptionAcknowledgement(SubscriptionId=ua.UInt32(subscription), SequenceNumber=sequence)
    again = struct.pack("<II", subscription, sequence)
    async with plain_client(station.adapter.endpoint) as stranger:
        assert (await ask(stranger, "Publish", struct_to_binary(ua.PublishParameters([ack]))))[0] == "BadNoSubscription"
        await subscribe(stranger, 10.0)
        assert [result.name for result in (await publish(stranger, ack)).Results] == [REFUSED]
        assert (await ask(stranger, "Republish", again))[0] == REFUSED
    status, body = await ask(station.client, "Republish", again)
    assert (status, told(struct_from_binary(ua.NotificationMessage, body))) == ("Good", [0])
    await station.adapter.publish(answer(verdict(1)))
    assert [result.name for result in (await publish(station.client, ack)).Results] == ["Good"]
    assert (await ask(station.client, "Republish", again))[0] == "BadMessageNotAvailable"


async def test_anonymous_clients_on_an_unsecured_channel_take_nothing_over(station: ServedStation) -> None:
    """Nobody can tell them apart; one's own is no other's, and what is not there is not there."""
    subscription, _ = await watch(station.client, station.namespace)
    async with plain_client(station.adapter.endpoint) as stranger:
        assert await transfer(stranger, subscription, 2**31) == ["BadUserAccessDenied", REFUSED]
    assert await transfer(station.client, subscription) == ["Good"]
    assert told((await publish(station.client)).NotificationMessage) == [0]


def named_client(adapter: OpcUaServerAdapter, name: str) -> Client:
    client = plain_client(adapter.endpoint)
    client.set_user(name)
    client.set_password(f"{name}-secret")
    return client


@contextlib.asynccontextmanager
async def users_station(folder: Path) -> AsyncIterator[OpcUaServerAdapter]:
    settings = OpcUaServerSettings(port=free_port(), users_file=users_file(folder))
    async with running(settings, folder / "pki") as (adapter, _):
        yield adapter


async def lose(adapter: OpcUaServerAdapter, client: Client) -> None:
    """End a client's connection as a pulled cable does, and the client with it."""
    server = server_of(adapter)
    assert client.uaclient.protocol is not None
    assert client.uaclient.protocol.transport is not None
    client.uaclient.protocol.transport.abort()
    await eventually(lambda: not server.connections)
    with contextlib.suppress(ua.UaError, ConnectionError):
        await client.disconnect()


async def test_user_who_lost_his_connection_takes_his_subscription_along(tmp_path: Path) -> None:
    """What happened meanwhile and what happens then reach the new session; another user gets nothing."""
    async with users_station(tmp_path) as adapter:
        before = named_client(adapter, "plc")
        await before.connect()
        namespace = await before.get_namespace_index(NAMESPACE_URI)
        subscription, _ = await watch(before, namespace)
        assert told((await publish(before)).NotificationMessage) == [0]
        unanswered = send(before, "Publish", struct.pack("<i", 0))
        await before.get_namespace_array()
        await lose(adapter, before)
        await asyncio.gather(unanswered, return_exceptions=True)
        await adapter.publish(answer(verdict(1)))
        for other in (named_client(adapter, "engineer"), plain_client(adapter.endpoint)):
            async with other:
                assert await transfer(other, subscription) == ["BadUserAccessDenied"]
        async with named_client(adapter, "plc") as after:
            assert await transfer(after, subscription) == ["Good"]
            assert told((await publish(after)).NotificationMessage) == [1]
            await adapter.publish(answer(verdict(2)))
            assert told((await publish(after)).NotificationMessage) == [2]
        await eventually(lambda: not server_of(adapter).iserver.subscription_service.subscriptions)


async def test_news_that_waited_for_the_new_session_are_told_at_once(tmp_path: Path) -> None:
    """Not after the publishing interval, which is an hour here."""
    async with users_station(tmp_path) as adapter:
        before = named_client(adapter, "plc")
        await before.connect()
        subscription, _ = await watch(before, await before.get_namespace_index(NAMESPACE_URI), 3_600_000.0)
        assert told((await publish(before)).NotificationMessage) == [0]
        await lose(adapter, before)
        await adapter.publish(answer(verdict(1)))
        async with named_client(adapter, "plc") as after:
            assert await transfer(after, subscription) == ["Good"]
            assert told((await publish(after)).NotificationMessage) == [1]


@pytest.mark.parametrize("with_values", [False, True])
async def test_session_that_takes_over_is_told_all_values_where_it_asks(tmp_path: Path, *, with_values: bool) -> None:
    """OPC 10000-4, 5.13.7.2: of items that report, once, and what waits of the others as it would have been."""
    async with (
        users_station(tmp_path) as adapter,
        named_client(adapter, "plc") as before,
        named_client(adapter, "plc") as after,
    ):
        namespace = await before.get_namespace_index(NAMESPACE_URI)
        subscription, _ = await watch(before, namespace)
        tags = [tag_node(before, namespace, tag).nodeid for tag in (Tag.TriggerAck, Tag.Heartbeat)]
        silent, _ = await create(before, subscription, *map(item, tags))
        await _disable_item(before, subscription, silent.MonitoredItemId)
        first = told((await publish(before)).NotificationMessage)
        assert first[0] == 0
        await adapter.publish(answer(verdict(1)))
        assert await transfer(after, subscription, with_values=with_values) == ["Good"]
        assert told((await publish(after)).NotificationMessage) == ([first[-1], 1] if with_values else [1])


async def test_session_that_gave_its_subscription_away_has_it_no_more(tmp_path: Path) -> None:
    """Neither its requests nor its end touch it; messages go to the new owner although the old one asks first."""
    async with users_station(tmp_path) as adapter, named_client(adapter, "plc") as after:
        before = named_client(adapter, "plc")
        await before.connect()
        namespace = await before.get_namespace_index(NAMESPACE_URI)
        subscription, item_id = await watch(before, namespace)
        await subscribe(before, 1000.0)
        assert await transfer(after, subscription) == ["Good"]
        assert await _status(_delete, before, subscription, item_id) == REFUSED
        assert (await publish(before)).SubscriptionId != subscription
        assert told((await publish(after)).NotificationMessage) == [0]
        await before.disconnect()
        await adapter.publish(answer(verdict(1)))
        assert told((await publish(after)).NotificationMessage) == [1]


async def test_subscription_outlives_a_session_that_was_closed_without_it(tmp_path: Path) -> None:
    """Its user finds it again; nobody else does."""
    async with users_station(tmp_path) as adapter:
        before = named_client(adapter, "plc")
        await before.connect()
        subscription, _ = await watch(before, await before.get_namespace_index(NAMESPACE_URI))
        assert (await ask(before, "CloseSession", b"\0"))[0] == "Good"
        await lose(adapter, before)
        async with named_client(adapter, "operator") as other, named_client(adapter, "plc") as after:
            assert await transfer(other, subscription) == ["BadUserAccessDenied"]
            assert await transfer(after, subscription) == ["Good"]
            assert told((await publish(after)).NotificationMessage) == [0]


async def test_anonymous_client_is_known_by_the_certificate_of_its_channel(tmp_path: Path) -> None:
    """Where no channel is unsecured; another certificate of the same ApplicationUri is another client."""
    settings = OpcUaServerSettings(port=free_port(), security=(ENCRYPTED,), anonymous=True)
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    async with running(settings, tmp_path / "pki") as (adapter, _):
        clients = [
            await secure_client(adapter.endpoint, tmp_path / "pki" / "opcua-server.der", folder, "", "")
            for folder in (own, own, other)
        ]
        for client in clients:
            client._username = None
        before, after, stranger = clients
        async with before, after, stranger:
            subscription, _ = await watch(before, await before.get_namespace_index(NAMESPACE_URI))
            assert await transfer(stranger, subscription) == ["BadUserAccessDenied"]
            assert await transfer(after, subscription) == ["Good"]
            assert told((await publish(after)).NotificationMessage) == [0]


def _heard(subscriptions: dict[int, Any], first: int, *, kept: bool) -> bool:
    """Tell whether what is to go on is there again, and has told all it had to."""
    there = [one for number, one in subscriptions.items() if (number == first) is kept]
    return any(one.item_count and not one._startup and not one._triggered_datachanges for one in there)


@needs_node_opcua
@pytest.mark.parametrize("user", ["plc", ""])
@pytest.mark.parametrize("session_is_lost", [False, True])
async def test_node_that_reconnects_hears_on(tmp_path: Path, user: str, session_is_lost: bool) -> None:
    """With its session, with another one that takes the subscription over, or with another subscription."""
    async with users_station(tmp_path) as adapter:
        server = server_of(adapter)
        subscriptions: dict[int, Any] = server.iserver.subscription_service.subscriptions
        hearing = asyncio.create_task(node("reconnect.js", adapter.endpoint, user, "plc-secret", "3"))
        await eventually(lambda: hearing.done() or any(one.item_count for one in subscriptions.values()), 60)
        first = list(subscriptions)
        await adapter.publish(answer(verdict(1)))
        await eventually(lambda: not subscriptions[first[0]]._triggered_datachanges)
        (connection,) = server.connections
        (session,) = server.iserver.sessions
        if session_is_lost:
            await session.close_session(delete_subs=False)
        assert connection.transport is not None
        connection.transport.abort()
        await eventually(lambda: connection not in server.connections)
        await adapter.publish(answer(verdict(2)))
        is_kept = not session_is_lost or bool(user)
        await eventually(lambda: hearing.done() or _heard(subscriptions, first[0], kept=is_kept), 60)
        assert list(subscriptions) == first if is_kept else list(subscriptions) != first
        await adapter.publish(answer(verdict(3)))
        seen = await hearing
    assert seen["heard"][-1] == 3  # as it comes back, node-opcua may pass over one in between
