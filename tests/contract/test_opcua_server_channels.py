"""Connections to the OPC UA server: how they begin, and how long they last."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

import pytest
from asyncua import Client, ua
from asyncua.ua.ua_binary import struct_to_binary
from structlog.testing import capture_logs

from adapters.opcua.server import channels, listener
from adapters.opcua.server.requests import StationProcessor
from adapters.opcua.server.sessions import StationSession
from schemas.tags import Tag
from tests.support.opcua import ServedStation, plain_client
from tests.support.opcua_channels import (
    PUBLISH,
    READ,
    STATE,
    channel,
    log_in,
    server_of,
    status_of,
)
from tests.support.opcua_requests import ask, create, item, send, subscribe
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("without_traceback")]
ACKNOWLEDGED = 28  # bytes of the answer to Hello
SCHEMA = ua.NodeId(ua.Int32(8252))  # 340 KB


def hello(*, receives: int = 65_535, sends: int = 65_535, url: str = "") -> bytes:
    return chunk(b"HEL", struct.pack("<IIIIIi", 0, receives, sends, 0, 0, len(url)) + url.encode())


def chunk(kind: bytes, body: bytes) -> bytes:
    return kind + b"F" + struct.pack("<I", 8 + len(body)) + body


def opening(policy: str = "None", mode: ua.MessageSecurityMode = ua.MessageSecurityMode.None_) -> bytes:
    """Return the first message of a channel, number 1 of its connection."""
    wish = ua.OpenSecureChannelRequest()
    wish.Parameters.SecurityMode = mode
    uri = f"http://opcfoundation.org/UA/SecurityPolicy#{policy}".encode()
    head = struct.pack("<Ii", 0, len(uri)) + uri + struct.pack("<iiII", -1, -1, 1, 1)
    return chunk(b"OPN", head + struct_to_binary(wish))


def asking(number: int = 2, channel: int = 0, token: int = 0) -> bytes:
    """Return a request that needs no session."""
    asked = struct_to_binary(ua.GetEndpointsRequest())
    return chunk(b"MSG", struct.pack("<IIII", channel, token, number, number) + asked)


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


@pytest.mark.parametrize("size", [0, 1, 25, 8191])
@pytest.mark.parametrize("buffer", ["receives", "sends"])
async def test_buffer_that_is_too_small_is_refused(station: ServedStation, buffer: str, size: int) -> None:
    """An answer in chunks of a byte would hold up the event loop for a minute (OPC 10000-6, 7.1.2.3)."""
    with capture_logs() as logged:
        said = await answers(station, hello(receives=size) if buffer == "receives" else hello(sends=size))
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


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (asking(1), "BadTcpSecureChannelUnknown"),
        (chunk(b"CLO", bytes(16)), "BadTcpSecureChannelUnknown"),
        (opening("Basic256"), "BadSecurityPolicyRejected"),
        (opening(mode=ua.MessageSecurityMode.Sign), "BadSecurityModeRejected"),
        (chunk(b"OPN", b"rubbish"), "BadSecurityChecksFailed"),
        (hello(url="x" * 4097), "BadTcpEndpointUrlInvalid"),
    ],
    ids=["no channel", "nothing to close", "policy", "mode", "rubbish", "long address"],
)
async def test_connection_that_opens_no_channel_is_told_why(station: ServedStation, sent: bytes, status: str) -> None:
    """Before it ends (OPC 10000-6, 7.1.5): without a channel nothing is asked, nor said to be asked elsewhere."""
    is_greeted = not sent.startswith(b"HEL")
    with capture_logs() as logged:
        said = await answers(station, hello() + sent if is_greeted else sent)
    assert refusal(said[ACKNOWLEDGED:] if is_greeted else said) == (b"ERRF", status)
    assert [line["event"] for line in logged] == ["opcua_connection_refused"]


@pytest.mark.parametrize(
    ("number", "channel_off", "token_off", "status"),
    [
        (2, 1, 0, "BadTcpSecureChannelUnknown"),
        (2, 0, 1, "BadSecurityChecksFailed"),
        (1, 0, 0, "BadSecurityChecksFailed"),
        (9, 0, 0, "BadSecurityChecksFailed"),
    ],
)
async def test_channel_that_is_not_kept_to_ends_with_a_status(
    station: ServedStation, number: int, channel_off: int, token_off: int, status: str
) -> None:
    """What is wrong stands in the log: another channel's number, another token, a message again or lost."""
    reader, writer = await asyncio.open_connection("127.0.0.1", station.adapter._settings.port)
    async with asyncio.timeout(10):
        writer.write(hello() + opening())
        await reader.readexactly(ACKNOWLEDGED)
        head = await reader.readexactly(8)
        opened = await reader.readexactly(int.from_bytes(head[4:], "little") - 8)
        (channel_id,) = struct.unpack_from("<I", opened)
        writer.write(asking(number, channel_id + channel_off, 13 + token_off))
        assert refusal(await reader.read()) == (b"ERRF", status)
    writer.close()


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
