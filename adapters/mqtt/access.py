"""From settings to everything that is needed to reach the broker; reads the files that the settings name."""

from __future__ import annotations

import secrets
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from adapters.mqtt.faults import handshake_fault
from adapters.secret_files import must_be_a_file, read_secret, reason, warn_where_others_read
from schemas.settings import MqttSettings, is_loopback
from service.errors import UsageError

log = structlog.get_logger(__name__)

_SHARED_SESSION_EXPIRY_S = 5
"""Long enough for a restart, short enough for the others of a share group.

While the session of a dead worker lives, mosquitto 2.0.11 goes on giving it its share of new events; when it ends, what
waited there is gone. Events that the worker had accepted are in its journal and are answered when it is back.
"""

_RESTART_S = 60
"""A session that lives for less may be gone when a service that was told to stop is back."""

_WELCOME_S = 0.3


@dataclass(frozen=True, slots=True)
class BrokerAccess:
    """How to reach a broker and who to be there.

    session_expiry_s: how long the broker keeps what we have not acknowledged; 3.1.1 knows only for ever (> 0) and not
    at all (0).
    warnings: log what is unwise about it; said once it is used, for a start that fails has one line to say.
    """

    host: str
    port: int
    client_id: str
    protocol: Literal["5", "3.1.1"] = "5"
    keepalive_s: int = 15
    session_expiry_s: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    warnings: tuple[Callable[[], None], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def outlives_a_restart(self) -> bool:
        """Tell whether the broker surely keeps what is not acknowledged until the service is back."""
        return self.session_expiry_s >= _RESTART_S


class BrokerSocket(ssl.SSLSocket):
    """A TLS connection that says in plain words why it failed, and closes itself; paho does neither."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands. Raises ConnectionError with one clear line."""
        try:
            super().do_handshake(block)
            if self.version() == "TLSv1.3":
                self._hear_whether_we_are_welcome()
        except OSError as exc:  # ssl.SSLError is one
            self.close()
            raise ConnectionError(handshake_fault(exc)) from exc

    def _hear_whether_we_are_welcome(self) -> None:
        """Wait for the broker's word on our certificate: in TLS 1.3 it comes after the handshake, as ticket or alert.

        What we would send meanwhile makes it reset the connection, and the alert is lost.
        """
        timeout_s = self.gettimeout()
        select.select([self], [], [], _WELCOME_S)
        self.setblocking(False)
        with suppress(ssl.SSLWantReadError):  # a ticket, or nothing: no broker speaks before it is spoken to
            self.recv(1)
        self.settimeout(timeout_s)


def read_access(settings: MqttSettings, *, station: str, worker: str = "") -> BrokerAccess:
    """Return how to reach the broker. Raises UsageError where a file cannot be used, with its name.

    worker: what tells the workers of a share group on one machine apart, the same at each start.
    """
    if not settings.host or any(character.isspace() or not character.isprintable() for character in settings.host):
        raise UsageError(f"mqtt.host {settings.host!r} is no name or address of a broker")
    password = _password(settings)
    if password is not None and not settings.username:
        raise UsageError("mqtt.password is set but mqtt.username is empty")
    return BrokerAccess(
        host=settings.host,
        port=settings.port,
        client_id=settings.client_id or _client_id(station, settings.share_group, worker),
        protocol=settings.protocol,
        keepalive_s=settings.keepalive_s,
        session_expiry_s=_session_expiry_s(settings),
        username=settings.username or None,
        password=password,
        tls=_tls_context(settings),
        warnings=tuple(_warnings(settings, password)),
    )


def guest_access(settings: MqttSettings, *, station: str, role: str) -> BrokerAccess:
    """Return how to reach the station's broker beside it, with nothing kept there afterwards. Raises UsageError.

    role: begins the client id, which no other guest has.
    """
    client_id = f"cangate-{role}-{secrets.token_hex(4)}"
    return replace(read_access(settings, station=station), client_id=client_id, session_expiry_s=0)


def _warnings(settings: MqttSettings, password: str | None) -> Iterator[Callable[[], None]]:
    for key, path in (("mqtt.password_file", settings.password_file), ("mqtt.key_file", settings.key_file)):
        if path is not None:
            yield partial(warn_where_others_read, key, path)
    if not settings.tls and (settings.ca_file or settings.cert_file or settings.key_file):
        yield partial(log.warning, "mqtt_certificates_unused", reason="mqtt.tls is false")
    if is_loopback(settings.host):
        return
    if password is not None and not settings.tls:
        yield partial(log.warning, "mqtt_password_in_the_clear", broker=settings.host, better="mqtt.tls = true")
    if password is None and settings.cert_file is None:
        risk = "whoever reaches the broker may say anything"
        yield partial(log.warning, "mqtt_without_login", broker=settings.host, risk=risk)


def _client_id(station: str, share_group: str, worker: str) -> str:
    # the workers of a share group must not push each other out, and each must find its session again after a restart
    names = ("cangate", station, socket.gethostname(), worker) if share_group else ("cangate", station)
    return "-".join(filter(None, names))


def _session_expiry_s(settings: MqttSettings) -> int:
    if not settings.share_group:
        return settings.session_expiry_s
    # 3.1.1 knows only for ever, and a dead worker would be given its share of new events for ever
    return min(settings.session_expiry_s, _SHARED_SESSION_EXPIRY_S) if settings.protocol == "5" else 0


def _password(settings: MqttSettings) -> str | None:
    if settings.password is not None:
        return settings.password.get_secret_value()
    return None if settings.password_file is None else read_secret("mqtt.password_file", settings.password_file)


def _tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    if settings.tls and settings.key_file is not None and settings.cert_file is None:
        raise UsageError("mqtt.key_file is set but mqtt.cert_file is not")
    for key, path in (
        ("ca_file", settings.ca_file),
        ("cert_file", settings.cert_file),
        ("key_file", settings.key_file),
    ):
        if path is not None:
            _must_be_readable(f"mqtt.{key}", path)
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as exc:  # ssl.SSLError is one
        raise UsageError(f"mqtt.ca_file {settings.ca_file}: {reason(exc)}") from exc
    context.sslsocket_class = BrokerSocket
    if settings.cert_file is not None:
        try:
            # an empty password instead of a prompt on the terminal: a service has nobody who could type
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except OSError as exc:
            named = f"{settings.cert_file}" + (f" with {settings.key_file}" if settings.key_file else "")
            raise UsageError(f"mqtt.cert_file {named}: {_unreadable(exc)}") from exc
    return context


def _unreadable(exc: OSError) -> str:
    # OpenSSL says no more of a key that is missing or encrypted
    return "no certificate, or no key that needs no password (mqtt.key_file)" if "PEM lib" in str(exc) else reason(exc)


def _must_be_readable(key: str, path: Path) -> None:
    must_be_a_file(key, path)
    try:
        with path.open("rb"):
            pass
    except OSError as exc:
        raise UsageError(f"{key} {path}: {reason(exc)}") from exc
