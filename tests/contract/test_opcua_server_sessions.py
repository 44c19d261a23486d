"""Which channel a session of the OPC UA server is on, and who may take it along."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest
from asyncua import Client, ua
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary

from adapters.simulation.broker import free_port
from schemas.settings import OpcUaServerSettings
from schemas.tags import Tag
from tests.contract.test_opcua_server_security import secure_client, secure_settings, users_file
from tests.support.opcua import ServedStation, running
from tests.support.opcua_channels import (
    PUBLISH,
    READ,
    activate,
    channel,
    log_in,
    server_of,
    status_of,
)
from tests.support.opcua_requests import ask, create, item, send, subscribe
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("without_traceback")]


@pytest.mark.parametrize("token", [ua.NodeId(), ua.NodeId(ua.ByteString(b"x" * 32)), ua.NodeId(ua.Int32(1001))])
async def test_request_names_the_session_of_its_channel(one: Client, token: ua.NodeId) -> None:
    """No token or a wrong one is nobody's, whoever is logged in on the channel."""
    made = await log_in(one)
    assert one.uaclient.protocol is not None
    one.uaclient.protocol.authentication_token = token
    for kind, body in (("Read", READ), ("Publish", PUBLISH), ("CloseSession", b"\x01"), ("Browse", bytes(100))):
        assert (await ask(one, kind, body))[0] == "BadSessionIdInvalid", kind
    assert await activate(one, token) == "BadSessionIdInvalid"
    one.uaclient.protocol.authentication_token = made.AuthenticationToken
    assert (await ask(one, "Read", READ))[0] == "Good"


async def test_session_is_used_after_its_login_and_before_its_end(one: Client, other: Client) -> None:
    """Before it only its own channel may log in to it; after it, it is as if it had never been."""
    made = await one.uaclient.create_session(ua.CreateSessionParameters())
    assert (await ask(one, "Read", READ))[0] == "BadSessionNotActivated"
    assert await activate(other, made.AuthenticationToken) == "BadSessionIdInvalid"
    assert await activate(one, made.AuthenticationToken) == "Good"
    await subscribe(one, 3_600_000.0)
    waiting = [send(one, "Publish", PUBLISH) for _ in range(3)]
    assert (await ask(one, "CloseSession", b"\x00"))[0] == "Good"
    assert await status_of(waiting[-1]) == "BadSessionClosed"
    assert (await ask(one, "Read", READ))[0] == "BadSessionIdInvalid"
    assert await activate(one, made.AuthenticationToken) == "BadSessionIdInvalid"


async def test_session_leaves_its_old_channel(station: ServedStation, one: Client, other: Client) -> None:
    """It goes on with its subscription where it was activated last, whatever becomes of the old channel."""
    session = (await log_in(one)).AuthenticationToken
    made = await subscribe(one, 100.0)
    waiting = [send(one, "Publish", PUBLISH) for _ in range(10)]
    (created,) = await create(one, made.SubscriptionId, item(station.node(Tag.ResultAck).nodeid))
    assert created.StatusCode.is_good()
    await status_of(waiting[0])

    assert await activate(other, session) == "Good"
    assert await status_of(waiting[-1]) == "BadSessionClosed"
    assert (await ask(one, "Read", READ))[0] == "BadSessionIdInvalid"
    assert (await ask(one, "CloseSession", b"\x01"))[0] == "BadSessionIdInvalid"
    assert (await ask(other, "Read", READ))[0] == "Good"
    assert one.uaclient.protocol is not None
    assert one.uaclient.protocol.transport is not None
    one.uaclient.protocol.transport.abort()
    await eventually(lambda: len(server_of(station).connections) == 2)
    await station.write({Tag.ResultAck: 7})
    told: list[int] = []
    async with asyncio.timeout(10):
        while told[-1:] != [7]:
            _, body = await ask(other, "Publish", PUBLISH)
            message = struct_from_binary(ua.PublishResult, body).NotificationMessage
            told += [one.Value.Value.Value for part in message.NotificationData for one in part.MonitoredItems]
    assert (await ask(other, "CloseSession", b"\x01"))[0] == "Good"


async def test_session_that_another_followed_on_its_channel_leaves_alone(one: Client, other: Client) -> None:
    """It was kept for its subscription; the one that followed stays where it is."""
    first = (await log_in(one)).AuthenticationToken
    await subscribe(one, 3_600_000.0)
    await log_in(one)
    assert await activate(other, first) == "Good"
    for client in (one, other):
        assert (await ask(client, "Read", READ))[0] == "Good"
        assert (await ask(client, "CloseSession", b"\x01"))[0] == "Good"


@pytest.mark.parametrize("how", ["closed", "followed"])
async def test_news_of_a_session_are_not_told_to_the_next_on_its_channel(
    station: ServedStation, one: Client, *, how: str
) -> None:
    """Its subscription stays with a session that goes on; its own requests are answered."""
    await log_in(one)
    left = (await subscribe(one, 10.0, 100_000)).SubscriptionId
    await ask(one, "Publish", PUBLISH)
    waiting = send(one, "Publish", PUBLISH)
    if how == "closed":
        assert (await ask(one, "CloseSession", b"\x00"))[0] == "Good"
    await log_in(one)
    assert await status_of(waiting) == "BadSessionClosed"
    own = (await subscribe(one, 10.0, 100_000)).SubscriptionId
    subscriptions = server_of(station).iserver.subscription_service.subscriptions
    assert (left in subscriptions) is (how == "followed")
    for subscription in {left, own} & set(subscriptions):
        subscriptions[subscription]._keep_alive_count = 100
    told = [struct_from_binary(ua.PublishResult, (await ask(one, "Publish", PUBLISH))[1]) for _ in range(2)]
    assert {result.SubscriptionId for result in told} == {own}
    assert (await ask(one, "CloseSession", b"\x01"))[0] == "Good"
    await server_of(station).iserver.subscription_service.delete_subscriptions([left])


async def test_requests_of_the_session_that_takes_over_wait_on(tmp_path: Path) -> None:
    """Those of the session that lost its last subscription were answered when it left the channel."""
    settings = OpcUaServerSettings(port=free_port(), users_file=users_file(tmp_path))
    plc = ua.UserNameIdentityToken(UserName=ua.String("plc"), Password=ua.ByteString(b"plc-secret"))
    async with running(settings, tmp_path) as (adapter, _), channel(adapter.endpoint) as one:
        await log_in(one, plc)
        first = (await subscribe(one, 3_600_000.0)).SubscriptionId
        await log_in(one, plc)
        second = (await subscribe(one, 3_600_000.0)).SubscriptionId
        waiting = [send(one, "Publish", PUBLISH) for _ in range(3)]
        wish = ua.TransferSubscriptionsParameters(SubscriptionIds=[first])
        assert (await ask(one, "TransferSubscriptions", struct_to_binary(wish)))[0] == "Good"
        assert [answered.done() for answered in waiting] == [True, False, False]
        assert await status_of(waiting[0]) == "Good"
        assert (await ask(one, "DeleteSubscriptions", struct.pack("<iII", 2, first, second)))[0] == "Good"
        assert [await status_of(answered) for answered in waiting[1:]] == ["BadNoSubscription"] * 2


async def test_session_that_another_replaces_is_ended(station: ServedStation, one: Client, other: Client) -> None:
    """Taken along to a channel with a session of its own, which had nothing to be kept for."""
    moving = (await log_in(one)).AuthenticationToken
    await log_in(other)
    before = len(server_of(station).iserver.sessions)
    assert await activate(other, moving) == "Good"
    assert len(server_of(station).iserver.sessions) == before - 1
    assert (await ask(other, "Read", READ))[0] == "Good"


async def test_wrong_signature_of_a_client_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not that of the certificate which the client showed."""
    async with running(secure_settings(tmp_path), tmp_path / "pki") as (adapter, _):
        own = tmp_path / "pki" / "opcua-server.der"
        client = await secure_client(adapter.endpoint, own, tmp_path, "plc", "plc-secret")
        activate_truly = client.uaclient.activate_session

        async def activate_falsely(wish: ua.ActivateSessionParameters) -> ua.ActivateSessionResult:
            wish.ClientSignature.Signature = ua.ByteString(b"x" * 256)
            return await activate_truly(wish)

        monkeypatch.setattr(client.uaclient, "activate_session", activate_falsely)
        with pytest.raises(ua.UaStatusCodeError, match="BadApplicationSignatureInvalid"):
            await client.connect()


async def test_session_is_taken_along_by_its_user_alone(tmp_path: Path) -> None:
    """Who knows its token and is somebody else is refused, and its owner goes on."""
    settings = OpcUaServerSettings(port=free_port(), anonymous=False, users_file=users_file(tmp_path))
    plc, operator = (
        ua.UserNameIdentityToken(UserName=ua.String(name), Password=ua.ByteString(f"{name}-secret".encode()))
        for name in ("plc", "operator")
    )
    async with (
        running(settings, tmp_path) as (adapter, _),
        channel(adapter.endpoint) as one,
        channel(adapter.endpoint) as other,
    ):
        session = (await log_in(one, plc)).AuthenticationToken
        assert await activate(other, session, operator) == "BadIdentityChangeNotSupported"
        assert await activate(other, session) == "BadIdentityTokenRejected"
        assert (await ask(other, "Read", READ))[0] == "BadSessionIdInvalid"
        assert (await ask(one, "Read", READ))[0] == "Good"
        assert await activate(other, session, plc) == "Good"
        assert (await ask(one, "Read", READ))[0] == "BadSessionIdInvalid"
        assert (await ask(other, "Read", READ))[0] == "Good"
        assert await activate(other, session, operator) == "Good"  # on its own channel it may change its user
