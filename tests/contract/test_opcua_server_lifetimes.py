"""How long a subscription lives, and what its session is told of its end; how long a message is kept."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest
from asyncua import Client, ua
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from structlog.testing import capture_logs

from adapters.opcua.server.subscriptions import subscription
from adapters.opcua.server.subscriptions.subscription import Subscription
from schemas.tags import NAMESPACE_URI, Tag
from tests.contract.test_opcua_server_ownership import named_client, publish, told, transfer, users_station, watch
from tests.support.opcua import ServedStation, answer, verdict
from tests.support.opcua_requests import ask, create, item, subscribe
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("without_traceback")]
AN_HOUR = 3_600_000.0
MOST = 2**32 - 1


def waiting(client: Client, count: int) -> list[asyncio.Task[str]]:
    """Ask for news so many times; the tasks return the status of each answer."""

    async def status() -> str:
        return (await ask(client, "Publish", struct.pack("<i", 0)))[0]

    return [asyncio.create_task(status()) for _ in range(count)]


async def modify(client: Client, wish: ua.ModifySubscriptionParameters) -> ua.ModifySubscriptionResult:
    status, body = await ask(client, "ModifySubscription", struct_to_binary(wish))
    assert status == "Good"
    return struct_from_binary(ua.ModifySubscriptionResult, body)


@pytest.mark.parametrize(
    ("interval_ms", "lifetime", "keep_alive", "revised"),
    [
        (1000.0, 2, 50, (150, 50)),
        (1000.0, 150, 50, (150, 50)),
        (1000.0, 151, 50, (151, 50)),
        (1000.0, 0, 0, (600, 200)),
        (1000.0, 1, MOST, (600, 200)),
        (1000.0, MOST, 1, (600, 1)),
        (10.0, 0, 0, (15_000, 5000)),
        (AN_HOUR, MOST, MOST, (3, 1)),
    ],
)
async def test_subscription_lives_for_three_keep_alives_at_least_and_ten_minutes_at_most(
    flooder: Client, interval_ms: float, lifetime: int, keep_alive: int, revised: tuple[int, int]
) -> None:
    """OPC 10000-4, 5.13.2.2, when made and when changed: else it would be dead before it says that it is alive.

    One that nobody asks for took a place and items for 625 days.
    """
    wish = ua.CreateSubscriptionParameters(
        RequestedPublishingInterval=ua.Duration(interval_ms),
        RequestedLifetimeCount=ua.UInt32(lifetime),
        RequestedMaxKeepAliveCount=ua.UInt32(keep_alive),
    )
    status, body = await ask(flooder, "CreateSubscription", struct_to_binary(wish))
    assert status == "Good"
    made = struct_from_binary(ua.CreateSubscriptionResult, body)
    change = ua.ModifySubscriptionParameters(
        SubscriptionId=made.SubscriptionId,
        RequestedPublishingInterval=ua.Duration(interval_ms),
        RequestedLifetimeCount=ua.UInt32(lifetime),
        RequestedMaxKeepAliveCount=ua.UInt32(keep_alive),
    )
    for result in (made, await modify(flooder, change)):
        assert (result.RevisedLifetimeCount, result.RevisedMaxKeepAliveCount) == revised


async def test_subscription_that_is_changed_publishes_as_it_says(station: ServedStation, flooder: Client) -> None:
    """At once, and not when the hour is over that it was made for; no more at a time than is asked for now."""
    made = await subscribe(flooder, AN_HOUR)
    tags = (Tag.ResultEventId, Tag.ResultSeq)
    await create(flooder, made.SubscriptionId, *[item(station.node(tag).nodeid) for tag in tags])
    assert told((await publish(flooder)).NotificationMessage) == ["", 0]
    await station.adapter.publish(answer(verdict(1)))
    (asked,) = waiting(flooder, 1)
    wish = ua.ModifySubscriptionParameters(
        SubscriptionId=made.SubscriptionId,
        RequestedPublishingInterval=ua.Duration(20.0),
        RequestedLifetimeCount=ua.UInt32(1000),
        RequestedMaxKeepAliveCount=ua.UInt32(100),
        MaxNotificationsPerPublish=ua.UInt32(1),
    )
    changed = await modify(flooder, wish)
    revised = (changed.RevisedPublishingInterval, changed.RevisedLifetimeCount, changed.RevisedMaxKeepAliveCount)
    assert revised == (20.0, 1000, 100)
    assert await asked == "Good"
    assert told((await publish(flooder)).NotificationMessage) == [1]


async def test_requests_that_wait_are_answered_when_the_last_subscription_ends(flooder: Client) -> None:
    """As long as there is one they wait for it (OPC 10000-4, 5.13.5)."""
    first, last = [(await subscribe(flooder, AN_HOUR)).SubscriptionId for _ in range(2)]
    assert {(await publish(flooder)).SubscriptionId for _ in range(2)} == {first, last}
    asked = waiting(flooder, 3)
    await flooder.uaclient.delete_subscriptions([first])
    assert not any(task.done() for task in asked)
    await flooder.uaclient.delete_subscriptions([last])
    assert await asyncio.gather(*asked) == ["BadNoSubscription"] * 3


async def test_requests_that_wait_are_answered_when_the_last_subscription_goes_elsewhere(tmp_path: Path) -> None:
    """Its user has another session, which has it from now on."""
    async with (
        users_station(tmp_path) as adapter,
        named_client(adapter, "plc") as before,
        named_client(adapter, "plc") as after,
    ):
        subscription, _ = await watch(before, await before.get_namespace_index(NAMESPACE_URI), AN_HOUR)
        assert told((await publish(before)).NotificationMessage) == [0]
        asked = waiting(before, 2)
        await before.get_namespace_array()
        assert await transfer(after, subscription) == ["Good"]
        assert await asyncio.gather(*asked) == ["BadNoSubscription"] * 2


async def test_session_is_told_of_a_subscription_that_has_expired(station: ServedStation, flooder: Client) -> None:
    """Nobody asked for its news. Another subscription of the session tells its end, and goes on."""
    server = station.adapter._server
    assert server is not None
    made = await subscribe(flooder, 10.0)
    other = await subscribe(flooder, AN_HOUR)
    await create(flooder, made.SubscriptionId, item(station.node(Tag.ResultSeq).nodeid))
    await eventually(lambda: made.SubscriptionId not in server.iserver.subscription_service.subscriptions)
    end, alive = await publish(flooder), await publish(flooder)
    assert (end.SubscriptionId, end.MoreNotifications) == (made.SubscriptionId, False)
    (part,) = end.NotificationMessage.NotificationData
    assert isinstance(part, ua.StatusChangeNotification)
    assert part.Status.name == "BadTimeout"
    assert (alive.SubscriptionId, alive.NotificationMessage.NotificationData) == (other.SubscriptionId, [])


async def test_request_that_finds_the_last_subscription_over_is_answered(
    station: ServedStation, flooder: Client
) -> None:
    """Its client would wait for ever for news of what is not there (OPC 10000-4, 5.13.5)."""
    server = station.adapter._server
    assert server is not None
    subscriptions = server.iserver.subscription_service.subscriptions
    made = await subscribe(flooder, AN_HOUR)
    subscriptions[made.SubscriptionId]._publish_cycles_count = made.RevisedLifetimeCount + 1
    assert await asyncio.gather(*waiting(flooder, 2)) == ["BadNoSubscription"] * 2
    assert made.SubscriptionId not in subscriptions


async def test_no_more_ends_are_kept_to_be_told_than_there_can_be(
    station: ServedStation, flooder: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that nobody asks for, the latest: subscriptions that expire can be made without end."""
    monkeypatch.setattr(subscription, "_MAX_ENDS", 2)
    server = station.adapter._server
    assert server is not None
    teller = (await subscribe(flooder, AN_HOUR)).SubscriptionId
    brief = []
    for _ in range(4):
        brief.append((await subscribe(flooder, 10.0)).SubscriptionId)
        await eventually(lambda: brief[-1] not in server.iserver.subscription_service.subscriptions)
    assert [(await publish(flooder)).SubscriptionId for _ in range(3)] == [*brief[-2:], teller]


@pytest.mark.parametrize("is_last", [True, False])
async def test_subscription_that_breaks_ends_for_all_to_see(
    station: ServedStation, flooder: Client, monkeypatch: pytest.MonkeyPatch, *, is_last: bool
) -> None:
    """A defect of ours must not look as if there were no news."""
    server = station.adapter._server
    assert server is not None
    subscriptions = server.iserver.subscription_service.subscriptions
    broken = (await subscribe(flooder, 10.0, 100_000)).SubscriptionId
    await publish(flooder)
    if not is_last:
        await subscribe(flooder, 10.0, 100_000)
    asked = asyncio.create_task(ask(flooder, "Publish", struct.pack("<i", 0)))
    one = subscriptions[broken]
    assert isinstance(one, Subscription)

    async def breaks(*_: object) -> bool:
        raise RuntimeError("a defect")

    monkeypatch.setattr(one, "publish_results", breaks)
    with capture_logs() as logged:
        one.news.came.set()
        await eventually(lambda: broken not in subscriptions)
        status, body = await asked
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["opcua_subscription_broke"]
    if is_last:
        assert status == "BadNoSubscription"
        return
    result = struct_from_binary(ua.PublishResult, body)
    while result.SubscriptionId != broken or not result.NotificationMessage.NotificationData:
        result = await publish(flooder)
    (part,) = result.NotificationMessage.NotificationData
    assert isinstance(part, ua.StatusChangeNotification)


async def test_message_is_kept_until_it_is_acknowledged(station: ServedStation, flooder: Client) -> None:
    """However often it is asked for again; what is not there cannot be acknowledged."""
    subscription, _ = await watch(flooder, station.namespace)
    sequence = (await publish(flooder)).NotificationMessage.SequenceNumber
    again = struct.pack("<II", subscription, sequence)
    for _ in range(2):
        status, body = await ask(flooder, "Republish", again)
        assert (status, told(struct_from_binary(ua.NotificationMessage, body))) == ("Good", [0])
    acks = [
        ua.SubscriptionAcknowledgement(SubscriptionId=ua.UInt32(subscription), SequenceNumber=ua.UInt32(number))
        for number in (sequence, sequence, 999)
    ]
    await station.adapter.publish(answer(verdict(1)))
    unknown = "BadSequenceNumberUnknown"
    assert [result.name for result in (await publish(flooder, *acks)).Results] == ["Good", unknown, unknown]
    assert (await ask(flooder, "Republish", again))[0] == "BadMessageNotAvailable"
