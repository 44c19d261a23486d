"""The HTTP server: the operators' page, the API, probes and metrics, on one port."""

from __future__ import annotations

import asyncio
import errno
import socket
from importlib.metadata import version

import structlog
import uvicorn
from nicegui import app as nicegui_app
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.clock import SystemClock
from adapters.hmi.api import build_api
from adapters.hmi.bridge import Bridge
from adapters.hmi.connections import BoundedServer
from adapters.hmi.feed import LENGTH, Feed, read_verdicts
from adapters.hmi.middleware import SecurityMiddleware, tls_context
from adapters.hmi.part_page import SHOWN, Shown
from adapters.hmi.thread import HTTP_THREAD
from adapters.pictures import PictureStore
from adapters.telemetry import Metrics
from schemas.messages import Status
from schemas.settings import HttpSettings
from service.errors import JournalError, UsageError
from service.ports import Answer, CommandHandler, Intake, Journal, StationView, VerdictQuery

log = structlog.get_logger(__name__)

_PAGES = ("/", "/history", "/favicon.ico")

_GRACE_S = 1
"""How long requests in work may take once the server is told to stop."""


class HmiServer:
    """Shows the station to people and machines over HTTP.

    As a sink it only remembers the newest verdicts for the pages: it never blocks and never fails the line.

    Args:
        settings: where to listen.
        view: state of the station.
        journal: where verdicts are read from.
        pictures: where pictures are read from.
        station: id of the station, for the title.
        metrics: of this station, for `/metrics`.
        take_free_port: take another port where the configured one is in use; see `url`.
    """

    name = "http"
    fault: str | None = None

    def __init__(
        self,
        settings: HttpSettings,
        *,
        view: StationView,
        journal: Journal,
        pictures: PictureStore,
        station: str,
        metrics: Metrics | None = None,
        take_free_port: bool = False,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._take_free_port = take_free_port
        self._clock = SystemClock()
        self._feed = Feed()
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Future[None] | None = None
        self._port = settings.port
        self._bridge = Bridge(view, journal)
        self._metrics = metrics or Metrics()
        self._site = _Site(
            build_api(bridge=self._bridge, pictures=pictures, metrics=self._metrics, version=version("cangate")),
            Shown(station, self._feed, self._bridge, pictures),
        )

    @property
    def url(self) -> str:
        """Where the page is; known once `open` has returned."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{'http' if self._settings.cert_file is None else 'https'}://{host}:{self._port}"

    async def open(self) -> None:
        """Claim the port, show the newest verdicts of the past, and serve: probes are answered while a model loads.

        Raises:
            UsageError: the port cannot be had, or a file of certificates or users cannot be used.
        """
        await self._start()
        try:
            rows = await self._journal.page(VerdictQuery(limit=LENGTH))
        except JournalError as exc:
            log.warning("page_starts_empty", error=str(exc))
        else:
            self._feed.start(read_verdicts(reversed(rows)))

    async def run(self, intake: Intake, commands: CommandHandler) -> None:  # noqa: ARG002 - the page only shows
        """Stay with the server until cancelled; start it again where it has failed."""
        serving = self._serving or await self._start()
        try:
            await asyncio.shield(serving)
        finally:
            if serving.done():
                self._serving = None

    async def close(self) -> None:
        """Stop serving and let go of the port."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait({self._serving})
            self._serving = None

    async def publish(self, answer: Answer) -> None:
        """Remember a new verdict for the pages and count it."""
        self._metrics.observe(answer)
        if not answer.repeated:
            self._feed.add(answer, self._clock.monotonic())

    async def publish_status(self, status: Status, *, ready: bool) -> None:  # noqa: ARG002 - the page asks the view
        """Note the state of the station in the metrics."""
        self._metrics.observe_status(status)

    async def _start(self) -> asyncio.Future[None]:
        """Serve on the thread of the pages, which may have to end first where all servers of it have failed."""
        secured = SecurityMiddleware(self._site, self._settings, self._metrics)
        tls = tls_context(self._settings)
        listener = self._bind()
        self._bridge.attach()
        self._server = BoundedServer(
            uvicorn.Config(
                secured,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ws="websockets-sansio",  # the other one is deprecated and says so
                timeout_graceful_shutdown=_GRACE_S,
            ),
            tls=tls,
            metrics=self._metrics,
        )
        self._serving = asyncio.wrap_future(await asyncio.to_thread(HTTP_THREAD.serve, self._server, listener))
        log.info("page", url=self.url)
        return self._serving

    def _bind(self) -> socket.socket:
        host = self._settings.host
        try:
            listener = _listen(host, self._port)
        except OSError as exc:
            if not (self._take_free_port and exc.errno == errno.EADDRINUSE):
                reason, _, _ = (exc.strerror or str(exc)).partition(
                    " (while attempting"
                )  # it would say the address twice
                raise UsageError(f"http.port: {host}:{self._port} cannot be used: {reason}") from exc
            listener = _listen(host, 0)
        self._port = listener.getsockname()[1]
        return listener


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


class _Site:
    """Sends the page's traffic to NiceGUI and the rest to the API."""

    def __init__(self, api: ASGIApp, shown: Shown) -> None:
        self._api = api
        self._shown = shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        if scope.get("method") == "HEAD":  # answered as GET is; uvicorn keeps the body back
            scope = {**scope, "method": "GET"}
        if path in _PAGES or path.startswith("/_nicegui"):
            await nicegui_app({**scope, SHOWN: self._shown}, receive, send)
        else:
            raw_path = scope["raw_path"].decode("utf-8", errors="replace")
            await self._api({**scope, "path": raw_path}, receive, send)
