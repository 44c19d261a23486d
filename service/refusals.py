"""What settings may not ask for, seen before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from schemas.settings import OpcUaClientSettings, Settings, is_loopback
from service.errors import UsageError
from service.files import real_path

WrittenNodes = Callable[[OpcUaClientSettings, str], Sequence[str]]
"""Which nodes of its PLC a station writes; the client's adapter knows."""

_PLAIN = "None"


def refuse_clashes(stations: Sequence[Settings], written_nodes: WrittenNodes) -> None:
    """Refuse stations that would take each other's events, connections, results or files, or want another process."""
    first = stations[0]
    taken: set[tuple[str, str]] = set()
    for settings in stations:
        for key, value in _for_itself(settings, written_nodes):
            if (key, value) in taken:
                raise UsageError(f"{key}: {value} is given to two stations; each needs its own")
            taken.add((key, value))
        if settings.log != first.log:
            raise UsageError("log: holds for the whole process, and the stations do not agree on it")
        if settings.compute.threads != first.compute.threads:
            raise UsageError("compute.threads: holds for the whole process, and the stations do not agree on it")


def _for_itself(settings: Settings, written_nodes: WrittenNodes) -> Iterator[tuple[str, str]]:
    """Yield what no other station of the process may have: key and value, each once."""
    mqtt, server, client, http = settings.mqtt, settings.opcua.server, settings.opcua.client, settings.http
    yield "station.id", settings.station.id
    yield "images.store", str(real_path(settings.images.store))
    if mqtt.enabled and mqtt.client_id:
        yield "mqtt.client_id", f"{mqtt.client_id} at {mqtt.host}:{mqtt.port}"
    if http.enabled:
        yield "http.port", f"{http.host}:{http.port}"
    if server.enabled:
        yield "opcua.server.port", f"{server.host}:{server.port}"
    if settings.journal.url.startswith("sqlite"):
        yield "journal.url", journal_file(settings.journal.url)
    if settings.record.enabled:
        yield "record.folder", str(real_path(settings.record.folder))
    if client.endpoint:
        nodes = written_nodes(client, settings.station.id)
        yield from (("opcua.client", f"{node} at {client.endpoint}") for node in nodes)


def journal_file(url: str) -> str:
    """Return the URL with the whole path of its file, however it is spelled; one that names no file as it is."""
    driver, _, rest = url.partition(":///")
    path = rest.partition("?")[0]
    if not path or path == ":memory:" or path.startswith("file:"):
        return url
    return f"{driver.partition('+')[0]}:///{real_path(Path(path))}"


def refuse_open_doors(settings: Settings) -> None:
    """Refuse to listen beyond this machine without authentication, unless that was asked for in so many words."""
    for name, listener in (("http", settings.http), ("opcua.server", settings.opcua.server)):
        told_so = "anonymous" in listener.model_fields_set
        if listener.enabled and listener.anonymous and not told_so and not is_loopback(listener.host):
            raise UsageError(
                f"{name}.host: {listener.host} is not this machine; to let anybody in, say {name}.anonymous = true"
            )
    opcua = settings.opcua.server
    in_the_clear = opcua.users_file is not None and _PLAIN in opcua.security and not is_loopback(opcua.host)
    if opcua.enabled and in_the_clear and "security" not in opcua.model_fields_set:
        raise UsageError(
            "opcua.server.security: None sends passwords in the clear; name a policy that encrypts, or say None"
        )
