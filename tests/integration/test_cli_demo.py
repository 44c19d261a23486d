"""`cangate demo` that is told to stop, or cannot start its service."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.simulation.broker import LOOPBACK, RunningBroker
from schemas.settings import Settings
from service.cli import demo_line
from service.errors import UsageError
from tests.support.cli import CommandLine

NOTHING = "demo: 0 parts, 0 ok, 0 damaged, 0 error, 0 gate mismatches"


class Line:
    """What the demo starts, without training and broker; stopped says what has come to its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stopped: list[str] = []
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(demo_line.DemoLine, "train", lambda _: None)
        monkeypatch.setattr(demo_line, "start_broker", self._broker)

    def serve(self, serve: Callable[..., Any]) -> None:
        """Take the place of the service."""
        self._monkeypatch.setattr(demo_line, "serve", serve)

    @asynccontextmanager
    async def _broker(self) -> AsyncIterator[RunningBroker]:
        try:
            yield RunningBroker("embedded", LOOPBACK, 1, "3.1.1")
        finally:
            self.stopped.append("broker")


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    """A demo whose service is still to be given."""
    return Line(monkeypatch)


@pytest.mark.parametrize(
    ("number", "parts", "status", "word"),
    [
        (signal.SIGINT, "0", 0, None),
        (signal.SIGINT, "30", 130, "interrupted"),
        (signal.SIGTERM, "30", 143, "terminated"),
        (signal.SIGHUP, "30", 129, "hung up"),
    ],
)
def test_demo_is_told_to_stop_while_its_service_starts(
    cangate: CommandLine, line: Line, number: signal.Signals, parts: str, status: int, word: str | None
) -> None:
    """The service, which may still say that it has started, ends first, then the broker; 0 parts have no end."""

    async def serve(_: Settings, stop: asyncio.Event, *, on_started: Callable[[object], None], **__: object) -> None:
        os.kill(os.getpid(), number)
        await stop.wait()
        on_started(SimpleNamespace(hmi=None))
        line.stopped.append("service")

    line.serve(serve)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        done = cangate("demo", "--parts", parts)
    finally:
        signal.signal(signal.SIGHUP, before)
    complaint = "" if word is None else f"cangate: {word}\n"
    assert (done.status, done.stderr, done.stdout.splitlines()[-1]) == (status, complaint, NOTHING)
    assert line.stopped == ["service", "broker"]


def test_demo_does_not_heed_the_settings_of_a_plant(
    cangate: CommandLine, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its broker, station, journal and model are its own, whatever the environment says of the plant's."""
    plant = {"MQTT__HOST": "broker.plant", "MQTT__PORT": "abc", "STATION__ID": "line1", "MODEL__NAME": "canister"}
    for key, value in (plant | {"JOURNAL__URL": "sqlite:////srv/journal.sqlite"}).items():
        monkeypatch.setenv(f"CANGATE_{key}", value)
    given: list[Settings] = []

    async def serve(settings: Settings, *_: object, **__: object) -> None:
        given.append(settings)
        raise UsageError("enough")

    line.serve(serve)
    assert cangate("demo").one_line_error() == "cangate: enough"
    (settings,) = given
    assert (settings.mqtt.host, settings.mqtt.port, settings.station.id) == (LOOPBACK, 1, demo_line.NAME)
    assert "/cangate-demo-" in settings.journal.url
    assert settings.model.name == demo_line.NAME


def test_demo_says_why_its_service_does_not_start(cangate: CommandLine, line: Line) -> None:
    """In the one line that the service has for it."""

    async def serve(*_: object, **__: object) -> None:
        raise UsageError("http.port: taken")

    line.serve(serve)
    assert cangate("demo").one_line_error() == "cangate: http.port: taken"
    assert line.stopped == ["broker"]


def test_demo_whose_service_ends_at_once_fails(cangate: CommandLine, line: Line) -> None:
    """Without a reason of its own."""

    async def serve(*_: object, **__: object) -> None:
        pass

    line.serve(serve)
    done = cangate("demo")
    assert (done.status, done.stderr) == (1, "cangate: the service ended before it had started\n")
