"""What a start would find out, found out before: for `cangate config check`."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from adapters.clock import SystemClock
from adapters.frames import AllowListedFrames
from adapters.hmi.middleware import password_book, tls_context
from adapters.journal import SqlJournal
from adapters.mqtt.access import read_access as read_broker_access
from adapters.opcua.client.access import read_access as read_plc_access
from adapters.opcua.client.nodes import read_mapping, written_nodes
from adapters.opcua.server.security import ServerSecurity
from schemas.settings import Settings
from service.cli.from_settings import device_of, registry_of
from service.errors import PackageError, UsageError
from service.model.package import read_package
from service.refusals import refuse_clashes, refuse_open_doors


def look_at_all(stations: Sequence[Settings]) -> Iterator[str]:
    """Look at the stations of one process; where there are several, each line names its own.

    Raises:
        UsageError: a start would be refused, or two of them want the same for themselves.
    """
    refuse_clashes(stations, written_nodes)
    for settings in stations:
        named = f"{settings.station.id}: " if len(stations) > 1 else ""
        try:
            for note in look_at(settings):
                yield f"{named}{note}"
        except UsageError as exc:
            raise UsageError(f"{named}{exc}") from exc


def look_at(settings: Settings) -> Iterator[str]:
    """Read every file and folder that the settings name; yield what a station can start with and will not work with.

    Nothing is connected to, listened on or written.

    Raises:
        UsageError: a start would be refused.
    """
    station = settings.station.id
    refuse_open_doors(settings)
    AllowListedFrames(settings.images)
    journal = SqlJournal(settings.journal, station=station, clock=SystemClock())
    _refuse_unwritable("journal", journal.folder)
    _refuse_unwritable("images.store", settings.images.store if settings.images.keep else None)
    _refuse_unwritable("record.folder", settings.record.folder if settings.record.enabled else None)
    if settings.mqtt.enabled:
        read_broker_access(settings.mqtt, station=station)
    # a certificate that is missing is made at the start, by whoever the service runs as
    with tempfile.TemporaryDirectory(prefix="cangate-check-") as scratch:
        if settings.opcua.server.enabled:
            ServerSecurity.load(settings.opcua.server, Path(scratch))
        client = settings.opcua.client
        if client.endpoint:
            read_mapping(client, station=station)
            read_plc_access(client, client.endpoint, station=station, pki=Path(scratch))
    if settings.http.enabled:
        password_book(settings.http)
        tls_context(settings.http)
    device_of(settings)  # behind what is looked at in no time
    if not (settings.mqtt.enabled or settings.opcua.server.enabled or settings.opcua.client.endpoint):
        yield "neither mqtt nor opcua is on: no event can come"
    if not (settings.images.roots or settings.images.http_hosts):
        yield "images.roots and images.http_hosts are empty: only frames that come inside messages are judged"
    yield from _look_at_model(settings)


def _refuse_unwritable(key: str, folder: Path | None) -> None:
    """Refuse a folder that cannot be made or written to, as far as can be seen without doing so."""
    if folder is None:
        return
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise UsageError(f"{key}: cannot write {folder}: {there} is no folder that {getpass.getuser()} may write to")


def _look_at_model(settings: Settings) -> Iterator[str]:
    if not settings.model.name:
        yield "model.name is empty: every event is answered ERROR/model_unavailable until a model is activated"
        return
    try:
        read_package(registry_of(settings, None).resolve(settings.model.reference))
    except PackageError as exc:
        yield f"model: {exc}"
