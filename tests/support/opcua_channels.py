"""Channels and sessions of an OPC UA server, opened by hand: a client that does nothing by itself in them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from asyncua import Client, ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary

from adapters.opcua.server.listener import StationServer
from tests.support.opcua import ServedStation, plain_client
from tests.support.opcua_requests import ask

STATE = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_State))
READ = struct_to_binary(ua.ReadParameters(NodesToRead=[ua.ReadValueId(NodeId=STATE)]))
PUBLISH = struct_to_binary(ua.PublishParameters())
ANONYMOUS = ua.AnonymousIdentityToken(PolicyId=ua.String("anonymous"))


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
