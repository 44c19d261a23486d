"""The door of the HTTP server: who may ask, in whose name, and what a browser may do with the answer."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import ssl
from urllib.parse import urlsplit

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.accounts import PasswordBook
from adapters.hmi.connections import is_spare
from adapters.secret_files import reason, warn_where_others_read
from adapters.telemetry import Metrics
from schemas.settings import HttpSettings, is_loopback
from service.errors import UsageError

log = structlog.get_logger(__name__)

# Vue compiles templates in the browser, hence eval; nothing may come from, or be sent to, another host
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
_NO_LOGIN = "/healthz"
"""What a supervisor asks; it tells no more than that the process lives."""

_PROBES = frozenset({_NO_LOGIN, "/readyz", "/metrics"})
"""What is answered however many connections there are."""


class SecurityMiddleware:
    """Lets a request through to `site` or answers it, and adds the security headers to every answer.

    - The host that a browser asked for must be an address, a name without a dot, this machine's own, or listed in
      `http.hosts`: a page on the web may give its own name our address, and would then be the same origin as we.
    - A request that a page of another origin makes for its visitor may read nothing and opens no socket.
    - Where all places are taken, only the probes are answered.
    - With `http.users_file` and `anonymous = false` everything but `/healthz` wants a user name and a password.

    Args:
        site: the page and the API.
        settings: who may ask.
        metrics: counts who was refused.

    Raises:
        UsageError: nobody could log in, or the users_file cannot be used.
    """

    def __init__(self, site: ASGIApp, settings: HttpSettings, metrics: Metrics) -> None:
        self._site = site
        self._metrics = metrics
        self._hosts = frozenset(host.lower() for host in (settings.host, *settings.hosts))
        self._book = password_book(settings)
        if self._book is not None and settings.cert_file is None and not is_loopback(settings.host):
            log.warning("http_passwords_in_the_clear", host=settings.host, better="http.cert_file and http.key_file")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or one socket."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [*message.get("headers", ())]
                if all(name != b"cache-control" for name, _ in given):
                    given.append((b"cache-control", b"no-store"))  # what it says holds now
                message["headers"] = [*given, *_HEADERS]
            await send(message)

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refusal = await self._refusal(scope, headers)
        if refusal is None:
            await self._site(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: 403
        else:
            await _answer(send_with_headers, *refusal)

    async def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        """Return status and reason where the request is refused."""
        host = headers.get(b"host", "")
        if not self._is_ours(host):
            self._metrics.refused.labels("http", "foreign_host").inc()
            return 421, "this host name is not one of ours; see http.hosts"
        origin = headers.get(b"origin")
        acts = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if acts and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            self._metrics.refused.labels("http", "foreign_origin").inc()
            return 403, "the request comes from a page of another origin"
        if is_spare(scope) and scope["path"] not in _PROBES:
            self._metrics.refused.labels("http", "too_many_connections").inc()
            return 503, "too many connections; come again later"
        if self._book is None or scope["path"] == _NO_LOGIN:
            return None
        name, password = _credentials(headers.get(b"authorization", ""))
        if name and await self._book.check(name, password, peer=str((scope.get("client") or ("unknown",))[0])):
            return None
        return 401, "a user name and a password are needed"

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if not name or name in self._hosts or "." not in name:
            # HTTP/1.0 names none; a name without a dot means a machine of this network, whoever rules the web
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def password_book(settings: HttpSettings) -> PasswordBook | None:
    """Return who may log in, None where nobody is asked who he is.

    Raises:
        UsageError: nobody could log in, or the users_file cannot be used.
    """
    # a file that is named must be one, whether or not anybody is asked
    book = None if settings.users_file is None else PasswordBook(settings.users_file, key="http.users_file")
    if settings.anonymous:
        return None
    if book is None:
        raise UsageError("http: nobody could log in: anonymous = false needs a users_file with users")
    if not book:
        raise UsageError(f"http: nobody could log in: {settings.users_file} has no users")
    return book


def tls_context(settings: HttpSettings) -> ssl.SSLContext | None:
    """Return what to secure connections with, None for plain HTTP.

    Raises:
        UsageError: certificate and key are set and cannot be used.
    """
    if (settings.cert_file is None) != (settings.key_file is None):
        raise UsageError("http: cert_file and key_file belong together")
    if settings.cert_file is None or settings.key_file is None:
        return None
    warn_where_others_read("http.key_file", settings.key_file)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # an empty password instead of a prompt on the terminal
        tls.load_cert_chain(settings.cert_file, settings.key_file, password="")
    except OSError as exc:  # ssl.SSLError is one
        raise UsageError(f"http.cert_file {settings.cert_file} with {settings.key_file}: {reason(exc)}") from exc
    return tls


def _credentials(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return name, password


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *([(b"www-authenticate", b'Basic realm="cangate", charset="UTF-8"')] if status == 401 else []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
