"""Connections to the OPC UA server: how they begin, how long they last, and which channel a session is on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from asyncua import Client, ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary
from structlog.testing import capture_logs

from adapters.opcua import channels, listener
from adapters.opcua.listener import StationServer
from adapters.opcua.requests import StationProcessor
from adapters.opcua.sessions import StationSession
from adapters.simulation.broker import free_port
from schemas.settings import OpcUaServerSettings
from schemas.tags import Tag
from tests.contract.test_opcua_server_security import secure_client, secure_settings, users_file
from tests.support.opcua import ServedStation, plain_client, running
from tests.support.opcua_requests import ask, create, item, send, subscribe
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("without_traceback")]
STATE = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_State))
SCHEMA = ua.NodeId(ua.Int32(8252))  # 340 KB
READ = struct_to_binary(ua.ReadParameters(NodesToRead=[ua.ReadValueId(NodeId=STATE)]))
PUBLISH = struct_to_binary(ua.PublishParameters())
ANONYMOUS = ua.AnonymousIdentityToken(PolicyId=ua.String("anonymous"))


def hello(*, receives: int = 65_535, sends: int = 65_535) -> bytes:
    return b"HELF" + struct.pack("<IIIIIIi", 32, 0, receives, sends, 0, 0, -1)


async def answers(station: ServedStation, sent: bytes) -> bytes:
    """Return all that the server says until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", station.adapter._settings.port)
    writer.write(sent)
    async with asyncio.timeout(10):
        said = await reader.read()
    writer.close()
    return said


def refusal(message: bytes) -> tuple[bytes, str]:
    """Return kind and status of an ERR message."""
    (code,) = struct.unpack_from("<I", message, 8)
    return message[:4], ua.StatusCode(ua.UInt32(code)).name


def server_of(station: ServedStation) -> StationServer:
    server = station.adapter._server
    assert server is not None
    return server


async def log_in(
    client: Client, token: ua.UserIdentityToken = ANONYMOUS, *, timeout_ms: float = 60_000
) -> ua.CreateSessionResult:
    """Create a session on an open channel and activate it; the client does nothing by itself in it."""
    asked = ua.CreateSessionParameters(RequestedSessionTimeout=ua.Duration(timeout_ms))
    made = await client.uaclient.create_session(asked)
    await client.uaclient.activate_session(ua.ActivateSessionParameters(UserIdentityToken=token))
    return made


async def activate(client: Client, session: ua.NodeId, token: ua.UserIdentityToken = ANONYMOUS) -> str:
    """Log in to a session; return the status."""
    assert client.uaclient.protocol is not None
    client.uaclient.protocol.authentication_token = session
    return (
        await ask(client, "ActivateSession", struct_to_binary(ua.ActivateSessionParameters(UserIdentityToken=token)))
    )[0]


async def status_of(answered: asyncio.Future[Buffer]) -> str:
    """Return the name of the status that comes as an answer."""
    async with asyncio.timeout(10):
        body = await answered
    nodeid_from_binary(body)
    return str(struct_from_binary(ua.ResponseHeader, body).ServiceResult.name)


@contextlib.asynccontextmanager
async def channel(endpoint: str) -> AsyncIterator[Client]:
    """A client with a channel and no session, which says nothing that it is not told to say."""
    client = plain_client(endpoint)
    await client.connect_sessionless()
    try:
        yield client
    finally:
        await client.disconnect_sessionless()


@pytest_asyncio.fixture(loop_scope="module")
async def one(station: ServedStation) -> AsyncIterator[Client]:
    async with channel(station.adapter.endpoint) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def other(station: ServedStation) -> AsyncIterator[Client]:
    async with channel(station.adapter.endpoint) as client:
        yield client


@pytest.mark.parametrize("size", [0, 1, 25, 8191])
@pytest.mark.parametrize("buffer", ["receives", "sends"])
async def test_buffer_that_is_too_small_is_refused(station: ServedStation, buffer: str, size: int) -> None:
    """An answer in chunks of a byte would hold up the event loop for a minute (OPC 10000-6, 7.1.2.3)."""
    with capture_logs() as logged:
        said = await answers(station, hello(**{buffer: size}))
    assert refusal(said) == (b"ERRF", "BadConnectionRejected")
    assert [line["reason"] for line in logged] == [f"a buffer of {size} bytes, 8192 are the least"]


@pytest.mark.parametrize("chunk", [8192, 65_535])
async def test_connection_begins_with_one_hello(station: ServedStation, chunk: int) -> None:
    """A second one could change what was agreed; anything else before it, too."""
    said = await answers(station, hello(receives=chunk) + hello(receives=chunk))
    (length,) = struct.unpack_from("<I", said, 4)
    assert said[:4] == b"ACKF"
    assert refusal(said[length:]) == (b"ERRF", "BadTcpMessageTypeInvalid")
    assert (
        refusal(await answers(station, b"OPNF" + struct.pack("<I", 100) + bytes(92)))[1] == "BadTcpMessageTypeInvalid"
    )


@pytest.mark.parametrize(("longest", "chunks"), [(20_000, 0), (0, 3)])
async def test_answer_is_no_longer_than_the_client_takes(station: ServedStation, longest: int, chunks: int) -> None:
    """MaxMessageSize and MaxChunkCount of its Hello; what fits it gets."""
    client = plain_client(station.adapter.endpoint)
    client.max_messagesize, client.max_chunkcount = longest, chunks
    async with client:
        with pytest.raises(ua.UaStatusCodeError, match="BadResponseTooLarge"):
            await client.get_node(SCHEMA).read_value()
        described = ua.BrowseDescription(NodeId=ua.NodeId(ua.Int32(22)), BrowseDirection=ua.BrowseDirection.Both)
        with pytest.raises(ua.UaStatusCodeError, match="BadResponseTooLarge"):
            await client.uaclient.browse(ua.BrowseParameters(NodesToBrowse=[described] * 30))
        assert await client.get_node(STATE).read_value() == 0


async def test_news_are_sent_whole_whatever_the_client_takes(station: ServedStation) -> None:
    """They are told once: refused as too long, they would be lost."""
    client = plain_client(station.adapter.endpoint)
    client.max_messagesize = 20_000
    async with client:
        assert client.uaclient.protocol is not None
        client.uaclient.protocol._connection._limits.max_message_size = 0
        made = await subscribe(client, 3_600_000.0)
        await create(client, made.SubscriptionId, item(SCHEMA))
        status, body = await ask(client, "Publish", PUBLISH)
        assert (status, len(body) > 300_000) == ("Good", True)
        status, body = await ask(client, "Republish", struct.pack("<II", made.SubscriptionId, 1))
        assert (status, len(body) > 300_000) == ("Good", True)


async def test_channel_lasts_neither_no_time_nor_for_ever(station: ServedStation, one: Client) -> None:
    """The lifetime that is granted is bounded, at the first time and later."""
    granted = []
    for kind in (ua.SecurityTokenRequestType.Issue, ua.SecurityTokenRequestType.Renew):
        for wanted in (0, 1, 60_000, 2**32 - 1):
            asked = ua.OpenSecureChannelParameters(RequestType=kind, RequestedLifetime=ua.UInt32(wanted))
            granted.append((await one.uaclient.open_secure_channel(asked)).SecurityToken.RevisedLifetime)
    assert granted == [3_600_000, 10_000, 60_000, 3_600_000] * 2
    assert len(server_of(station).connections) == 2


@pytest.fixture
def hurried(station: ServedStation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections be looked at often, and end soon where nobody is logged in."""
    monkeypatch.setattr(listener, "_LOOKED_AT_EVERY_S", 0.02)
    monkeypatch.setattr(channels, "_MIN_LIFETIME_MS", 200)
    iserver = server_of(station).iserver
    monkeypatch.setattr(iserver, "max_pending_activation_seconds", 0.3)
    monkeypatch.setattr(iserver, "min_session_timeout_ms", 100)


@pytest.mark.parametrize("how", ["no session", "no login", "logged out", "silent", "dead"])
@pytest.mark.usefixtures("hurried")
async def test_connection_without_a_login_ends(station: ServedStation, how: str) -> None:
    """A hundred that nobody speaks through would close the server; the station's own client stays."""
    server = server_of(station)
    with capture_logs() as logged:
        async with channel(station.adapter.endpoint) as client:
            if how == "no login":
                await client.uaclient.create_session(ua.CreateSessionParameters())
            elif how in {"logged out", "silent", "dead"}:
                await log_in(client, timeout_ms=60_000 if how == "logged out" else 100)
            if how == "logged out":
                await client.uaclient.close_session(True)
            elif how == "dead":  # it does not even see that the connection ends
                assert client.uaclient.protocol is not None
                assert client.uaclient.protocol.transport is not None
                client.uaclient.protocol.transport.pause_reading()
            assert len(server.connections) == 2
            await eventually(lambda: len(server.connections) == 1)
    assert [(line["event"], line["reason"]) for line in logged] == [
        ("opcua_connection_ended", "nobody has been logged in for 0.3 s")
    ]
    assert len(server.iserver.sessions) == 1
    assert await station.read(Tag.Verdict) == [0]


@pytest.mark.usefixtures("hurried")
async def test_channel_that_nobody_renews_ends_with_its_session_in_use(station: ServedStation) -> None:
    """A quarter of its lifetime after it has run out (OPC 10000-4, 5.5.2); renewed, it lasts."""
    server = server_of(station)
    client = plain_client(station.adapter.endpoint)
    client.secure_channel_timeout = 200
    await client.connect_sessionless()
    (processor,) = [
        connection.processor
        for connection in server.connections
        if isinstance(connection.processor, StationProcessor) and not connection.processor.is_known
    ]
    before = processor.ends_at
    await log_in(client)
    await client.open_secure_channel(renew=True)
    assert processor.ends_at > before
    with capture_logs() as logged:
        await eventually(lambda: len(server.connections) == 1)
    assert [line["reason"] for line in logged] == ["its channel was not renewed"]
    await client.disconnect_sessionless()


@pytest.mark.usefixtures("hurried")
async def test_connection_lasts_as_long_as_its_command(station: ServedStation, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps session and channel alive waits behind it; ended, they would take the command along."""
    server, done = server_of(station), asyncio.Event()

    async def long(*_: object) -> list[ua.CallMethodResult]:
        await done.wait()
        return []

    monkeypatch.setattr(StationSession, "call", long)
    client = plain_client(station.adapter.endpoint)
    client.secure_channel_timeout = 200
    await client.connect_sessionless()
    await log_in(client, timeout_ms=100)
    (processor,) = [
        connection.processor
        for connection in server.connections
        if isinstance(connection.processor, StationProcessor) and connection.processor.ends_at < time.monotonic() + 100
    ]
    called = send(client, "Call", struct_to_binary(ua.CallParameters(MethodsToCall=[ua.CallMethodRequest()])))
    behind = send(client, "Read", READ)
    await eventually(lambda: time.monotonic() > processor.ends_at + 0.5)
    assert processor.is_known
    renewal = ua.OpenSecureChannelParameters(
        RequestType=ua.SecurityTokenRequestType.Renew, RequestedLifetime=ua.UInt32(60_000)
    )
    renewing = asyncio.create_task(client.uaclient.open_secure_channel(renewal))
    done.set()
    assert [await status_of(called), await status_of(behind)] == ["Good", "Good"]
    await renewing
    assert processor.ends_at > time.monotonic() + 10
    await client.disconnect_sessionless()


@pytest.mark.usefixtures("hurried")
async def test_client_is_told_why_it_is_let_go(station: ServedStation) -> None:
    """Requests that wait in its session, and then the connection itself, each with a status."""
    server = server_of(station)
    said = await answers(station, hello())
    (length,) = struct.unpack_from("<I", said, 4)
    assert refusal(said[length:]) == (b"ERRF", "BadTimeout")
    async with channel(station.adapter.endpoint) as client:
        await log_in(client, timeout_ms=100)
        await subscribe(client, 3_600_000.0)
        waiting = [send(client, "Publish", PUBLISH) for _ in range(2)]
        assert await status_of(waiting[1]) == "BadSessionClosed"
        await eventually(lambda: len(server.connections) == 1)


async def test_system_looks_whether_the_other_side_is_there(station: ServedStation) -> None:
    """A host that lost its power says nothing more, and TCP alone waits for ever."""
    (connection,) = server_of(station).connections
    assert connection.transport is not None
    connected = connection.transport.get_extra_info("socket")
    assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30


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
    """Its subscription stays for whoever takes it over; its own requests are answered."""
    await log_in(one)
    left = (await subscribe(one, 10.0, 100_000)).SubscriptionId
    await ask(one, "Publish", PUBLISH)
    waiting = send(one, "Publish", PUBLISH)
    if how == "closed":
        assert (await ask(one, "CloseSession", b"\x00"))[0] == "Good"
    await log_in(one)
    assert await status_of(waiting) == "BadSessionClosed"
    own = (await subscribe(one, 10.0, 100_000)).SubscriptionId
    for subscription in (left, own):
        server_of(station).iserver.subscription_service.subscriptions[subscription]._keep_alive_count = 100
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
