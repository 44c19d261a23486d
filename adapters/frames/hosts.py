"""Frames over http from allow-listed hosts: one request, one deadline, one answer of bounded size."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from functools import cached_property

import httpcore
import httpx

from schemas.settings import ImageSettings
from service.errors import FrameMissing, FrameRefused, UsageError, one_line

_PORTS = {"http": 80, "https": 443}
_HEADERS = (
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
    ("User-Agent", "cangate"),
)
_RESOLVING = threading.BoundedSemaphore(8)
"""Names being looked up at a time: a resolver that hangs holds a thread for as long as it pleases."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ImageHosts:
    """The hosts that frames may be fetched from.

    A host is allowed by its name or address, with or without a port. A name is looked up once and each of its addresses
    judged before one is connected to: whoever rules the name must not send us to a machine behind the firewall. Names
    of the plant's own machines therefore need their network in `images.http_networks`. The addresses that are allowed
    are tried in turn.
    """

    def __init__(self, settings: ImageSettings) -> None:
        self._hosts = frozenset(host.lower() for host in settings.http_hosts)
        self._networks = settings.http_networks
        self._timeout_s = settings.http_timeout_s
        self._max_bytes = settings.max_bytes
        self._ca_file = settings.http_ca_file
        if self._ca_file is not None:
            _ = self._tls  # a file that cannot be used is said at start

    def fetch(self, uri: str, *, until: float = math.inf) -> bytes:
        """Return what the host answers, by `until` on the monotonic clock. Raises FrameMissing or FrameRefused."""
        timeout_s = min(self._timeout_s, until - time.monotonic())
        deadline = _Deadline(timeout_s)
        try:
            url = httpx.URL(uri)
            host, port = url.host.rstrip("."), url.port or _PORTS[url.scheme]
        except (httpx.InvalidURL, ValueError, KeyError) as exc:
            raise FrameRefused(f"unusable image uri: {one_line(exc)}") from exc
        if url.userinfo:
            raise FrameRefused("the image uri carries a user name")
        shown = f"[{host}]" if ":" in host else host
        if not self._hosts & {shown, f"{shown}:{port}"}:
            raise FrameRefused("the image lies on a host that is not allowed")
        wire = _CheckedWire(self._addresses(host, port, deadline), deadline)
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        tls = self._tls if url.scheme == "https" else None
        try:
            with (
                httpcore.ConnectionPool(ssl_context=tls, network_backend=wire) as pool,
                pool.stream("GET", target, headers=_HEADERS) as response,
            ):
                return self._body(response)
        except httpcore.TimeoutException as exc:
            raise FrameMissing(f"the image took longer than {max(0.0, round(timeout_s, 2)):g} s") from exc
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as exc:
            raise FrameMissing(f"the image could not be fetched: {one_line(exc)}") from exc

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError as exc:  # ssl.SSLError is one
            raise UsageError(f"images.http_ca_file {self._ca_file}: {exc.strerror or exc}") from exc

    def _body(self, response: httpcore.Response) -> bytes:
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if 300 <= response.status < 400:
            raise FrameRefused("the image's host answered with a redirect")
        if response.status != 200:
            raise FrameMissing(f"the image's host answered {response.status}")
        if headers.get(b"content-encoding", "identity") != "identity":
            raise FrameRefused("the image's host compressed its answer unasked")
        too_large = FrameRefused(f"the image is larger than {self._max_bytes} bytes")
        if int(headers.get(b"content-length", "0")) > self._max_bytes:  # digits: the parser saw to that
            raise too_large
        body = bytearray()
        for piece in response.iter_stream():
            body += piece
            if len(body) > self._max_bytes:
                raise too_large
        return bytes(body)

    def _addresses(self, host: str, port: int, deadline: _Deadline) -> list[str]:
        """Return the addresses that may be connected to, at least one. Raises FrameMissing or FrameRefused."""
        try:
            return [str(ipaddress.ip_address(host))]  # allowed by its own number
        except ValueError:
            pass
        found = _resolved(host, port, deadline)
        allowed = [str(address) for address in found if self._may_stand_behind(host, address)]
        if not allowed:
            raise FrameRefused(f"the image's host is at {found[0]}, which images.http_networks does not allow")
        return list(dict.fromkeys(allowed))

    def _may_stand_behind(self, name: str, address: Address) -> bool:
        address = getattr(address, "ipv4_mapped", None) or address
        return (
            address.is_global
            or (name == "localhost" and address.is_loopback)
            or any(address in network for network in self._networks)
        )


class _Deadline:
    """One point in time for all steps of a transfer: a host that drips byte after byte gains nothing."""

    def __init__(self, timeout_s: float) -> None:
        self._at = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Return the seconds that are left. Raises httpcore.ReadTimeout where none are."""
        left_s = self._at - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout
        return left_s


class _CheckedWire(httpcore.NetworkBackend):
    """Connects to one of the addresses that were judged, whatever the name may resolve to by now."""

    def __init__(self, addresses: Sequence[str], deadline: _Deadline) -> None:
        self._addresses = addresses
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - httpcore's signature
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - as above
        local_address: str | None = None,  # noqa: ARG002 - as above
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002 - as above
    ) -> httpcore.NetworkStream:
        """Connect to the first address that lets us; one that is silent leaves the others their share of the time."""
        *others, last = self._addresses
        for tried, address in enumerate(others):
            share = len(self._addresses) - tried
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return self._connected(address, port, self._deadline.left_s() / share)
        return self._connected(last, port, self._deadline.left_s())

    def _connected(self, address: str, port: int, timeout_s: float) -> httpcore.NetworkStream:
        return _BoundedStream(httpcore.SyncBackend().connect_tcp(address, port, timeout=timeout_s), self._deadline)


class _BoundedStream(httpcore.NetworkStream):
    """A connection whose every step ends with the deadline of the whole."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - httpcore's signature
        """Read."""
        return self._stream.read(max_bytes, self._deadline.left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - as above
        """Write."""
        self._stream.write(buffer, self._deadline.left_s())

    def close(self) -> None:
        """Close."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - as above
    ) -> httpcore.NetworkStream:
        """Go on encrypted; the certificate must be for the name in the uri."""
        return _BoundedStream(
            self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s()), self._deadline
        )

    def get_extra_info(self, info: str) -> object:
        """Return what httpcore asks about the socket."""
        return self._stream.get_extra_info(info)


def _resolved(host: str, port: int, deadline: _Deadline) -> list[Address]:
    """Return the addresses of a name, in the resolver's order. Raises FrameMissing."""
    answers: queue.SimpleQueue[list[Address]] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows])
        except (OSError, ValueError):  # ValueError: a label that is no name
            answers.put([])
        finally:
            _RESOLVING.release()

    if not _RESOLVING.acquire(blocking=False):
        raise FrameMissing("the image's host cannot be looked up: the resolver does not answer")
    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    try:
        found = answers.get(timeout=deadline.left_s())
    except (queue.Empty, httpcore.ReadTimeout) as exc:
        raise FrameMissing("the image's host cannot be looked up in time") from exc
    if not found:
        raise FrameMissing("the image's host has no address")
    return found
