"""The connections of the HTTP server: only so many, and each has to ask for something soon.

uvicorn waits for ever for a request that does not come, takes in whoever connects, and where that is too much refuses
what the probes ask too. Each connection is a descriptor, and frames and journal need theirs. Of its two parsers h11 is
the one that bounds what it collects of a header and takes one Host only.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Final

import h11
import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from adapters.telemetry import Metrics

_MAX_CONNECTIONS: Final = 200
"""At a time, open pages included. For one more, the one that has been silent for longest is let go."""

_SPARE_CONNECTIONS: Final = 20
"""More than that, where none is silent: they may ask how we are, and nothing else."""

_BACKLOG: Final = 128
"""Taken in at one go, before any is looked at; the others wait in the kernel."""

REQUEST_WITHIN_S = 10.0
"""A client has this long to ask, handshake included, to ask again, and to read on in an answer."""

_SPARE = "spare_connection"


def is_spare(scope: Scope) -> bool:
    """Tell whether a request came over one of the connections that only probes may use."""
    return _SPARE in scope["state"]


class BoundedServer(uvicorn.Server):
    """A uvicorn server whose connections are bounded in number and silence.

    Args:
        config: of uvicorn, without TLS and without a limit of its own.
        tls: what to secure connections with, None for plain HTTP.
        metrics: counts who was let go.
    """

    def __init__(self, config: uvicorn.Config, *, tls: ssl.SSLContext | None, metrics: Metrics) -> None:
        super().__init__(config)
        self._tls = tls
        self._metrics = metrics

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(self._connection, sock=listener, backlog=_BACKLOG) for listener in sockets or ()
        ]
        self.started = True

    def _connection(self) -> _Connection:
        return _Connection(self.config, self.server_state, self._tls, self._metrics)


class _Connection(H11Protocol):
    """One client, from the first packet on: a handshake that does not end is silence, too."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: uvicorn.server.ServerState,
        tls: ssl.SSLContext | None,
        metrics: Metrics,
    ) -> None:
        super().__init__(config, server_state, app_state={})
        self._tls = tls
        self._metrics = metrics
        self.deadline: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._ready = tls is None
        self._early = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Find a place for the client, then listen to it."""
        self.transport = transport
        self.connections.add(self)
        if not self._find_place():
            self.let_go("too_many_connections")
            return
        self._watch()
        if self._tls is None:
            super().connection_made(transport)
        else:
            transport.pause_reading()  # what is read from here on belongs to the handshake
            self._handshake = self.loop.create_task(self._shake_hands(transport, self._tls))

    async def _shake_hands(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        try:
            secured = await self.loop.start_tls(transport, self, tls, server_side=True)
        except OSError:  # ssl.SSLError is one
            secured = None
        if secured is None or self not in self.connections:
            self.connection_lost(None)
            return
        self._ready = True
        super().connection_made(secured)
        if self._early:
            self.data_received(self._early)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        super().connection_lost(exc)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        if not self._ready:  # right behind the handshake, whose end has not been noticed yet
            self._early += data
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Wait for the client to read on."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Go on with the answer."""
        super().resume_writing()
        self._watch()

    def _watch(self) -> None:
        """Start the clock while it is the client's turn, stop it while it is ours.

        A connection that has become a page's socket is uvicorn's affair, which pings it.
        """
        if self in self.connections and self._is_clients_turn():
            if self.deadline is None:
                self.deadline = self.loop.call_later(REQUEST_WITHIN_S, self.let_go, "silent")
        elif self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _is_clients_turn(self) -> bool:
        asked = self.conn.their_state not in (h11.IDLE, h11.SEND_BODY, h11.ERROR)
        answered = self.conn.our_state not in (h11.SEND_RESPONSE, h11.SEND_BODY)
        return not asked or answered or self.flow.write_paused

    def _find_place(self) -> bool:
        """Let another one go where there are too many; tell whether there is a place."""
        if len(self.connections) > _MAX_CONNECTIONS:
            silent = [
                (other.deadline.when(), other)
                for other in self.connections
                if isinstance(other, _Connection) and other.deadline is not None
            ]
            if silent:
                min(silent, key=lambda found: found[0])[1].let_go("too_many_connections")
        if len(self.connections) > _MAX_CONNECTIONS:
            self.app_state[_SPARE] = True
        return len(self.connections) <= _MAX_CONNECTIONS + _SPARE_CONNECTIONS

    def let_go(self, reason: str) -> None:
        """End the connection."""
        self._metrics.refused.labels("http", reason).inc()
        self.connections.discard(self)
        self._watch()
        self.transport.abort()
