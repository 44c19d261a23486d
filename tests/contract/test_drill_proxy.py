"""A connection that is cut, delayed and silenced, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from adapters.drill.proxy import TcpProxy


@pytest.fixture
async def echo() -> AsyncIterator[TcpProxy]:
    ended = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)
        with suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.transport.abort()
        ended.release()

    served: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with TcpProxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()
    for _ in served:
        await ended.acquire()


async def test_proxy_passes_on_until_it_is_cut(echo: TcpProxy) -> None:
    """What goes in comes out; a cut ends the connection, and a new one works."""
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        echo.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.transport.abort()


async def test_proxy_can_be_silent(echo: TcpProxy) -> None:
    """Nothing comes through while it is silent, everything after."""
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    echo.silent = True
    writer.write(b"later")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(5)
    echo.silent = False
    assert await reader.readexactly(5) == b"later"
    writer.transport.abort()
