"""The thread on which every HTTP server of the process runs: NiceGUI has one loop and one set of pages."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future

import uvicorn
from nicegui import app as nicegui_app
from nicegui import core

from adapters.hmi.page import configure_pages


class HttpThread:
    """Begins with the first server and ends with the last. It is no part of the service's loop: a page takes long."""

    def __init__(self) -> None:
        self._changes = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_left = asyncio.Event()
        self._servers = 0

    def serve(self, server: uvicorn.Server, listener: socket.socket) -> Future[None]:
        """Let `server` answer on `listener`; the result is there when it has exited. Blocks for a moment."""
        with self._changes:
            if not self._servers:
                self._loop = self._begin()
            assert self._loop is not None
            self._servers += 1
            return asyncio.run_coroutine_threadsafe(self._serve(server, listener), self._loop)

    def _begin(self) -> asyncio.AbstractEventLoop:
        if self._thread is not None:
            self._thread.join()  # NiceGUI says good-bye before it begins again
        begun: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live(begun)), name="http")
        self._thread.start()
        return begun.result()

    async def _live(self, begun: Future[asyncio.AbstractEventLoop]) -> None:
        """Stay until the last server has left.

        `ui.run_with` would start NiceGUI too, but looks for its server among all objects of the process, which takes
        long beside torch and wakes lazy modules.
        """
        try:
            configure_pages()
            self._last_left = asyncio.Event()
            async with nicegui_app.router.lifespan_context(nicegui_app):
                # only a page of this very host may open the socket; NiceGUI lets any page on the web do so
                core.sio.eio.cors_allowed_origins = None
                begun.set_result(asyncio.get_running_loop())
                await self._last_left.wait()
        except BaseException as exc:
            if begun.done():
                raise
            begun.set_exception(exc)  # whoever waits for us says it

    async def _serve(self, server: uvicorn.Server, listener: socket.socket) -> None:
        try:
            await server.serve(sockets=[listener])
        finally:
            with self._changes:
                self._servers -= 1
                if not self._servers:
                    self._last_left.set()


HTTP_THREAD = HttpThread()
"""The one of this process, as NiceGUI's app is."""
